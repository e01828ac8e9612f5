//! The memory limit of workers.

use std::sync::OnceLock;

use multiproc::{Pool, Process};

use super::square;
use crate::support::{Outcome, trials};

trials![
    a_task_that_wants_too_much_memory_fails_with_the_limit,
    the_memory_limit_holds_for_the_initializer_and_for_children,
    a_memory_limit_that_no_worker_can_do_with_is_one_clear_error,
];

const MIB: u64 = 1024 * 1024;

/// Uses this many MiB of memory.
fn use_memory(mebibytes: u64) -> u64 {
    let bytes = vec![7_u8; usize::try_from(mebibytes * MIB).unwrap()];
    std::hint::black_box(&bytes).len() as u64 / MIB
}

/// Whether this many MiB of memory can be allocated; touches none of it.
fn can_have(mebibytes: u64) -> bool {
    let bytes = Vec::<u8>::new().try_reserve(usize::try_from(mebibytes * MIB).unwrap());
    bytes.is_ok()
}

fn a_task_that_wants_too_much_memory_fails_with_the_limit() -> Outcome {
    let pool = Pool::builder().workers(2).memory_limit(64 * MIB).build()?;
    let outcomes = pool.map_results(use_memory, [1, 2, 500, 3, 30])?;
    assert_eq!(outcomes.iter().flatten().copied().collect::<Vec<_>>(), [1, 2, 3, 30]);
    let error = outcomes[2].as_ref().unwrap_err();
    let pid = error.pid().unwrap();
    assert_eq!(
        error.to_string(),
        format!("worker {pid} was killed by SIGABRT while running task 2; its memory was limited to 64 MiB")
    );
    assert_eq!(error.signal(), Some(6));
    assert_eq!(pool.map(use_memory, [4, 5])?, [4, 5]);
    Ok(())
}

static COULD_HAVE: OnceLock<bool> = OnceLock::new();

fn the_memory_limit_holds_for_the_initializer_and_for_children() -> Outcome {
    let look = || COULD_HAVE.set(can_have(500)).unwrap();
    let pool = Pool::builder().workers(1).memory_limit(64 * MIB).initializer(look, ()).build()?;
    assert!(!pool.apply(|| *COULD_HAVE.get().unwrap(), ())?);
    let child_can_have = |mebibytes| Process::spawn(can_have, (mebibytes,))?.join();
    assert!(!pool.apply(child_can_have, (500,))??);
    assert!(pool.apply(child_can_have, (30,))??);
    assert!(can_have(500), "this process has no limit");
    Ok(())
}

fn a_memory_limit_that_no_worker_can_do_with_is_one_clear_error() -> Outcome {
    let error = Pool::builder().memory_limit(0).build().unwrap_err();
    assert!(error.to_string().contains("`memory_limit` must be at least 1"), "{error}");
    let pool = Pool::builder().workers(2).memory_limit(4096).build()?;
    let error = pool.map(square, 0..3).unwrap_err();
    assert!(error.to_string().contains("memory limit 4 KiB is too low"), "{error}");
    let hungry = || assert_eq!(use_memory(500), 500);
    let pool = Pool::builder().workers(2).memory_limit(64 * MIB).initializer(hungry, ()).build()?;
    let text = pool.map(square, 0..3).unwrap_err().to_string();
    let end = "was killed by SIGABRT before it was ready for work; its memory was limited to 64 MiB";
    assert!(text.ends_with(end), "{text}");
    Ok(())
}

//! Regressions: defects that earlier versions had.

use std::io::{self, PipeReader, Write};
use std::sync::LazyLock;
use std::thread;
use std::time::Duration;

use multiproc::queue::{Receiver, Sender, bounded};
use multiproc::{Error, Pool, Process, Result, SharedSlice, pipe};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc::RLIM_INFINITY;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{Uid, dup2_stdout, setuid};
use serde::{Deserialize, Deserializer, Serialize};

use crate::support::{Latch, Outcome, TEST_TIMEOUT, alone, block, trials};

trials![
    an_answer_is_received_though_its_sender_left_questions_unread,
    a_pool_whose_initializer_fails_can_be_joined,
    a_pool_without_a_shutdown_timeout_can_be_dropped,
    a_closed_pool_replaces_a_worker_that_dies,
    a_pool_keeps_no_copy_of_what_it_hands_over,
    a_pool_that_was_joined_keeps_nothing_of_its_initializer,
    a_result_whose_deserialize_panics_harms_no_other,
    a_child_that_has_become_another_user_can_be_killed,
    a_grandchild_that_has_become_another_user_dies_with_its_parent,
    a_child_that_has_ended_has_an_exit_code,
    a_shared_slice_can_be_made_after_a_large_item,
    an_item_beyond_the_limit_on_file_sizes_is_an_error,
    an_idle_worker_takes_an_item_of_any_size_of_any_function,
    an_idle_worker_takes_a_large_item_after_others_were_withdrawn,
    a_task_of_an_inline_pool_submits_another,
];

fn an_answer_is_received_though_its_sender_left_questions_unread() -> Outcome {
    let (ours, theirs) = pipe::<u32, u32>()?;
    ours.send(1)?;
    theirs.send(2)?;
    drop(theirs); // with the 1 still in it
    assert_eq!(ours.recv()?, 2);
    assert!(ours.recv().unwrap_err().is_disconnected());
    Ok(())
}

fn a_pool_whose_initializer_fails_can_be_joined() -> Outcome {
    let pool = Pool::builder().workers(2).initializer(|| -> () { std::process::exit(3) }, ()).build()?;
    assert!(pool.map(|number: u32| number, 0..3).is_err());
    pool.join();
    Ok(())
}

fn a_pool_without_a_shutdown_timeout_can_be_dropped() -> Outcome {
    let pool = Pool::builder().workers(1).shutdown_timeout(Duration::MAX).build()?;
    assert_eq!(pool.apply(|| 1, ())?, 1);
    Ok(())
}

/// The first task waits for the third, whose worker dies with the second.
fn a_closed_pool_replaces_a_worker_that_dies() -> Outcome {
    let pool = Pool::new(2)?;
    let (sender, receiver) = bounded::<u32>(1)?;
    let waits = pool.submit(|receiver: Receiver<u32>| receiver.recv(), (receiver,))?;
    let dies = pool.submit(|| -> () { std::process::abort() }, ())?;
    let brings = pool.submit(|sender: Sender<u32>| sender.send(7).is_ok(), (sender,))?;
    pool.close();
    assert_eq!(dies.get().unwrap_err().signal(), Some(Signal::SIGABRT as i32));
    assert!(brings.get()?);
    assert_eq!(waits.get()??, 7);
    Ok(())
}

/// The queue ends while the task that held its last sender still runs.
fn a_pool_keeps_no_copy_of_what_it_hands_over() -> Outcome {
    let pool = Pool::new(1)?;
    let (sender, receiver) = bounded::<u32>(4)?;
    let (latch, theirs) = pipe()?;
    let task = pool.submit(
        |sender: Sender<u32>, latch: Latch| {
            let sent = sender.send(1).is_ok();
            drop(sender);
            block(latch);
            sent
        },
        (sender, theirs),
    )?;
    assert_eq!(receiver.recv_timeout(TEST_TIMEOUT)?, 1);
    assert!(receiver.recv_timeout(TEST_TIMEOUT).unwrap_err().is_disconnected());
    drop(latch);
    assert!(task.get()?);
    Ok(())
}

fn a_pool_that_was_joined_keeps_nothing_of_its_initializer() -> Outcome {
    let (sender, receiver) = bounded::<u32>(4)?;
    let greet = |sender: Sender<u32>| drop(sender.send(1));
    let pool = Pool::builder().workers(1).initializer(greet, (sender,)).build()?;
    let task = pool.submit(|| 3, ())?;
    pool.join();
    assert_eq!(receiver.recv_timeout(TEST_TIMEOUT)?, 1);
    assert!(receiver.recv_timeout(TEST_TIMEOUT).unwrap_err().is_disconnected());
    assert_eq!(task.get()?, 3);
    Ok(())
}

#[derive(Debug, PartialEq, Serialize)]
struct Touchy(u32);

impl<'de> Deserialize<'de> for Touchy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = u32::deserialize(deserializer)?;
        assert_ne!(number, 3, "not a three");
        Ok(Self(number))
    }
}

fn a_result_whose_deserialize_panics_harms_no_other() -> Outcome {
    let outcomes = Pool::builder().workers(2).chunk_size(6).build()?.map_results(Touchy, 0..6)?;
    for (number, outcome) in (0..).zip(outcomes) {
        match outcome {
            Ok(touchy) => assert_eq!(touchy, Touchy(number)),
            Err(error) => {
                assert_eq!((number, error.index()), (3, Some(3)));
                assert!(error.to_string().contains("not a three"), "{error}");
            }
        }
    }
    Ok(())
}

/// Becomes an unprivileged user, which only root can, and blocks.
fn block_unprivileged(latch: Latch) {
    if Uid::effective().is_root() {
        setuid(Uid::from_raw(65_534)).unwrap();
    }
    block(latch);
}

fn a_child_that_has_become_another_user_can_be_killed() -> Outcome {
    let (latch, theirs) = pipe()?;
    let child = Process::spawn(block_unprivileged, (theirs,))?;
    assert!(latch.poll(TEST_TIMEOUT)?);
    child.kill()?;
    assert_eq!(child.join().unwrap_err().signal(), Some(Signal::SIGKILL as i32));
    Ok(())
}

/// The grandchild holds the only other end of the latch, so the latch ends with the grandchild.
fn a_grandchild_that_has_become_another_user_dies_with_its_parent() -> Outcome {
    let (latch, theirs) = pipe()?;
    let start = |latch: Latch| {
        let _grandchild = Process::spawn(block_unprivileged, (latch,)).unwrap();
        thread::sleep(TEST_TIMEOUT);
    };
    let child = Process::spawn(start, (theirs,))?;
    assert!(latch.poll(TEST_TIMEOUT)?, "the grandchild did not begin");
    latch.recv()?;
    child.kill()?;
    assert!(latch.poll(TEST_TIMEOUT)?, "the grandchild lives on");
    assert!(latch.recv().unwrap_err().is_disconnected());
    Ok(())
}

fn a_child_that_has_ended_has_an_exit_code() -> Outcome {
    for _ in 0..50 {
        let child = Process::spawn(|| (), ())?;
        while child.is_alive() {
            thread::yield_now();
        }
        assert_eq!(child.exit_code(), Some(0));
    }
    Ok(())
}

/// An empty value, after the pool has cached memory.
fn a_shared_slice_can_be_made_after_a_large_item() -> Outcome {
    alone(|| {
        let pool = Pool::new(1)?;
        assert_eq!(pool.apply(|item: Vec<u8>| item, (vec![1; 1024 * 1024],))?.len(), 1024 * 1024);
        let slice = SharedSlice::from_slice(&vec![7_u8; 512 * 1024])?;
        let sum = |bytes: SharedSlice<u8>| bytes.iter().map(|&byte| u64::from(byte)).sum::<u64>();
        assert_eq!(pool.apply(sum, (slice,))?, 7 * 512 * 1024);
        Ok(())
    })
}

/// SIGXFSZ would end the program, also where memory is cached.
fn an_item_beyond_the_limit_on_file_sizes_is_an_error() -> Outcome {
    alone(|| {
        let pool = Pool::new(1)?;
        let large = 512 * 1024;
        assert_eq!(pool.apply(|item: Vec<u8>| item, (vec![1; large],))?.len(), large);
        setrlimit(Resource::RLIMIT_FSIZE, 1024 * 1024, RLIM_INFINITY).unwrap();
        let error = pool.apply(|item: Vec<u8>| item.len(), (vec![1; 4 * large],)).unwrap_err();
        assert_eq!(error.os_error(), Some(Errno::EFBIG as i32), "{error}");
        assert_eq!(pool.apply(|item: Vec<u8>| item.len(), (vec![1; large],))?, large);
        Ok(())
    })
}

/// The header of another function's items took the room of the item after it, for ever.
fn an_idle_worker_takes_an_item_of_any_size_of_any_function() -> Outcome {
    let pool = Pool::new(1)?;
    for size in (0..34_000).step_by(500) {
        let item = vec![1_u8; size];
        let [first, other] = [
            pool.submit(|item: Vec<u8>| item.len(), (item.clone(),))?.get_timeout(TEST_TIMEOUT)?,
            pool.submit(|item: Vec<u8>| item.len() + 1, (item,))?.get_timeout(TEST_TIMEOUT)?,
        ];
        assert_eq!((first, other), (Some(size), Some(size + 1)), "{size} bytes");
    }
    Ok(())
}

/// The ring counted as full from before its restart on, since only results released what was passed.
fn an_idle_worker_takes_a_large_item_after_others_were_withdrawn() -> Outcome {
    alone(|| {
        let mut reader = full_standard_output().unwrap();
        let pool = Pool::builder().workers(1).chunk_size(4).build()?;
        let large = vec![1_u8; 25_000];
        let count = |item: Vec<u8>| item.len();
        assert_eq!(pool.apply(count, (large.clone(),))?, large.len());
        // The worker does not begin the second item while it cannot write the output of the first.
        let print = |number: u32| {
            print!("x");
            number
        };
        let mut results = pool.imap(print, 0..4);
        assert_eq!(results.next().transpose()?, Some(0));
        drop(results);
        thread::spawn(move || io::copy(&mut reader, &mut io::sink()));
        assert_eq!(pool.submit(count, (large.clone(),))?.get_timeout(TEST_TIMEOUT)?, Some(large.len()));
        Ok(())
    })
}

/// Makes a pipe without room the standard output of this process, and of those that it starts.
fn full_standard_output() -> io::Result<PipeReader> {
    let (reader, mut writer) = io::pipe()?;
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    while writer.write(&[b'.'; 4096]).is_ok() {}
    while writer.write(b".").is_ok() {}
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::empty()))?;
    dup2_stdout(&writer)?;
    Ok(reader)
}

/// The limit counted the task that submits, and nothing ends before its submission returns.
fn a_task_of_an_inline_pool_submits_another() -> Outcome {
    static POOL: LazyLock<Pool> =
        LazyLock::new(|| Pool::builder().inline(true).max_pending(1).build().unwrap());
    let outer = || Ok::<_, Error>(POOL.submit(|| 1, ())?.get()? + 1);
    assert_eq!(POOL.submit(outer, ())?.get()??, 2);
    Ok(())
}

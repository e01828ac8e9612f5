//! **Corrupted memory**: a task that writes out of bounds can write anything into the memory that pool and
//! workers share. Calls then end, with values or errors.

use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use multiproc::queue::bounded;
use multiproc::{Pool, Process, pipe};
use nix::sys::signal::Signal;
use tests::corrupter::{Corrupter, Mapping, identity, mappings};

use crate::kill_stress::{asleep, receive_one};
use crate::support::{Outcome, TEST_TIMEOUT, alone, blocked_child, eventually, send_signal, trials};

trials![
    a_pool_whose_wakeup_page_is_overwritten_can_be_dropped,
    a_pool_whose_wakeup_page_is_overwritten_replaces_a_worker_that_dies,
    results_of_several_calls_of_which_some_are_overwritten_are_values_or_errors,
    a_word_of_worker_rings_that_is_overwritten_when_nothing_runs_keeps_no_call_waiting,
    a_lock_that_a_living_process_seems_to_hold_is_taken_over_when_that_is_killed,
    a_pool_survives_memory_that_its_tasks_corrupt_1,
    a_pool_survives_memory_that_its_tasks_corrupt_2,
    a_pool_survives_memory_that_its_tasks_corrupt_3,
    a_pool_survives_memory_that_its_tasks_corrupt_4,
];

/// Whether this is the wake-up page (one page; worker rings are larger).
fn is_wakeup_page(mapping: &Mapping) -> bool {
    mapping.length == 4096
}

/// Overwrites some words of this worker's shared memory, again and again, from a thread that goes on when the
/// task is over.
fn keep_overwriting(is_wanted: fn(&Mapping) -> bool, offsets: Vec<u64>, word: u32, time: Duration) {
    let mappings: Vec<_> = mappings().into_iter().filter(is_wanted).collect();
    assert!(!mappings.is_empty());
    let corrupter = Corrupter::new(mappings, 0);
    thread::spawn(move || {
        let begun = Instant::now();
        while begun.elapsed() < time {
            for &offset in &offsets {
                corrupter.overwrite(offset, word);
            }
        }
    });
}

fn overwrite_wakeup_page(word: u32) {
    keep_overwriting(is_wakeup_page, vec![0, 4, 8], word, Duration::from_secs(20));
}

fn a_pool_whose_wakeup_page_is_overwritten_can_be_dropped() -> Outcome {
    let terminate = |pool: Pool| pool.terminate();
    for (word, end) in [(0, drop as fn(Pool)), (1, drop), (0, Pool::join), (u32::MAX, terminate)] {
        let pool = Pool::builder().workers(2).shutdown_timeout(Duration::from_millis(200)).build()?;
        pool.apply(overwrite_wakeup_page, (word,))?;
        thread::sleep(Duration::from_millis(20)); // the pool's thread sleeps
        let start = Instant::now();
        end(pool);
        assert!(start.elapsed() < Duration::from_secs(15), "it ends when nothing is overwritten any more");
    }
    Ok(())
}

fn a_pool_whose_wakeup_page_is_overwritten_replaces_a_worker_that_dies() -> Outcome {
    let pool = Pool::new(2)?;
    pool.apply(overwrite_wakeup_page, (0,))?;
    thread::sleep(Duration::from_millis(20));
    let pids = pool.worker_pids();
    send_signal(pids[1], Signal::SIGKILL);
    eventually("the worker is replaced", || {
        let now = pool.worker_pids();
        now.len() == 2 && !now.contains(&pids[1])
    });
    Ok(())
}

/// Behind this, at the start of the ring, lie results.
const RESULTS: u64 = 4096 + 1024 * 1024;

fn overwrite_results(millis: u64) {
    let offsets = (1..64).map(|number| RESULTS + 8 * number).collect();
    keep_overwriting(|mapping| !is_wakeup_page(mapping), offsets, u32::MAX, Duration::from_millis(millis));
    thread::sleep(Duration::from_millis(2)); // those behind it are submitted by then
}

fn echo(text: String) -> String {
    text
}

fn results_of_several_calls_of_which_some_are_overwritten_are_values_or_errors() -> Outcome {
    for _ in 0..30 {
        let pool = Pool::builder().workers(1).chunk_size(20).build()?; // the worker has all of them at once
        let mut first = pool.submit(overwrite_results, (20,))?;
        let tasks = (0..20).map(|number| pool.submit(echo, (number.to_string(),)));
        let mut tasks = tasks.collect::<multiproc::Result<Vec<_>>>()?;
        assert!(!matches!(first.get_timeout(TEST_TIMEOUT), Ok(None)));
        for task in &mut tasks {
            assert!(!matches!(task.get_timeout(TEST_TIMEOUT), Ok(None)), "it never comes to a result");
        }
        let text = "this is healthy".to_owned();
        let is_healthy = || pool.apply(echo, (text.clone(),)).is_ok_and(|echoed| echoed == text);
        eventually("the pool is healthy, when nothing is overwritten any more", is_healthy);
    }
    Ok(())
}

/// Overwrites one word as soon as this worker has nothing to do, or a moment later.
fn overwrite_once(offset: u64, word: u32) {
    let worker_rings: Vec<_> = mappings().into_iter().filter(|mapping| !is_wakeup_page(mapping)).collect();
    let corrupter = Corrupter::new(worker_rings, 0);
    thread::spawn(move || {
        thread::sleep(Duration::from_micros(300));
        corrupter.overwrite(offset, word);
    });
}

fn a_word_of_worker_rings_that_is_overwritten_when_nothing_runs_keeps_no_call_waiting() -> Outcome {
    let sweep = |word: u32| -> multiproc::Result<()> {
        for offset in (0..408).step_by(4).filter(|offset| offset % 128 < 36) {
            let pool = Pool::builder().workers(1).shutdown_timeout(Duration::from_millis(200)).build()?;
            let name = format!("{word:#x} at {offset}");
            tests::watched(&name, || {
                let _ = pool.apply(overwrite_once, (offset, word));
                for _ in 0..40 {
                    let _ = pool.map(echo, ["a", "b", "c"].map(str::to_owned));
                }
                drop(pool);
            });
        }
        Ok(())
    };
    thread::scope(|scope| {
        let sweeps = [0, 1, 3, u32::MAX].map(|word| scope.spawn(move || sweep(word)));
        sweeps.into_iter().try_for_each(|sweep| sweep.join().unwrap())
    })?;
    Ok(())
}

/// Where the lock of a queue's receivers lies in its memory: behind the area of its senders.
const RECEIVERS_LOCK: u64 = 256;

fn a_lock_that_a_living_process_seems_to_hold_is_taken_over_when_that_is_killed() -> Outcome {
    alone(|| {
        let (holder, _latch) = blocked_child()?;
        let (latch, theirs) = pipe()?;
        let before = mappings();
        let (sender, receiver) = bounded(10)?;
        let of_queue: Vec<_> = mappings().into_iter().filter(|mapping| !before.contains(mapping)).collect();
        assert_eq!(of_queue.len(), 1, "{of_queue:?}");
        sender.send(7)?;
        Corrupter::new(of_queue, 0).forge_holder(RECEIVERS_LOCK, identity(holder.pid()).unwrap());
        let held_up = receiver.recv_timeout(Duration::from_millis(50)).unwrap_err();
        assert!(held_up.is_timeout(), "{held_up}");
        let mut waiting = Process::spawn(receive_one, (receiver.clone(), theirs))?;
        asleep(&waiting, &latch)?;
        assert_eq!(receiver.len(), 1, "it is held up, too");
        holder.kill()?;
        assert_eq!(waiting.join_timeout(TEST_TIMEOUT)?, Some(Some(7)));
        sender.send(8)?;
        assert_eq!(receiver.recv()?, 8);
        Ok(())
    })
}

/// Runs a fixture in which tasks corrupt the memory of their pools, with fifty seeds.
fn rounds(first: u64) -> Outcome {
    let mut program = Command::new(env!("CARGO_BIN_EXE_corrupted_pool"));
    program.args([first.to_string(), (first + 50).to_string()]);
    let output = program.stdin(Stdio::null()).output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && output.stdout == b"50\n", "{}: {errors}", output.status);
    Ok(())
}

fn a_pool_survives_memory_that_its_tasks_corrupt_1() -> Outcome {
    rounds(0)
}

fn a_pool_survives_memory_that_its_tasks_corrupt_2() -> Outcome {
    rounds(1_000)
}

fn a_pool_survives_memory_that_its_tasks_corrupt_3() -> Outcome {
    rounds(2_000)
}

fn a_pool_survives_memory_that_its_tasks_corrupt_4() -> Outcome {
    rounds(3_000)
}

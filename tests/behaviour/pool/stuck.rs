//! Workers that are stuck, and callers that are not where one expects them: nothing waits that need not.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use multiproc::queue::{Receiver, Sender, bounded};
use multiproc::{Pool, Result, StartMethod};
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

use super::square;
use crate::support::{
    METHODS, Outcome, TEST_TIMEOUT, alone, eventually, printed_by, send_signal, trials, wait_for_state,
};

trials![
    a_small_task_behind_a_queue_end_keeps_no_end_open,
    a_worker_that_should_be_gone_and_is_not_is_replaced,
    worker_rings_that_were_full_and_are_empty_have_room,
    a_single_item_with_a_stopped_worker_goes_to_another,
    what_a_worker_is_given_before_it_is_ready_goes_to_another_if_it_stops,
    a_worker_begins_what_it_was_given_before_it_is_ready,
    a_task_that_was_done_unseen_is_cancelled_and_the_next_one_runs,
    what_lies_behind_a_slow_item_goes_to_others_whatever_else_happens,
    a_replacement_that_comes_up_too_late_breaks_no_pool,
    a_pool_seldom_wakes_up_while_a_long_task_runs_after_quick_ones,
    an_item_that_the_kernel_does_not_take_is_an_error_once,
    a_closed_pool_ends_though_a_worker_is_stopped_that_has_nothing_to_do,
];

/// Drops its own sender, and takes until there is no other.
fn drain(sender: Sender<u64>, receiver: Receiver<u64>) -> usize {
    drop(sender);
    receiver.into_iter().count()
}

fn a_small_task_behind_a_queue_end_keeps_no_end_open() -> Outcome {
    let pool = Pool::new(1)?;
    let (sender, receiver) = bounded(8)?;
    let mut draining = pool.submit(drain, (sender, receiver))?;
    let small = pool.submit(square, (7,))?;
    assert_eq!(draining.get_timeout(TEST_TIMEOUT)?, Some(0));
    assert_eq!(small.get()?, 49);
    Ok(())
}

extern "C" fn block_exit() {
    loop {
        thread::sleep(TEST_TIMEOUT);
    }
}

#[allow(unsafe_code)]
fn stay_at_exit(number: u64) -> u64 {
    // SAFETY: the function is one, and takes nothing.
    let failed = number == 0 && unsafe { libc::atexit(block_exit) } != 0;
    if failed { u64::MAX } else { number }
}

fn a_worker_that_should_be_gone_and_is_not_is_replaced() -> Outcome {
    // (A child of the fork server does not run what is registered for its exit.)
    let pool = Pool::builder().workers(1).max_tasks_per_worker(1).start_method(StartMethod::Spawn).build()?;
    let first = pool.submit(stay_at_exit, (0,))?;
    let mut second = pool.submit(stay_at_exit, (1,))?;
    assert_eq!(first.get()?, 0);
    assert_eq!(second.get_timeout(TEST_TIMEOUT)?, Some(1));
    Ok(())
}

fn worker_rings_that_were_full_and_are_empty_have_room() -> Outcome {
    fn number_of(_ballast: Vec<u8>, number: u32) -> u32 {
        number
    }
    let pool = Pool::builder().workers(1).chunk_size(100).build()?;
    pool.apply(square, (1,))?;
    let worker = pool.worker_pids()[0];
    send_signal(worker, Signal::SIGSTOP);
    wait_for_state(worker, 'T');
    let tasks: Vec<_> =
        (0..60).map(|number| pool.submit(number_of, (vec![1; 30_000], number))).collect::<Result<_>>()?;
    assert!(tasks[0].cancel(), "the worker is stopped");
    send_signal(worker, Signal::SIGCONT);
    for (number, mut task) in (0..).zip(tasks).skip(1) {
        assert_eq!(task.get_timeout(TEST_TIMEOUT)?, Some(number));
    }
    Ok(())
}

fn a_single_item_with_a_stopped_worker_goes_to_another() -> Outcome {
    let pool = Pool::new(2)?;
    // Both are up.
    eventually("both have run something", || {
        let pids = pool.map(|()| std::process::id(), [(); 16]).unwrap();
        pids.iter().any(|pid| *pid != pids[0])
    });
    let worker = pool.worker_pids()[0];
    send_signal(worker, Signal::SIGSTOP);
    wait_for_state(worker, 'T');
    for number in 0..4 {
        let mut task = pool.submit(square, (number,))?;
        assert_eq!(task.get_timeout(TEST_TIMEOUT)?, Some(number * number));
    }
    send_signal(worker, Signal::SIGCONT);
    Ok(())
}

fn what_a_worker_is_given_before_it_is_ready_goes_to_another_if_it_stops() -> Outcome {
    for method in METHODS {
        let lines = printed_by(env!("CARGO_BIN_EXE_slow_workers"), Some("worker"), method);
        assert_eq!(lines, ["[1, 4, 9]"], "{method:?}");
    }
    Ok(())
}

fn a_worker_begins_what_it_was_given_before_it_is_ready() -> Outcome {
    for method in METHODS {
        let lines = printed_by(env!("CARGO_BIN_EXE_slow_workers"), Some("parent"), method);
        assert_eq!(lines, ["true"], "{method:?}");
    }
    Ok(())
}

/// Repeated, since the pool's thread goes on at the same time, and may see the task's end first.
fn a_task_that_was_done_unseen_is_cancelled_and_the_next_one_runs() -> Outcome {
    for method in [METHODS; 5].into_iter().flatten() {
        let lines = printed_by(env!("CARGO_BIN_EXE_slow_workers"), Some("cancel"), method);
        assert_eq!(lines, ["true"], "{method:?}");
    }
    Ok(())
}

/// The time since boot, which is the same in all processes.
fn clock() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap().into()
}

const SLOW: u64 = 19_985;

/// Returns its end time.
fn be_slow_once(number: u64) -> Duration {
    if number == SLOW {
        thread::sleep(Duration::from_secs(3));
    }
    clock()
}

/// Another thread makes calls all the time, so that the pool is never idle.
fn what_lies_behind_a_slow_item_goes_to_others_whatever_else_happens() -> Outcome {
    let pool = Pool::new(2)?;
    let is_done = AtomicBool::new(false);
    let ends = thread::scope(|scope| {
        scope.spawn(|| {
            while !is_done.load(Ordering::Relaxed) {
                pool.apply(square, (2,)).unwrap();
            }
        });
        let ends = pool.map(be_slow_once, 0..20_000);
        is_done.store(true, Ordering::Relaxed);
        ends
    })?;
    let slow = ends[usize::try_from(SLOW)?];
    let late = ends.iter().filter(|&&end| end > slow).count();
    assert_eq!(late, 0, "items that waited for the slow one");
    Ok(())
}

fn a_replacement_that_comes_up_too_late_breaks_no_pool() -> Outcome {
    let builder = Pool::builder().workers(2).start_method(StartMethod::Spawn);
    let pool = builder.start_timeout(Duration::from_secs(2)).build()?;
    pool.map(square, 0..100)?;
    let old = pool.worker_pids();
    send_signal(old[0], Signal::SIGKILL);
    let start = Instant::now();
    let new = loop {
        if let Some(new) = pool.worker_pids().into_iter().find(|pid| !old.contains(pid)) {
            break new;
        }
        assert!(start.elapsed() < TEST_TIMEOUT, "it is not replaced");
    };
    let _ = kill(Pid::from_raw(new.cast_signed()), Signal::SIGSTOP); // mostly before it is up; on a busy machine it may have ended
    eventually("another one has come, or this one was up", || {
        assert_eq!(pool.apply(square, (3,)).unwrap(), 9);
        !pool.worker_pids().contains(&new) || start.elapsed() > Duration::from_secs(4)
    });
    assert_eq!(pool.map(square, 0..3)?, [0, 1, 4]);
    Ok(())
}

fn slowly(number: u64) -> u64 {
    thread::sleep(Duration::from_millis(10));
    number
}

/// How often the pool's thread has gone to sleep.
fn sleeps_of_pool_thread() -> u64 {
    let number = |status: &str| -> u64 {
        let mut lines = status.lines().filter_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        lines.next().unwrap().trim().parse().unwrap()
    };
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let statuses = tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("status")).ok());
    statuses.filter(|status| status.starts_with("Name:\tmp-pool\n")).map(|status| number(&status)).sum()
}

fn a_pool_seldom_wakes_up_while_a_long_task_runs_after_quick_ones() -> Outcome {
    alone(|| {
        let pool = Pool::new(1)?;
        pool.map(square, 0..100_000)?;
        let long = pool.submit(thread::sleep, (Duration::from_millis(700),))?;
        let before = sleeps_of_pool_thread();
        thread::sleep(Duration::from_millis(600));
        let sleeps = sleeps_of_pool_thread() - before;
        assert!(sleeps < 30, "it slept {sleeps} times");
        long.get()
    })
}

/// A socket whose buffer is as small as can be takes no packet of this size.
fn an_item_that_the_kernel_does_not_take_is_an_error_once() -> Outcome {
    fn length(bytes: Vec<u8>, _sender: Sender<u64>) -> usize {
        bytes.len()
    }
    #[allow(unsafe_code)]
    fn shrink_all_sockets() {
        let least = 1_i32;
        for fd in 3..200 {
            let size = libc::socklen_t::try_from(size_of::<i32>()).unwrap();
            // SAFETY: the kernel reads a number from the place given; what is no socket it refuses.
            unsafe {
                libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_SNDBUF, (&raw const least).cast(), size);
            }
        }
    }
    alone(|| {
        let pool = Pool::new(1)?;
        pool.apply(square, (1,))?;
        shrink_all_sockets();
        let (sender, _receiver) = bounded(8)?;
        let mut task = pool.submit(length, (vec![1; 15_000], sender))?; // with names: twice as many bytes
        let error = task.get_timeout(TEST_TIMEOUT).unwrap_err();
        assert_eq!(error.os_error(), Some(libc::EMSGSIZE), "{error}");
        assert_eq!(pool.map(square, 0..3)?, [0, 1, 4]);
        Ok(())
    })
}

fn a_closed_pool_ends_though_a_worker_is_stopped_that_has_nothing_to_do() -> Outcome {
    let pool = Pool::builder().workers(2).shutdown_timeout(Duration::from_millis(200)).build()?;
    pool.map(square, 0..100)?;
    let worker = pool.worker_pids()[1];
    send_signal(worker, Signal::SIGSTOP);
    wait_for_state(worker, 'T');
    let tasks: Vec<_> = (0..10).map(|number| pool.submit(slowly, (number,))).collect::<Result<_>>()?;
    pool.close();
    pool.join();
    for (number, task) in (0..).zip(tasks) {
        assert_eq!(task.get()?, number);
    }
    Ok(())
}

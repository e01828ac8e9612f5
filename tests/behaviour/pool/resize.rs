//! The number of workers, and of tasks, that changes while a pool works.

use std::collections::HashSet;
use std::fs;
use std::future::IntoFuture;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use multiproc::queue::SendError;
use multiproc::{Pool, Process, Result, StartMethod, pipe};
use nix::sys::signal::Signal;

use super::{blocked_task, square};
use crate::support::{Outcome, TEST_TIMEOUT, alone, block, eventually, send_signal, trials, wait_for_state};

trials![
    a_pool_grows_while_its_workers_are_busy,
    surplus_workers_finish_what_they_run_and_take_no_more,
    a_surplus_worker_that_still_runs_a_task_stays_when_the_pool_grows,
    results_are_complete_however_often_a_pool_is_resized,
    a_pool_cannot_have_no_workers_and_a_closed_one_is_not_resized,
    idle_workers_end_and_come_back,
    work_behind_a_busy_worker_gets_one_of_its_own,
    a_stopped_worker_keeps_no_work_of_a_closed_pool,
    work_behind_the_only_worker_that_is_stopped_gets_another,
    work_behind_a_stopped_worker_and_a_busy_one_gets_another,
    work_behind_a_busy_worker_gets_another_while_a_caller_sleeps,
    a_pool_that_starts_workers_later_leaves_no_children_ready_for_them,
    the_least_number_of_workers_stays,
    a_submit_beyond_the_limit_waits_for_a_result,
    a_refused_task_gives_its_arguments_back,
    a_death_and_a_cancel_make_room,
    a_dropped_future_makes_room,
    a_waiting_submit_ends_with_the_pool,
    terminate_ends_a_pool_that_other_threads_use,
    join_timeout_tells_whether_the_workers_have_exited,
    a_task_is_cancelled_while_another_thread_waits_for_it,
];

fn a_pool_grows_while_its_workers_are_busy() -> Outcome {
    let pool = Pool::new(1)?;
    let (busy, latch) = blocked_task(&pool)?;
    let waiting = pool.submit(square, (3,))?;
    pool.resize(2)?;
    assert_eq!(waiting.get()?, 9); // the first worker is still busy
    drop(latch);
    busy.get()?;
    assert_eq!(pool.worker_pids().len(), 2);
    Ok(())
}

fn surplus_workers_finish_what_they_run_and_take_no_more() -> Outcome {
    let pool = Pool::new(2)?;
    let ((first, latch), (second, other)) = (blocked_task(&pool)?, blocked_task(&pool)?);
    let before: HashSet<u32> = pool.worker_pids().into_iter().collect();
    pool.resize(1)?;
    assert_eq!(pool.worker_pids().len(), 1);
    drop((latch, other));
    first.get()?;
    second.get()?;
    let after: HashSet<u32> = pool.map(|_: u32| std::process::id(), 0..100)?.into_iter().collect();
    assert!(after.len() == 1 && after.is_subset(&before), "{before:?} {after:?}");
    eventually("the other has exited", || {
        tests::children_of(std::process::id()).iter().filter(|(pid, _)| before.contains(pid)).count() == 1
    });
    Ok(())
}

fn a_surplus_worker_that_still_runs_a_task_stays_when_the_pool_grows() -> Outcome {
    let pool = Pool::new(2)?;
    let ((first, latch), (second, other)) = (blocked_task(&pool)?, blocked_task(&pool)?);
    let before = pool.worker_pids();
    pool.resize(1)?;
    pool.resize(2)?;
    assert_eq!(pool.worker_pids(), before);
    drop((latch, other));
    first.get()?;
    second.get()?;
    assert_eq!(pool.worker_pids(), before);
    Ok(())
}

fn results_are_complete_however_often_a_pool_is_resized() -> Outcome {
    let pool = Pool::new(2)?;
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let mapping = scope.spawn(|| {
            let sum = pool.map(square, 0..200_000).map(|squares| squares.iter().sum::<u64>());
            done.store(true, Relaxed);
            sum
        });
        let mut sizes = [1, 3, 2, 4].into_iter().cycle();
        while !done.load(Relaxed) {
            pool.resize(sizes.next().unwrap_or(1))?;
            thread::sleep(Duration::from_micros(300));
        }
        assert_eq!(mapping.join().unwrap()?, (0..200_000).map(square).sum::<u64>());
        Ok(())
    })
}

fn a_pool_cannot_have_no_workers_and_a_closed_one_is_not_resized() -> Outcome {
    let pool = Pool::new(1)?;
    assert!(pool.resize(0).is_err());
    pool.close();
    assert!(pool.resize(2).unwrap_err().is_closed());
    Ok(())
}

fn idle_workers_end_and_come_back() -> Outcome {
    let pool = Pool::builder().workers(2).idle_timeout(Duration::from_millis(1)).build()?;
    for round in 0..5 {
        eventually("none is left", || pool.worker_pids().is_empty());
        assert_eq!(pool.apply(square, (round,))?, square(round));
        assert_eq!(pool.map(square, 0..100)?, (0..100).map(square).collect::<Vec<_>>());
        let (busy, latch) = blocked_task(&pool)?;
        thread::sleep(Duration::from_millis(5)); // a busy worker is not idle, however long that takes
        drop(latch);
        busy.get()?;
    }
    Ok(())
}

fn work_behind_a_busy_worker_gets_one_of_its_own() -> Outcome {
    let pool = Pool::builder().workers(2).idle_timeout(Duration::from_millis(1)).build()?;
    eventually("all workers have ended", || pool.worker_pids().is_empty());
    let (busy, latch) = blocked_task(&pool)?;
    let mut behind = pool.submit(square, (3,))?;
    assert_eq!(behind.get_timeout(TEST_TIMEOUT / 2)?, Some(9));
    drop(latch);
    busy.get()?;
    Ok(())
}

/// Its only other worker is killed.
fn a_stopped_worker_keeps_no_work_of_a_closed_pool() -> Outcome {
    let pool = Pool::new(2)?;
    pool.map(square, 0..10)?;
    let die_once = |[open, closed]: [String; 2]| {
        while Path::new(&open).exists() {
            thread::sleep(Duration::from_millis(1));
        }
        if fs::remove_dir(closed).is_ok() {
            std::process::abort();
        }
        7
    };
    let [stopped, other] = pool.worker_pids()[..] else { return Err("there are not two workers".into()) };
    send_signal(stopped, Signal::SIGSTOP);
    wait_for_state(stopped, 'T');
    let name = |state| {
        let directory = std::env::temp_dir().join(format!("multiproc-{state}-{}", std::process::id()));
        directory.to_string_lossy().into_owned()
    };
    let [open, closed] = ["open", "closed"].map(name);
    fs::create_dir(&open)?;
    let mut task = pool.options().retries(1).submit(die_once, ([open.clone(), closed.clone()],))?;
    pool.close();
    fs::rename(open, closed)?;
    let result = task.get_timeout(TEST_TIMEOUT / 2);
    send_signal(stopped, Signal::SIGCONT);
    assert_eq!(result?, Some(7));
    assert!(!pool.worker_pids().contains(&other));
    Ok(())
}

fn work_behind_the_only_worker_that_is_stopped_gets_another() -> Outcome {
    let pool = Pool::builder().workers(2).idle_timeout(TEST_TIMEOUT).min_workers(1).build()?;
    pool.apply(square, (2,))?; // it is ready
    let [stopped] = pool.worker_pids()[..] else { return Err("there is not one worker".into()) };
    send_signal(stopped, Signal::SIGSTOP);
    wait_for_state(stopped, 'T');
    let result = pool.submit(square, (3,))?.get_timeout(TEST_TIMEOUT / 2);
    send_signal(stopped, Signal::SIGCONT);
    assert_eq!(result?, Some(9));
    Ok(())
}

fn work_behind_a_stopped_worker_and_a_busy_one_gets_another() -> Outcome {
    for workers in [2, 3] {
        let pool = Pool::builder().workers(workers).idle_timeout(TEST_TIMEOUT).build()?;
        let ((first, latch), (busy, other)) = (blocked_task(&pool)?, blocked_task(&pool)?);
        drop(latch);
        first.get()?;
        let stopped = pool.apply(std::process::id, ())?; // the one that is not busy
        send_signal(stopped, Signal::SIGSTOP);
        wait_for_state(stopped, 'T');
        let result = pool.submit(square, (3,))?.get_timeout(TEST_TIMEOUT / 2);
        send_signal(stopped, Signal::SIGCONT);
        assert_eq!(result?, Some(9), "{workers} workers");
        drop(other);
        busy.get()?;
    }
    Ok(())
}

/// A round takes some milliseconds more than a worker takes to start, unless the caller sleeps past the check that
/// starts one: then 250 on average. A busy machine gets as many rounds as it needs.
fn work_behind_a_busy_worker_gets_another_while_a_caller_sleeps() -> Outcome {
    let (mut quick, mut rounds) = (0, 0);
    while quick < 5 {
        let start = Instant::now();
        let pool = Pool::builder().workers(2).idle_timeout(TEST_TIMEOUT).build()?;
        let (latch, theirs) = pipe()?;
        thread::scope(|scope| {
            let caller = scope.spawn(|| pool.apply(block, (theirs,)));
            latch.recv()?; // it has begun
            let usual = start.elapsed();
            thread::sleep(Duration::from_millis(20)); // the caller sleeps by now; else the round is quick
            let (done, is_done) = mpsc::channel();
            let start = Instant::now();
            pool.submit(square, (3,))?.on_done(move |result| _ = done.send(result))?;
            assert_eq!(is_done.recv_timeout(TEST_TIMEOUT).unwrap()?, 9);
            quick = if start.elapsed() < 2 * usual + Duration::from_millis(60) { quick + 1 } else { 0 };
            rounds += 1;
            drop(latch);
            caller.join().unwrap()
        })?;
        assert!(rounds < 200, "five quick rounds in a row never come");
    }
    Ok(())
}

fn a_pool_that_starts_workers_later_leaves_no_children_ready_for_them() -> Outcome {
    alone(|| {
        let forking = || Process::builder().start_method(StartMethod::ForkServer);
        let ready = || {
            let children = tests::children_of(std::process::id()).into_iter();
            children.filter(|(pid, name)| tests::is_preforked(*pid, name)).count()
        };
        let builder = Pool::builder().workers(8).start_method(StartMethod::ForkServer);
        let pool = builder.idle_timeout(TEST_TIMEOUT).build()?;
        for _ in 0..3 {
            forking().spawn(|| (), ())?.join()?; // the zygote has answered what was requested before
        }
        assert!(ready() <= 2, "{}", ready());
        drop(pool);
        Ok(())
    })
}

fn the_least_number_of_workers_stays() -> Outcome {
    let idle = Duration::from_millis(1);
    let pool = Pool::builder().workers(3).idle_timeout(idle).min_workers(1).build()?;
    eventually("one is left", || pool.worker_pids().len() == 1);
    let last = pool.worker_pids();
    thread::sleep(Duration::from_millis(20));
    assert_eq!(pool.worker_pids(), last);
    Ok(())
}

fn a_submit_beyond_the_limit_waits_for_a_result() -> Outcome {
    let pool = Pool::builder().workers(1).max_pending(2).build()?;
    let (first, latch) = blocked_task(&pool)?;
    let second = pool.submit(square, (2,))?;
    thread::scope(|scope| {
        let third = scope.spawn(|| pool.submit(square, (3,))?.get());
        thread::sleep(Duration::from_millis(20)); // it waits by now; the outcome is the same if not
        assert!(!third.is_finished());
        drop(latch);
        assert_eq!(third.join().unwrap()?, 9);
        first.get()?;
        assert_eq!(second.get()?, 4);
        for number in 0..1000 {
            assert_eq!(pool.submit(square, (number,))?.get()?, square(number)); // no slot is lost
        }
        Ok(())
    })
}

fn a_refused_task_gives_its_arguments_back() -> Outcome {
    let pool = Pool::builder().workers(1).max_pending(1).build()?;
    let (first, latch) = blocked_task(&pool)?;
    let refused = pool.try_submit(|text: String| text, ("a task".to_owned(),)).unwrap_err();
    assert!(refused.error().is_full());
    assert_eq!(refused.to_string(), "cannot submit: the pool is full");
    let travelled = Process::spawn(|refused: SendError<(String,)>| refused, (refused,))?.join()?;
    assert_eq!(travelled.to_string(), "cannot submit: the pool is full");
    assert_eq!(travelled.into_item(), ("a task".to_owned(),));
    let time = Duration::from_millis(20);
    let begun = Instant::now();
    let refused = pool.submit_timeout(square, (3,), time).unwrap_err();
    assert!(begun.elapsed() >= time && refused.into_item() == (3,));
    drop(latch);
    assert_eq!(
        pool.submit_timeout(square, (3,), TEST_TIMEOUT).map_err(|refused| refused.error().clone())?.get()?,
        9
    );
    first.get()?;
    Ok(())
}

fn a_death_and_a_cancel_make_room() -> Outcome {
    let pool = Pool::builder().workers(1).max_pending(1).build()?;
    let (first, _latch) = blocked_task(&pool)?;
    assert!(pool.try_submit(square, (2,)).is_err());
    send_signal(pool.worker_pids()[0], Signal::SIGKILL);
    let (second, _latch) = blocked_task(&pool)?; // waits for the death
    assert!(second.cancel());
    assert_eq!(pool.submit(square, (3,))?.get()?, 9);
    assert!(first.get().is_err() && second.get().is_err());
    Ok(())
}

fn a_dropped_future_makes_room() -> Outcome {
    let pool = Pool::builder().workers(1).max_pending(2).build()?;
    let (running, latch) = blocked_task(&pool)?;
    let waiting = pool.try_submit(square, (2,))?;
    assert!(pool.try_submit(square, (3,)).is_err());
    drop(waiting.into_future());
    let next = pool.try_submit(square, (4,))?;
    drop(latch);
    running.get()?;
    assert_eq!(next.get()?, 16);
    Ok(())
}

fn a_waiting_submit_ends_with_the_pool() -> Outcome {
    let pool = Pool::builder().workers(1).max_pending(1).build()?;
    let (_first, _latch) = blocked_task(&pool)?;
    thread::scope(|scope| {
        let second = scope.spawn(|| pool.submit(square, (3,)).map(drop));
        thread::sleep(Duration::from_millis(10)); // it waits by now; the outcome is the same if not
        pool.terminate();
        assert!(second.join().unwrap().is_err());
        Ok(())
    })
}

fn terminate_ends_a_pool_that_other_threads_use() -> Outcome {
    let pool = Pool::new(1)?;
    let (running, _latch) = blocked_task(&pool)?;
    thread::scope(|scope| {
        let get = scope.spawn(|| running.get());
        let map = scope.spawn(|| pool.map(square, 0..10).map(drop));
        pool.terminate();
        assert!(get.join().unwrap().is_err());
        assert!(map.join().unwrap().is_err());
        assert!(pool.apply(square, (3,)).unwrap_err().is_closed());
        assert!(pool.join_timeout(TEST_TIMEOUT));
        Ok(())
    })
}

fn join_timeout_tells_whether_the_workers_have_exited() -> Outcome {
    let pool = Pool::new(1)?;
    let (running, latch) = blocked_task(&pool)?;
    let begun = Instant::now();
    assert!(!pool.join_timeout(Duration::from_millis(20)));
    assert!(begun.elapsed() >= Duration::from_millis(20));
    assert!(pool.submit(square, (3,)).unwrap_err().is_closed());
    drop(latch);
    assert!(pool.join_timeout(TEST_TIMEOUT));
    assert!(pool.worker_pids().is_empty());
    running.get()?;
    Ok(())
}

fn a_task_is_cancelled_while_another_thread_waits_for_it() -> Outcome {
    let pool = Pool::new(1)?;
    let (latch, theirs) = pipe()?;
    let task = pool.submit(block, (theirs,))?;
    latch.recv()?;
    let canceller = task.canceller();
    let waiter = thread::spawn(|| task.get());
    assert!(canceller.cancel() && !canceller.cancel());
    assert!(waiter.join().unwrap().unwrap_err().is_cancelled());
    let dropped: Result<_> = pool.submit(thread::sleep, (Duration::from_secs(3600),));
    let canceller = dropped?.canceller();
    assert!(canceller.cancel());
    assert_eq!(pool.apply(square, (3,))?, 9);
    Ok(())
}

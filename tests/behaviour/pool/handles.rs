//! Handles: one task, watched from outside.

use std::time::{Duration, Instant};

use multiproc::pool::TaskHandle;
use multiproc::{Pool, Result, pipe};
use nix::sys::signal::Signal;

use super::{blocked_task, square, zero_waits};
use crate::support::{Latch, Outcome, TEST_TIMEOUT, eventually, send_signal, trials};

trials![
    results_can_be_taken_in_any_order,
    a_get_with_timeout_ends_on_time,
    a_result_is_given_once,
    a_handle_is_ready_when_its_task_has_ended,
    cancel_before_the_task_has_begun,
    cancel_while_the_task_runs,
    cancel_after_the_task_has_ended,
    a_dropped_handle_does_not_stop_its_task,
    a_large_task_with_a_stopped_worker_is_not_mistaken_for_another,
];

fn results_can_be_taken_in_any_order() -> Outcome {
    let pool = Pool::new(2)?;
    let tasks: Vec<_> = (0..100).map(|number| pool.submit(square, (number,))).collect::<Result<_>>()?;
    for (number, task) in (0..100).rev().zip(tasks.into_iter().rev()) {
        assert_eq!(task.get()?, square(number));
    }
    Ok(())
}

/// A task that waits for its latch.
fn waiting_task(pool: &Pool) -> Result<(TaskHandle<u32>, Latch)> {
    let (latch, theirs) = pipe()?;
    Ok((pool.submit(zero_waits, ((0, Some(theirs)),))?, latch))
}

fn a_get_with_timeout_ends_on_time() -> Outcome {
    let pool = Pool::new(1)?;
    let (mut task, latch) = waiting_task(&pool)?;
    let time = Duration::from_millis(50);
    let start = Instant::now();
    assert_eq!(task.get_timeout(Duration::ZERO)?, None);
    assert_eq!(task.get_timeout(time)?, None);
    assert!(start.elapsed() >= time);
    drop(latch);
    assert_eq!(task.get_timeout(Duration::MAX)?, Some(0));
    Ok(())
}

fn a_result_is_given_once() -> Outcome {
    let pool = Pool::new(1)?;
    let mut task = pool.submit(square, (3,))?;
    assert_eq!(task.get_timeout(TEST_TIMEOUT)?, Some(9));
    assert!(task.get_timeout(TEST_TIMEOUT).is_err());
    assert!(task.get().is_err());
    Ok(())
}

fn a_handle_is_ready_when_its_task_has_ended() -> Outcome {
    let pool = Pool::new(1)?;
    let (task, latch) = waiting_task(&pool)?;
    assert!(!task.is_ready());
    drop(latch);
    eventually("the task is ready", || task.is_ready());
    assert_eq!(task.get()?, 0);
    Ok(())
}

fn cancel_before_the_task_has_begun() -> Outcome {
    let pool = Pool::new(1)?;
    let (running, latch) = blocked_task(&pool)?;
    let before = pool.submit(square, (2,))?;
    let cancelled = pool.submit(|| -> () { panic!("this must not run") }, ())?;
    let after = pool.submit(square, (3,))?;
    assert!(cancelled.cancel());
    assert!(!cancelled.cancel(), "it is cancelled already");
    assert!(cancelled.is_ready());
    let error = cancelled.get().unwrap_err();
    assert!(error.is_cancelled(), "{error}");
    drop(latch);
    running.get()?;
    assert_eq!((before.get()?, after.get()?), (4, 9));
    Ok(())
}

fn cancel_while_the_task_runs() -> Outcome {
    let pool = Pool::new(1)?;
    let (running, latch) = blocked_task(&pool)?;
    assert!(running.cancel());
    let error = running.get().unwrap_err();
    assert!(error.is_cancelled(), "{error}");
    assert!(latch.recv().unwrap_err().is_disconnected(), "it does not run any more");
    assert_eq!(pool.apply(square, (3,))?, 9);
    Ok(())
}

fn cancel_after_the_task_has_ended() -> Outcome {
    let pool = Pool::new(1)?;
    let task = pool.submit(square, (3,))?;
    pool.apply(square, (4,))?; // the only worker runs it after the one before
    assert!(!task.cancel());
    assert_eq!(task.get()?, 9);
    Ok(())
}

fn a_dropped_handle_does_not_stop_its_task() -> Outcome {
    let pool = Pool::new(1)?;
    let (running, latch) = blocked_task(&pool)?;
    let (ours, theirs) = pipe::<(), ()>()?;
    drop(pool.submit(|peer: Latch| peer.send(()), (theirs,))?);
    drop((running, latch));
    ours.recv()?;
    Ok(())
}

/// An item too large for a ring travels beside it, and small tasks behind it can be revoked.
fn a_large_task_with_a_stopped_worker_is_not_mistaken_for_another() -> Outcome {
    fn first(bytes: Vec<u8>) -> Option<u8> {
        bytes.first().copied()
    }
    let pool = Pool::new(1)?;
    let large = |fill: u8| pool.submit(first, (vec![fill; 100_000],));
    assert_eq!(large(0)?.get()?, Some(0));
    let worker = pool.worker_pids()[0];
    send_signal(worker, Signal::SIGSTOP);
    let tasks = [large(1)?, large(2)?, large(3)?];
    let small = pool.submit(square, (5,))?;
    assert!(tasks[1].cancel() && small.cancel(), "the worker is stopped");
    send_signal(worker, Signal::SIGCONT);
    let results = tasks.map(TaskHandle::get);
    assert!(results[1].as_ref().is_err_and(multiproc::Error::is_cancelled));
    assert_eq!([results[0].clone()?, results[2].clone()?], [Some(1), Some(3)]);
    assert!(small.get().is_err_and(|error| error.is_cancelled()));
    Ok(())
}

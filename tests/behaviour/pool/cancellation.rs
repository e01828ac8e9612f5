//! Cancelled tasks.

use std::time::{Duration, Instant};

use multiproc::{Connection, Pool, Result, pipe};
use nix::sys::signal::{Signal, raise};

use super::{blocked_task, square};
use crate::support::{Outcome, send_signal, trials, wait_for_state};

trials![
    a_cancelled_task_ends_and_those_behind_it_run,
    a_stopped_task_can_be_cancelled,
    a_large_task_of_a_stopped_worker_can_be_cancelled,
    a_task_that_is_cancelled_as_it_ends_is_either,
];

fn a_cancelled_task_ends_and_those_behind_it_run() -> Outcome {
    let pool = Pool::new(1)?;
    for _ in 0..5 {
        let (running, latch) = blocked_task(&pool)?;
        let behind: Vec<_> = (0..20).map(|number| pool.submit(square, (number,))).collect::<Result<_>>()?;
        assert!(running.cancel());
        assert!(!running.cancel(), "it is cancelled already");
        let error = running.get().unwrap_err();
        assert!(error.is_cancelled(), "{error}");
        let text = format!("the task was cancelled, and worker {} killed", error.pid().unwrap());
        assert!(error.to_string().starts_with(&text), "{error}");
        assert!(latch.recv().unwrap_err().is_disconnected(), "the task is gone");
        for (number, task) in (0..).zip(behind) {
            assert_eq!(task.get()?, square(number));
        }
    }
    Ok(())
}

fn a_stopped_task_can_be_cancelled() -> Outcome {
    let pool = Pool::new(2)?;
    let (ours, theirs) = pipe()?;
    let stop = |teller: Connection<u32, ()>| {
        teller.send(std::process::id()).unwrap();
        raise(Signal::SIGSTOP).unwrap();
    };
    let stopped = pool.submit(stop, (theirs,))?;
    wait_for_state(ours.recv()?, 'T');
    assert!(stopped.cancel());
    assert!(stopped.get().unwrap_err().is_cancelled());
    Ok(())
}

/// It cannot be had back, and it is not known whether it has begun.
fn a_large_task_of_a_stopped_worker_can_be_cancelled() -> Outcome {
    let pool = Pool::new(1)?;
    let length = |bytes: Vec<u8>| bytes.len();
    assert_eq!(pool.apply(length, (vec![0; 100_000],))?, 100_000);
    send_signal(pool.worker_pids()[0], Signal::SIGSTOP);
    let large = pool.submit(length, (vec![0; 200_000],))?;
    let small = pool.submit(square, (5,))?;
    assert!(large.cancel());
    assert!(large.get().unwrap_err().is_cancelled());
    assert_eq!(small.get()?, 25);
    assert_eq!(pool.apply(length, (vec![0; 300_000],))?, 300_000);
    Ok(())
}

/// Works for this many microseconds.
fn spin(micros: u64) -> u64 {
    let start = Instant::now();
    while start.elapsed() < Duration::from_micros(micros) {
        std::hint::spin_loop();
    }
    micros
}

/// The delay before the cancellation approaches the running time of the task.
fn a_task_that_is_cancelled_as_it_ends_is_either() -> Outcome {
    let pool = Pool::new(2)?;
    let mut time = Duration::from_micros(150);
    for _ in 0..300 {
        let (task, beside) = (pool.submit(spin, (100,))?, pool.submit(square, (5,))?);
        spin(u64::try_from(time.as_micros())?);
        let is_cancelled = task.cancel();
        match task.get() {
            Ok(micros) => {
                assert_eq!((micros, is_cancelled), (100, false));
                time = time.saturating_sub(Duration::from_micros(10));
            }
            Err(error) => {
                assert_eq!((error.is_cancelled(), is_cancelled), (true, true), "{error}");
                time += Duration::from_micros(10);
            }
        }
        assert_eq!(beside.get()?, 25);
    }
    Ok(())
}

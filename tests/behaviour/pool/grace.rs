//! Tasks that end by themselves when they were cancelled, or at their time limit.

use std::fs::File;
use std::process;
use std::thread;
use std::time::{Duration, Instant};

use multiproc::pool::TaskHandle;
use multiproc::{Error, Fd, Pool, Process, Result, is_cancelled, pipe};
use nix::sys::signal::Signal;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{HOUR, SHORT, square};
use crate::support::{Latch, Outcome, TEST_TIMEOUT, send_signal, trials, wait_for_state};

trials![
    a_cancelled_task_ends_by_itself_and_its_worker_lives_on,
    a_task_that_panics_in_its_grace_has_failed_once,
    a_task_that_goes_on_is_killed_when_its_grace_is_over,
    whatever_a_cancelled_task_returns_is_dropped,
    a_task_at_its_time_limit_ends_by_itself,
    a_task_beyond_its_time_limit_is_killed_when_its_grace_is_over,
    a_task_without_a_grace_is_not_asked,
    nothing_else_is_cancelled,
    a_pool_that_ends_waits_for_no_grace,
    a_worker_that_dies_in_a_grace_leaves_a_cancelled_task,
    a_cancelled_task_whose_worker_dies_before_it_begins_does_not_run,
    a_task_that_is_asked_to_end_as_it_ends_is_either,
];

fn wait_until_cancelled() {
    while !is_cancelled() {
        thread::sleep(Duration::from_millis(1));
    }
}

/// Reports that it has begun, and works until it is asked to end.
fn work(begun: Latch) {
    let _ = begun.send(());
    wait_until_cancelled();
}

fn stay(begun: Latch) {
    let _ = begun.send(());
    thread::sleep(HOUR);
}

/// A task that has begun, with this grace.
fn begin<R>(
    pool: &Pool,
    task: fn(&Pool, Duration, Latch) -> Result<TaskHandle<R>>,
    grace: Duration,
) -> Result<TaskHandle<R>>
where
    R: Serialize + DeserializeOwned,
{
    let (latch, theirs) = pipe()?;
    let task = task(pool, grace, theirs)?;
    assert!(latch.poll(TEST_TIMEOUT)?, "the task did not begin");
    Ok(task)
}

/// Begins a task that goes on until it is killed.
fn staying(pool: &Pool, grace: Duration) -> Result<TaskHandle<()>> {
    begin(pool, |pool, grace, latch| pool.options().grace(grace).submit(stay, (latch,)), grace)
}

fn working(pool: &Pool) -> Result<TaskHandle<()>> {
    begin(pool, |pool, grace, latch| pool.options().grace(grace).submit(work, (latch,)), HOUR)
}

fn a_cancelled_task_ends_by_itself_and_its_worker_lives_on() -> Outcome {
    let pool = Pool::new(1)?;
    let pid = pool.worker_pids()[0];
    for round in 0..5 {
        let running = working(&pool)?;
        let behind: Vec<_> = (0..20).map(|_| pool.submit(is_cancelled, ())).collect::<Result<_>>()?;
        assert!(running.cancel() && !running.cancel());
        let error = if round % 2 == 0 {
            running.get().unwrap_err()
        } else {
            let waiting = thread::spawn(move || running.get());
            waiting.join().unwrap().unwrap_err()
        };
        assert!(error.is_cancelled(), "{error}");
        assert_eq!(
            error.to_string(),
            format!("the task was cancelled, and worker {pid} ended it in its grace")
        );
        assert!(behind.into_iter().all(|task| !task.get().unwrap()), "the next tasks are not cancelled");
    }
    assert_eq!(pool.worker_pids(), [pid]);
    let total = pool.stats().total();
    assert_eq!((total.tasks_failed, total.tasks_done, total.cancelled, total.died), (5, 100, 0, 0));
    Ok(())
}

fn a_task_that_panics_in_its_grace_has_failed_once() -> Outcome {
    fn panic_when_cancelled(begun: Latch) {
        work(begun);
        panic!("it was cancelled");
    }
    let pool = Pool::new(1)?;
    pool.map(square, 0..5)?;
    let task = |pool: &Pool, grace, latch| pool.options().grace(grace).submit(panic_when_cancelled, (latch,));
    let running = begin(&pool, task, HOUR)?;
    assert!(running.cancel());
    assert!(running.get().unwrap_err().is_cancelled());
    let total = pool.stats().total();
    assert_eq!((total.tasks_failed, total.tasks_done), (1, 5));
    Ok(())
}

fn a_task_that_goes_on_is_killed_when_its_grace_is_over() -> Outcome {
    let pool = Pool::new(2)?;
    let staying = staying(&pool, 2 * SHORT)?;
    let cancelled = Instant::now();
    assert!(staying.cancel());
    for number in 0..100 {
        assert_eq!(pool.apply(square, (number,))?, square(number));
    }
    let error = staying.get().unwrap_err();
    assert!(cancelled.elapsed() >= 2 * SHORT);
    assert!(error.to_string().contains("was cancelled, and worker"), "{error}");
    assert!(error.to_string().contains("killed"), "{error}");
    assert!(!pool.worker_pids().contains(&error.pid().unwrap()));
    assert_eq!(pool.stats().total().cancelled, 1);
    Ok(())
}

/// Cancels a task that ends in its grace; returns its error, and whether its worker lives on.
fn cancel<R: Serialize + DeserializeOwned>(
    task: fn(&Pool, Duration, Latch) -> Result<TaskHandle<R>>,
) -> Result<(Error, bool)> {
    let pool = Pool::new(1)?;
    let pid = pool.worker_pids()[0];
    let task = begin(&pool, task, HOUR)?;
    assert!(task.cancel());
    let Err(error) = task.get() else { panic!("a cancelled task has a result") };
    for bytes in [0, 100_000] {
        assert_eq!(pool.apply(|bytes: Vec<u8>| bytes, (vec![7; bytes],))?, vec![7; bytes]);
    }
    Ok((error, pool.worker_pids() == [pid]))
}

fn whatever_a_cancelled_task_returns_is_dropped() -> Outcome {
    fn large(begun: Latch) -> Vec<u8> {
        work(begun);
        vec![1; 200_000]
    }
    fn descriptor(begun: Latch) -> Fd<File> {
        work(begun);
        File::open("/dev/null").unwrap().into()
    }
    fn panic(begun: Latch) {
        work(begun);
        panic!("on purpose");
    }
    fn exit(begun: Latch) {
        work(begun);
        process::exit(3);
    }
    for (error, lives) in [
        cancel(|pool, grace, latch| pool.options().grace(grace).submit(large, (latch,)))?,
        cancel(|pool, grace, latch| pool.options().grace(grace).submit(descriptor, (latch,)))?,
        cancel(|pool, grace, latch| pool.options().grace(grace).submit(panic, (latch,)))?,
    ] {
        assert!(error.is_cancelled() && lives, "{error}");
    }
    let (error, lives) = cancel(|pool, grace, latch| pool.options().grace(grace).submit(exit, (latch,)))?;
    assert!(error.is_cancelled() && !lives, "{error}");
    Ok(())
}

fn a_task_at_its_time_limit_ends_by_itself() -> Outcome {
    let pool = Pool::new(2)?;
    let mut pids = pool.worker_pids();
    let work = |number: u64| {
        if number % 5 == 3 {
            wait_until_cancelled();
        }
        (number, is_cancelled())
    };
    let outcomes = pool.options().timeout(SHORT).grace(HOUR).map_results(work, 0..20)?;
    for (number, outcome) in (0..).zip(outcomes) {
        match outcome {
            Ok(result) => assert!(result == (number, false) && number % 5 != 3, "{result:?}"),
            Err(error) => {
                assert!(error.is_timeout() && error.index() == Some(number), "{error}");
                let pid = error.pid().unwrap();
                let text = format!(
                    "worker {pid} ended a task in its grace while running task {number}, which took longer than 100ms"
                );
                assert_eq!(error.to_string(), text);
            }
        }
    }
    let mut after = pool.worker_pids();
    pids.sort_unstable();
    after.sort_unstable();
    assert_eq!(pids, after, "no worker was killed");
    Ok(())
}

fn a_task_beyond_its_time_limit_is_killed_when_its_grace_is_over() -> Outcome {
    let pool = Pool::new(1)?;
    let begun = Instant::now();
    let error = pool.options().timeout(SHORT).grace(SHORT).apply(thread::sleep, (HOUR,)).unwrap_err();
    assert!(error.is_timeout() && begun.elapsed() >= 2 * SHORT, "{error}");
    assert!(error.to_string().contains("was killed"), "{error}");
    assert_eq!(pool.apply(square, (5,))?, 25);
    Ok(())
}

fn a_task_without_a_grace_is_not_asked() -> Outcome {
    let pool = Pool::new(1)?;
    let running = begin(&pool, |pool, _, latch| pool.submit(stay, (latch,)), HOUR)?;
    assert!(running.cancel());
    let error = running.get().unwrap_err();
    assert!(error.is_cancelled() && error.to_string().contains("killed"), "{error}");
    Ok(())
}

fn nothing_else_is_cancelled() -> Outcome {
    assert!(!is_cancelled());
    let pool = Pool::new(2)?;
    let running = staying(&pool, HOUR)?;
    assert!(running.cancel());
    assert!(!is_cancelled() && !Process::spawn(is_cancelled, ())?.join()?);
    assert!(
        pool.map(|_: u32| is_cancelled(), 0..1000)?.into_iter().all(|it| !it),
        "a task of the other worker is cancelled"
    );
    Ok(())
}

fn a_pool_that_ends_waits_for_no_grace() -> Outcome {
    for ends_at_once in [true, false] {
        let pool = Pool::builder().workers(1).shutdown_timeout(2 * SHORT).build()?;
        let running = staying(&pool, HOUR)?;
        assert!(running.cancel());
        if ends_at_once {
            pool.terminate();
        } else {
            drop(pool);
        }
        let error = running.get().unwrap_err();
        assert!(error.is_cancelled(), "{error}");
    }
    Ok(())
}

fn a_worker_that_dies_in_a_grace_leaves_a_cancelled_task() -> Outcome {
    let pool = Pool::new(1)?;
    let running = begin(
        &pool,
        |pool, grace, latch| pool.options().retries(3).grace(grace).submit(stay, (latch,)),
        HOUR,
    )?;
    let behind = pool.submit(square, (5,))?;
    let pid = pool.worker_pids()[0];
    assert!(running.cancel());
    send_signal(pid, Signal::SIGKILL);
    let error = running.get().unwrap_err();
    assert!(error.is_cancelled() && error.pid() == Some(pid), "{error}");
    assert_eq!(behind.get()?, 25);
    assert_eq!(pool.stats().total().tasks_retried, 0);
    Ok(())
}

/// Works for this many microseconds, unless it is asked to end.
fn spin(micros: u64) -> u64 {
    let start = Instant::now();
    while start.elapsed() < Duration::from_micros(micros) && !is_cancelled() {
        std::hint::spin_loop();
    }
    micros
}

/// Its argument is out of line, so the worker keeps it.
fn a_cancelled_task_whose_worker_dies_before_it_begins_does_not_run() -> Outcome {
    let pool = Pool::new(1)?;
    let pid = pool.apply(process::id, ())?;
    send_signal(pid, Signal::SIGSTOP);
    wait_for_state(pid, 'T');
    let task = pool.options().grace(HOUR).submit(|bytes: Vec<u8>| bytes.len(), (vec![7; 100_000],))?;
    assert!(task.cancel());
    send_signal(pid, Signal::SIGKILL);
    let error = task.get().unwrap_err();
    assert!(error.is_cancelled(), "{error}");
    assert_eq!(pool.apply(square, (3,))?, 9);
    Ok(())
}

/// The delay before the cancellation approaches the running time of the task.
fn a_task_that_is_asked_to_end_as_it_ends_is_either() -> Outcome {
    let pool = Pool::new(1)?;
    let pid = pool.worker_pids()[0];
    let mut time = Duration::from_micros(150);
    for _ in 0..300 {
        let task = pool.options().grace(HOUR).submit(spin, (100,))?;
        let behind = pool.submit(|| (is_cancelled(), process::id()), ())?;
        let start = Instant::now();
        while start.elapsed() < time {
            std::hint::spin_loop();
        }
        let is_cancelled = task.cancel();
        match task.get() {
            Ok(micros) => assert!(micros == 100 && !is_cancelled),
            Err(error) => assert!(error.is_cancelled() && is_cancelled, "{error}"),
        }
        let step = Duration::from_micros(2);
        time = if is_cancelled { time + step } else { time.saturating_sub(step) };
        assert_eq!(behind.get()?, (false, pid), "{}", pool.stats());
    }
    Ok(())
}

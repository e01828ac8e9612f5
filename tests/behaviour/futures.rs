//! **Futures**: tasks and processes awaited, under tokio and smol.

use std::future::{Future, IntoFuture};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use multiproc::pool::{TaskFuture, TaskHandle};
use multiproc::{Connection, Pool, Process, RemoteFn, Result, pipe};
use tokio::time::timeout;

use crate::support::{Latch, METHODS, Outcome, TEST_TIMEOUT, block, blocked_child, trials};

/// A time limit that is exceeded on purpose.
const SHORT: Duration = Duration::from_millis(10);

trials![
    tasks_are_awaited_under_every_executor,
    a_future_is_woken_while_another_thread_drives_the_pool,
    a_task_that_dies_is_the_error_of_its_future,
    every_future_of_a_pool_that_ends_resolves,
    a_dropped_future_withdraws_a_task_that_has_not_begun,
    a_dropped_future_lets_a_running_task_go_on_or_kills_it,
    a_time_limit_of_tokio_withdraws_a_task_or_lets_it_go_on,
    select_of_tokio_withdraws_what_has_not_begun,
    a_waker_may_use_the_pool_and_drop_its_futures,
    a_waker_may_wait_for_a_task_that_kills_its_worker,
    a_waker_may_take_a_lock_of_a_thread_that_waits_for_the_pool,
    the_waker_of_a_process_may_wait_for_another,
    a_waker_that_panics_harms_only_itself,
    the_latest_waker_is_woken,
    an_awaiting_program_takes_no_cpu_time,
    a_process_is_awaited_under_every_executor,
    a_killed_process_is_the_error_of_its_future,
    a_dropped_process_future_detaches_the_child_or_kills_it,
];

/// Runs the future to its end under every executor that the tests know.
fn under_every_executor<F: Future>(future: impl Fn() -> F) -> Vec<F::Output> {
    let one_thread = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    vec![one_thread.block_on(future()), threads.block_on(future()), smol::block_on(future())]
}

pub(crate) fn square(number: u64) -> u64 {
    number * number
}

fn die() {
    std::process::abort();
}

/// A task that has begun, and blocks its worker until the latch is dropped.
pub(crate) fn blocked_task(pool: &Pool) -> Result<(TaskHandle<()>, Latch)> {
    let (latch, theirs) = pipe()?;
    let task = pool.submit(block, (theirs,))?;
    assert!(latch.poll(TEST_TIMEOUT)?, "the task did not begin");
    latch.recv()?;
    Ok((task, latch))
}

/// Polls once with a waker that does nothing.
fn poll_once<R: serde::de::DeserializeOwned>(future: &mut TaskFuture<R>) -> Poll<Result<R>> {
    std::pin::Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

fn tasks_are_awaited_under_every_executor() -> Outcome {
    let pool = Pool::new(2)?;
    let sums = under_every_executor(|| async {
        let slow = pool.submit(thread::sleep, (Duration::from_millis(20),))?;
        let tasks: Vec<_> = (0..100).map(|n| pool.submit(square, (n,))).collect::<Result<_>>()?;
        let mut sum = 0;
        for task in tasks {
            sum += task.await?;
        }
        slow.await?;
        Ok::<u64, multiproc::Error>(sum)
    });
    for sum in sums {
        assert_eq!(sum?, (0..100).map(square).sum::<u64>());
    }
    Ok(())
}

fn a_future_is_woken_while_another_thread_drives_the_pool() -> Outcome {
    let pool = Pool::new(2)?;
    let (busy, latch) = blocked_task(&pool)?;
    thread::scope(|scope| {
        scope.spawn(|| busy.get()); // drives the pool
        for _ in 0..20 {
            let rest = pool.submit(thread::sleep, (Duration::from_millis(2),))?;
            smol::block_on(rest.into_future())?;
        }
        drop(latch);
        Ok(())
    })
}

fn a_task_that_dies_is_the_error_of_its_future() -> Outcome {
    let pool = Pool::new(2)?;
    for outcome in under_every_executor(|| pool.submit(die, ()).unwrap().into_future()) {
        let error = outcome.unwrap_err();
        assert_eq!(error.signal(), Some(6), "{error}");
    }
    assert_eq!(pool.apply(square, (3,))?, 9);
    Ok(())
}

fn every_future_of_a_pool_that_ends_resolves() -> Outcome {
    let pool = Pool::new(1)?;
    let (running, latch) = blocked_task(&pool)?;
    let waiting = pool.submit(square, (3,))?;
    let threads = [
        thread::spawn(|| smol::block_on(running.into_future()).map(drop)),
        thread::spawn(|| smol::block_on(waiting.into_future()).map(drop)),
    ];
    thread::sleep(Duration::from_millis(20)); // they may wait by now; the outcome is the same if not
    pool.terminate();
    for thread in threads {
        assert!(thread.join().unwrap().is_err());
    }
    drop(latch);
    Ok(())
}

fn a_dropped_future_withdraws_a_task_that_has_not_begun() -> Outcome {
    let pool = Pool::new(1)?;
    let (running, latch) = blocked_task(&pool)?;
    let (report, theirs) = pipe::<(), ()>()?;
    let mut future = pool.submit(block, (theirs,))?.into_future();
    assert!(poll_once(&mut future).is_pending());
    drop(future);
    drop(latch);
    running.get()?;
    assert_eq!(pool.apply(square, (3,))?, 9);
    assert!(report.recv().is_err(), "the withdrawn task has run");
    Ok(())
}

fn a_dropped_future_lets_a_running_task_go_on_or_kills_it() -> Outcome {
    let pool = Pool::new(1)?;
    let pids = pool.worker_pids();
    let (running, latch) = blocked_task(&pool)?;
    drop(running.into_future());
    drop(latch);
    assert_eq!(pool.apply(std::process::id, ())?, pids[0], "the worker was killed");

    let (running, latch) = blocked_task(&pool)?;
    let mut future = running.into_future().kill_on_drop();
    assert!(poll_once(&mut future).is_pending());
    drop(future);
    assert!(latch.recv().is_err()); // its end is closed
    assert_ne!(pool.apply(std::process::id, ())?, pids[0]);
    Ok(())
}

/// Runs the future to its end by each runtime of tokio, with its timers.
fn under_tokio<F: Future<Output = Outcome>>(future: impl Fn() -> F) -> Outcome {
    for mut runtime in
        [tokio::runtime::Builder::new_current_thread(), tokio::runtime::Builder::new_multi_thread()]
    {
        runtime.enable_time().build()?.block_on(future())?;
    }
    Ok(())
}

/// Reports that it has begun, waits for a message, and answers.
fn answer(end: Latch) {
    let _ = end.send(());
    let _ = end.recv().map(|()| end.send(()));
}

fn a_time_limit_of_tokio_withdraws_a_task_or_lets_it_go_on() -> Outcome {
    under_tokio(|| async {
        for method in METHODS {
            let pool = Pool::builder().workers(1).start_method(method).build()?;
            let ((ours, theirs), (report, reports)) = (pipe()?, pipe::<(), ()>()?);
            let running = pool.submit(answer, (theirs,))?;
            ours.recv()?;
            let waiting = pool.submit(block, (reports,))?;
            assert!(timeout(SHORT, waiting).await.is_err());
            assert!(timeout(SHORT, running).await.is_err());
            ours.send(())?;
            assert!(ours.poll(TEST_TIMEOUT)? && ours.recv().is_ok(), "what runs goes on");
            assert_eq!(timeout(TEST_TIMEOUT, pool.submit(square, (3,))?).await??, 9);
            assert!(report.recv().is_err(), "the withdrawn task has run");
        }
        Ok(())
    })
}

fn select_of_tokio_withdraws_what_has_not_begun() -> Outcome {
    under_tokio(|| async {
        for method in METHODS {
            let pool = || Pool::builder().workers(1).start_method(method).build();
            let (busy, idle) = (pool()?, pool()?);
            let (running, latch) = blocked_task(&busy)?;
            let (report, reports) = pipe::<(), ()>()?;
            let waiting = busy.submit(block, (reports,))?;
            let quick = idle.submit(square, (3,))?;
            let squared = tokio::select! {
                result = waiting => panic!("it has not begun: {result:?}"),
                result = quick => result?,
            };
            assert_eq!(squared, 9);
            drop(latch);
            running.await?;
            assert_eq!(busy.submit(square, (4,))?.await?, 16);
            assert!(report.recv().is_err(), "the withdrawn task has run");
        }
        Ok(())
    })
}

/// A waker that runs any function.
struct Call<F: Fn() + Send + Sync>(F);

impl<F: Fn() + Send + Sync> Wake for Call<F> {
    fn wake(self: Arc<Self>) {
        (self.0)();
    }
}

fn waker(function: impl Fn() + Send + Sync + 'static) -> Waker {
    Waker::from(Arc::new(Call(function)))
}

fn a_waker_may_use_the_pool_and_drop_its_futures() -> Outcome {
    let pool = Arc::new(Pool::new(1)?);
    let (running, latch) = blocked_task(&pool)?;
    let other = Mutex::new(Some(pool.submit(square, (3,))?.into_future()));
    let (sender, woken) = mpsc::channel();
    let user = Arc::clone(&pool);
    let waker = waker(move || {
        drop(other.lock().unwrap().take());
        let _ = sender.send(user.apply(square, (4,)));
    });
    let mut future = running.into_future();
    assert!(std::pin::Pin::new(&mut future).poll(&mut Context::from_waker(&waker)).is_pending());
    drop(latch);
    assert_eq!(woken.recv_timeout(TEST_TIMEOUT).unwrap()?, 16);
    Ok(())
}

fn a_waker_may_wait_for_a_task_that_kills_its_worker() -> Outcome {
    let pool = Arc::new(Pool::new(1)?);
    let mut future = pool.submit(thread::sleep, (Duration::from_millis(20),))?.into_future();
    let (outcomes, outcome) = mpsc::channel();
    let dying = Arc::clone(&pool);
    let waker = waker(move || _ = outcomes.send(dying.apply(die, ())));
    assert!(std::pin::Pin::new(&mut future).poll(&mut Context::from_waker(&waker)).is_pending());
    let error = outcome.recv_timeout(TEST_TIMEOUT)?.unwrap_err();
    assert_eq!(error.signal(), Some(6), "{error}");
    Ok(())
}

fn a_waker_may_take_a_lock_of_a_thread_that_waits_for_the_pool() -> Outcome {
    let pool = Pool::new(1)?;
    let (running, latch) = blocked_task(&pool)?;
    let mut future = running.into_future();
    let lock = Arc::new(Mutex::new(()));
    let (wakes, woken) = mpsc::channel();
    let theirs = Arc::clone(&lock);
    let waker = waker(move || {
        drop(theirs.lock());
        let _ = wakes.send(());
    });
    assert!(std::pin::Pin::new(&mut future).poll(&mut Context::from_waker(&waker)).is_pending());
    let held = lock.lock();
    drop(latch);
    assert_eq!(pool.apply(square, (3,))?, 9); // collects the result of the first task
    drop(held);
    woken.recv_timeout(TEST_TIMEOUT)?;
    Ok(())
}

fn the_waker_of_a_process_may_wait_for_another() -> Outcome {
    let (child, latch) = blocked_child()?;
    let mut future = child.into_future();
    let (results, result) = mpsc::channel();
    let is_released = Arc::new(AtomicBool::new(false));
    let theirs = Arc::clone(&is_released);
    let waker = waker(move || {
        if theirs.load(Ordering::Relaxed) {
            let _ = results.send(Process::spawn(die, ()).and_then(Process::join));
        }
    });
    assert!(std::pin::Pin::new(&mut future).poll(&mut Context::from_waker(&waker)).is_pending());
    is_released.store(true, Ordering::Relaxed);
    drop(latch);
    let error = result.recv_timeout(TEST_TIMEOUT)?.unwrap_err();
    assert_eq!(error.signal(), Some(6), "{error}");
    Ok(())
}

fn a_waker_that_panics_harms_only_itself() -> Outcome {
    let pool = Pool::new(1)?;
    let (running, latch) = blocked_task(&pool)?;
    let mut future = running.into_future();
    let (sender, woken) = mpsc::channel();
    let waker = waker(move || {
        let _ = sender.send(());
        panic!("a waker that panics, on purpose");
    });
    assert!(std::pin::Pin::new(&mut future).poll(&mut Context::from_waker(&waker)).is_pending());
    drop(latch);
    woken.recv_timeout(TEST_TIMEOUT)?;
    assert_eq!(pool.apply(square, (3,))?, 9);
    smol::block_on(future)?;
    Ok(())
}

/// Ends the wait of the future by dropping the latch.
fn assert_latest_waker_is_woken(mut future: impl Future + Unpin, latch: Latch) -> Outcome {
    let mut poll = |waker: &Waker| std::pin::Pin::new(&mut future).poll(&mut Context::from_waker(waker));
    assert!(poll(Waker::noop()).is_pending());
    let (wakes, woken) = mpsc::channel();
    let latest = waker(move || _ = wakes.send(()));
    assert!(poll(&latest).is_pending());
    drop(latch);
    while woken.recv_timeout(TEST_TIMEOUT).map(|()| poll(&latest).is_pending())? {}
    Ok(())
}

fn the_latest_waker_is_woken() -> Outcome {
    let pool = Pool::new(1)?;
    let (task, latch) = blocked_task(&pool)?;
    assert_latest_waker_is_woken(task.into_future(), latch)?;
    let (child, latch) = blocked_child()?;
    assert_latest_waker_is_woken(child.into_future(), latch)
}

fn await_task(latch: Latch, waits: Latch) -> Duration {
    let pool = Pool::new(1).unwrap();
    let task = pool.submit(block, (latch,)).unwrap();
    smol::block_on(tests::cpu_time_of_wait(task.into_future(), waits))
}

fn await_process(latch: Latch, waits: Latch) -> Duration {
    let child = Process::spawn(block, (latch,)).unwrap();
    smol::block_on(tests::cpu_time_of_wait(child.into_future(), waits))
}

fn an_awaiting_program_takes_no_cpu_time() -> Outcome {
    fn check(function: impl RemoteFn<(Latch, Latch), Output = Duration>) -> Outcome {
        let ((latch, its_latch), (waits, its_waits)) = (pipe()?, pipe()?);
        let child = Process::spawn(function, (its_latch, its_waits))?;
        tests::assert_wait_is_idle(child, waits, || drop(latch));
        Ok(())
    }
    check(await_task)?;
    check(await_process)
}

fn a_process_is_awaited_under_every_executor() -> Outcome {
    let results = under_every_executor(|| async {
        let (first, second) = (Process::spawn(square, (3,))?, Process::spawn(square, (4,))?);
        Ok::<u64, multiproc::Error>(first.await? + second.await?)
    });
    for result in results {
        assert_eq!(result?, 25);
    }
    Ok(())
}

fn a_killed_process_is_the_error_of_its_future() -> Outcome {
    let (child, _latch) = blocked_child()?;
    child.kill()?;
    assert_eq!(smol::block_on(child.into_future()).unwrap_err().signal(), Some(9));
    Ok(())
}

fn a_dropped_process_future_detaches_the_child_or_kills_it() -> Outcome {
    let (ours, theirs) = pipe::<(), ()>()?;
    let answer = |end: Connection<(), ()>| -> Result<()> {
        end.recv()?;
        Ok(end.send(())?)
    };
    drop(Process::spawn(answer, (theirs,))?.into_future());
    ours.send(())?;
    assert!(ours.poll(TEST_TIMEOUT)? && ours.recv().is_ok(), "the child goes on");
    let (child, latch) = blocked_child()?;
    drop(child.into_future().kill_on_drop());
    assert!(latch.recv().is_err()); // its end is closed
    Ok(())
}

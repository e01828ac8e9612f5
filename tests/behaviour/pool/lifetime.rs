//! The lifetime of a pool: start and shutdown.

use std::thread;
use std::time::Duration;

use multiproc::pool::TaskHandle;
use multiproc::{Connection, Pool, Result, active_children, pipe};
use nix::sys::signal::{SigSet, Signal, raise};

use super::{blocked_task, square};
use crate::support::{Latch, Outcome, TEST_TIMEOUT, block, trials, wait_for_state};

trials![
    zero_workers_are_refused,
    every_call_after_close_is_an_error,
    close_lets_what_was_handed_in_complete,
    close_before_recycled_tasks_finish_still_completes,
    join_waits_for_all_tasks_and_workers,
    join_ends_when_another_thread_takes_the_last_result,
    an_early_failure_with_a_large_payload_does_not_block_join,
    terminate_with_10_000_sleeping_tasks_pending_returns,
    dropping_a_pool_with_work_pending_ends_it,
    dropping_a_pool_lets_a_running_task_finish,
    a_worker_that_ignores_sigterm_or_is_stopped_is_ended_with_its_pool,
    pools_come_and_go,
];

fn zero_workers_are_refused() -> Outcome {
    for builder in [
        Pool::builder().workers(0),
        Pool::builder().workers(1).chunk_size(0),
        Pool::builder().workers(1).max_tasks_per_worker(0),
    ] {
        let error = builder.build().unwrap_err();
        assert!(error.to_string().contains(" must be at least 1"), "{error}");
    }
    assert!(Pool::new(0).is_err());
    Ok(())
}

fn every_call_after_close_is_an_error() -> Outcome {
    let pool = Pool::new(1)?;
    pool.close();
    let errors = [
        pool.submit(square, (1,)).unwrap_err(),
        pool.apply(square, (1,)).unwrap_err(),
        pool.map(square, [1]).unwrap_err(),
        pool.map_results(square, [1]).unwrap_err(),
        pool.starmap(square, [(1,)]).unwrap_err(),
        pool.starmap_results(square, [(1,)]).unwrap_err(),
        pool.imap(square, [1]).next().unwrap().unwrap_err(),
        pool.imap_unordered(square, [1]).next().unwrap().unwrap_err(),
    ];
    for error in errors {
        assert!(error.is_closed(), "{error}");
    }
    pool.close(); // once more is no harm
    Ok(())
}

fn close_lets_what_was_handed_in_complete() -> Outcome {
    let pool = Pool::new(2)?;
    let (running, latch) = blocked_task(&pool)?;
    let waiting: Vec<_> = (0..100).map(|number| pool.submit(square, (number,))).collect::<Result<_>>()?;
    pool.close();
    drop(latch);
    running.get()?;
    for (number, task) in (0..).zip(waiting) {
        assert_eq!(task.get()?, square(number));
    }
    Ok(())
}

fn close_before_recycled_tasks_finish_still_completes() -> Outcome {
    let pool = Pool::builder().workers(2).max_tasks_per_worker(1).build()?;
    let tasks: Vec<_> = (0..20).map(|number| pool.submit(square, (number,))).collect::<Result<_>>()?;
    pool.close();
    pool.join();
    for (number, task) in (0..).zip(tasks) {
        assert!(task.is_ready());
        assert_eq!(task.get()?, square(number));
    }
    Ok(())
}

fn has_a_child_of(pids: &[u32]) -> bool {
    active_children().iter().any(|child| pids.contains(&child.pid()))
}

fn join_waits_for_all_tasks_and_workers() -> Outcome {
    let pool = Pool::new(2)?;
    let pids = pool.worker_pids();
    let (running, latch) = blocked_task(&pool)?;
    let tasks: Vec<_> = (0..50).map(|number| pool.submit(square, (number,))).collect::<Result<_>>()?;
    let join = thread::spawn(move || pool.join());
    assert!(!join.is_finished(), "a task still runs");
    drop(latch);
    join.join().unwrap();
    assert!(running.is_ready() && tasks.iter().all(TaskHandle::is_ready));
    assert!(!has_a_child_of(&pids));
    for (number, task) in (0..).zip(tasks) {
        assert_eq!(task.get()?, square(number));
    }
    Ok(())
}

fn join_ends_when_another_thread_takes_the_last_result() -> Outcome {
    for _ in 0..20 {
        let pool = Pool::new(2)?;
        let (mut running, latch) = blocked_task(&pool)?;
        let join = thread::spawn(move || pool.join());
        let get = thread::spawn(move || running.get_timeout(TEST_TIMEOUT));
        thread::sleep(Duration::from_millis(5)); // mostly both wait by then; if not, that is well, too
        drop(latch);
        assert_eq!(get.join().unwrap()?, Some(()));
        join.join().unwrap();
    }
    Ok(())
}

fn an_early_failure_with_a_large_payload_does_not_block_join() -> Outcome {
    let pool = Pool::new(2)?;
    let work = |payload: Vec<u8>| if payload[0] == 0 { panic!("the first one") } else { payload };
    let error = pool.map(work, (0..20).map(|byte| vec![byte; 400_000])).unwrap_err();
    assert_eq!(error.index(), Some(0));
    pool.join();
    Ok(())
}

/// A task that never ends by itself.
fn sleep_long() {
    thread::sleep(Duration::from_secs(3600));
}

/// Every task has an error, and those that ran were ended by signal 15 or 9.
fn all_were_ended(tasks: Vec<TaskHandle<()>>) {
    for task in tasks {
        let error = task.get().unwrap_err();
        assert!(error.is_cancelled() || matches!(error.signal(), Some(9 | 15)), "{error}");
    }
}

fn terminate_with_10_000_sleeping_tasks_pending_returns() -> Outcome {
    let pool = Pool::new(2)?;
    let pids = pool.worker_pids();
    let (running, _latch) = blocked_task(&pool)?;
    let mut tasks: Vec<_> = (0..10_000).map(|_| pool.submit(sleep_long, ())).collect::<Result<_>>()?;
    tasks.push(running);
    pool.terminate();
    assert!(!has_a_child_of(&pids));
    all_were_ended(tasks);
    Ok(())
}

fn dropping_a_pool_with_work_pending_ends_it() -> Outcome {
    let pool = Pool::builder().workers(2).shutdown_timeout(Duration::from_millis(300)).build()?;
    let pids = pool.worker_pids();
    let (running, _latch) = blocked_task(&pool)?;
    let mut tasks: Vec<_> = (0..20).map(|_| pool.submit(sleep_long, ())).collect::<Result<_>>()?;
    tasks.push(running);
    drop(pool);
    assert!(!has_a_child_of(&pids));
    all_were_ended(tasks);
    Ok(())
}

fn dropping_a_pool_lets_a_running_task_finish() -> Outcome {
    let pool = Pool::builder().workers(1).shutdown_timeout(2 * TEST_TIMEOUT).build()?;
    let (running, latch) = blocked_task(&pool)?;
    let waiting = pool.submit(square, (1,))?;
    let dropping = thread::spawn(move || drop(pool));
    assert!(waiting.get().unwrap_err().is_cancelled());
    drop(latch); // not before the drop has begun
    running.get()?;
    dropping.join().unwrap();
    Ok(())
}

/// Neither worker dies of SIGTERM: one blocks it, the other is stopped.
fn a_worker_that_ignores_sigterm_or_is_stopped_is_ended_with_its_pool() -> Outcome {
    let block_and_stay = |latch: Latch| {
        SigSet::all().thread_block().unwrap();
        block(latch);
    };
    let stop = |teller: Connection<u32, ()>| {
        teller.send(std::process::id()).unwrap();
        raise(Signal::SIGSTOP).unwrap();
        sleep_long();
    };
    for end in [|pool: Pool| pool.terminate(), drop] {
        let pool = Pool::builder().workers(2).shutdown_timeout(Duration::from_millis(300)).build()?;
        let pids = pool.worker_pids();
        let (latch, theirs) = pipe()?;
        let blocking = pool.submit(block_and_stay, (theirs,))?;
        latch.recv()?;
        let (pid, theirs) = pipe()?;
        let stopped = pool.submit(stop, (theirs,))?;
        wait_for_state(pid.recv()?, 'T');
        end(pool);
        assert!(!has_a_child_of(&pids));
        all_were_ended(vec![blocking, stopped]);
    }
    Ok(())
}

fn pools_come_and_go() -> Outcome {
    for workers in [1, 2, 3, 8] {
        for end in [Pool::join, |pool: Pool| pool.terminate(), drop] {
            let pool = Pool::new(workers)?;
            let pids = pool.worker_pids();
            assert_eq!(pids.len(), workers);
            end(pool); // most workers are not up yet
            assert!(!has_a_child_of(&pids));
        }
    }
    Ok(())
}

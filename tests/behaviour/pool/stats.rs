//! **Statistics**: what the workers have done, and how they ended.

use std::process::abort;
use std::thread;
use std::time::Duration;

use multiproc::pool::{Histogram, WorkerStats};
use multiproc::{Connection, Pool, current, pipe};
use nix::sys::signal::Signal;

use super::{HOUR, SHORT, blocked_task, square};
use crate::support::{METHODS, Outcome, eventually, send_signal, trials};

trials![
    every_task_counts_once_as_done_or_failed,
    a_death_counts_and_so_do_the_runs_that_it_causes,
    workers_that_the_pool_kills_count_by_the_cause,
    each_worker_has_its_own_numbers_and_the_total_is_their_sum,
    workers_that_are_told_to_exit_count_as_such,
    each_reason_to_exit_counts_for_itself,
    the_table_shows_the_ends_that_there_were,
    workers_that_cannot_start_count_as_dead,
    the_work_of_former_workers_is_kept,
    a_running_task_counts_as_running_and_an_idle_worker_waits,
    what_waits_for_a_worker_is_pending,
    a_broadcast_that_waits_for_a_worker_is_pending,
    inline_there_is_nothing_to_count,
    run_times_tell_short_tasks_from_long_ones,
    a_rare_long_task_among_short_ones_has_its_own_time,
    a_task_with_a_time_limit_and_a_thread_has_its_run_time,
    the_run_times_of_former_workers_are_kept,
    what_waits_for_a_worker_has_a_wait_time,
];

/// The ends: died, timed out, cancelled, told to exit.
fn ends(stats: &WorkerStats) -> [u64; 4] {
    [stats.died, stats.timed_out, stats.cancelled, told_to_exit(stats).iter().sum()]
}

/// Those that were told to exit: recycled, overgrown, idled out, scaled down, shut down.
fn told_to_exit(stats: &WorkerStats) -> [u64; 5] {
    [stats.recycled, stats.overgrown, stats.idled_out, stats.scaled_down, stats.shut_down]
}

fn tasks(stats: &WorkerStats) -> [u64; 3] {
    [stats.tasks_done, stats.tasks_failed, stats.tasks_retried]
}

fn every_task_counts_once_as_done_or_failed() -> Outcome {
    let pool = Pool::new(2)?;
    let small = |number: u64| if number.is_multiple_of(1_000) { panic!("on purpose") } else { number };
    let _ = pool.map_results(small, 0..50_000)?;
    let large = |bytes: Vec<u8>| if bytes[0] == 0 { panic!("on purpose") } else { bytes };
    let _ = pool.map_results(large, (0..10).map(|number| vec![number; 100_000]))?;
    let refused = || Err::<(), String>("it is a result".to_owned());
    assert!(pool.apply(refused, ())?.is_err());
    let stats = pool.stats();
    assert_eq!(tasks(&stats.total()), [50_000 - 50 + 10 - 1 + 1, 51, 0]);
    assert_eq!((ends(&stats.total()), stats.pending), ([0; 4], 0));
    let mut pids: Vec<_> = stats.workers.iter().filter_map(|worker| worker.pid).collect();
    let mut expected = pool.worker_pids();
    pids.sort_unstable();
    expected.sort_unstable();
    assert_eq!(pids, expected);
    Ok(())
}

fn a_death_counts_and_so_do_the_runs_that_it_causes() -> Outcome {
    let pool = Pool::new(2)?;
    let die = || -> () { abort() };
    assert!(pool.apply(die, ()).is_err());
    assert_eq!((tasks(&pool.stats().total()), ends(&pool.stats().total())), ([0, 1, 0], [1, 0, 0, 0]));
    assert!(pool.options().retries(2).apply(die, ()).is_err());
    assert_eq!((tasks(&pool.stats().total()), ends(&pool.stats().total())), ([0, 2, 2], [4, 0, 0, 0]));
    Ok(())
}

fn workers_that_the_pool_kills_count_by_the_cause() -> Outcome {
    let pool = Pool::new(1)?;
    let sleep = thread::sleep;
    assert!(pool.options().timeout(SHORT).apply(sleep, (HOUR,)).unwrap_err().is_timeout());
    assert_eq!((tasks(&pool.stats().total()), ends(&pool.stats().total())), ([0, 1, 0], [0, 1, 0, 0]));
    let (task, _latch) = blocked_task(&pool)?;
    assert!(task.cancel() && task.get().is_err());
    assert_eq!((tasks(&pool.stats().total()), ends(&pool.stats().total())), ([0, 2, 0], [0, 1, 1, 0]));
    Ok(())
}

/// Blocks its worker until the other end is dropped.
fn tell_index_and_block(end: Connection<usize, ()>) {
    let _ = end.send(current().worker_index().unwrap());
    let _ = end.recv();
}

fn each_worker_has_its_own_numbers_and_the_total_is_their_sum() -> Outcome {
    let pool = Pool::new(4)?;
    let block_one = || {
        let (latch, theirs) = pipe::<(), usize>()?;
        let task = pool.submit(tell_index_and_block, (theirs,))?;
        Ok::<_, multiproc::Error>((latch.recv()?, task, latch))
    };
    let ((one, task, latch), (two, cancelled, _latch), (three, killed, _other)) =
        (block_one()?, block_one()?, block_one()?);
    let four = (0..4).find(|index| ![one, two, three].contains(index)).unwrap();
    let pids: Vec<u32> = pool.stats().workers.iter().map(|worker| worker.pid.unwrap()).collect();

    assert_eq!(pool.map(square, 0..5)?.len(), 5);
    assert!((0..2).all(|_| pool.apply(|| -> () { panic!("on purpose") }, ()).is_err()));
    let late = pool.options().timeout(SHORT).apply(thread::sleep, (HOUR,)).unwrap_err();
    assert_eq!(late.pid(), Some(pids[four]));
    drop(latch);
    task.get()?;
    assert!(cancelled.cancel() && cancelled.get().is_err());
    send_signal(pids[three], Signal::SIGKILL);
    assert_eq!(killed.get().unwrap_err().pid(), Some(pids[three]));

    let mut expected = [[0; 7]; 4]; // as `tasks` and `ends` have them
    expected[one] = [1, 0, 0, 0, 0, 0, 0];
    expected[two] = [0, 1, 0, 0, 0, 1, 0];
    expected[three] = [0, 1, 0, 1, 0, 0, 0];
    expected[four] = [5, 3, 0, 0, 1, 0, 0];
    let stats = pool.stats();
    let numbers = |worker: &WorkerStats| [&tasks(worker)[..], &ends(worker)[..]].concat();
    assert_eq!(stats.workers.iter().map(numbers).collect::<Vec<_>>(), expected);
    let sums: Vec<u64> = (0..7).map(|column| expected.iter().map(|row| row[column]).sum()).collect();
    assert_eq!(numbers(&stats.total()), sums);
    let sum = |time: fn(&WorkerStats) -> Duration| stats.workers.iter().map(time).sum::<Duration>();
    assert_eq!(
        [sum(|worker| worker.running), sum(|worker| worker.waiting), sum(|worker| worker.starting)],
        [stats.total().running, stats.total().waiting, stats.total().starting]
    );
    Ok(())
}

fn workers_that_are_told_to_exit_count_as_such() -> Outcome {
    let pool = Pool::builder().workers(1).max_tasks_per_worker(5).build()?;
    assert_eq!(pool.map(square, 0..20)?.len(), 20);
    eventually("four workers have ended", || pool.stats().total().recycled == 4);
    assert_eq!((tasks(&pool.stats().total()), ends(&pool.stats().total())), ([20, 0, 0], [0, 0, 0, 4]));
    eventually("the fifth is there", || pool.worker_pids().len() == 1);
    assert!(pool.join_timeout(HOUR));
    let total = pool.stats().total();
    assert_eq!((ends(&total), told_to_exit(&total)), ([0, 0, 0, 5], [4, 0, 0, 0, 1]));
    Ok(())
}

fn each_reason_to_exit_counts_for_itself() -> Outcome {
    for method in METHODS {
        let builder = || Pool::builder().workers(1).start_method(method);
        let exits = |pool: &Pool| told_to_exit(&pool.stats().total());

        let idle = builder().idle_timeout(Duration::from_millis(1)).build()?;
        idle.apply(square, (1,))?;
        eventually("an idle worker has ended", || exits(&idle)[2] > 0);
        assert!(idle.join_timeout(HOUR));
        let total = idle.stats().total();
        assert_eq!(ends(&total)[3], total.idled_out + total.shut_down, "{total:?}");

        let growing = builder().max_growth_per_worker(8 << 20).build()?;
        growing.apply(|| _ = vec![1_u8; 32 << 20].leak(), ())?;
        eventually("an overgrown worker has ended", || exits(&growing)[1] > 0);
        assert_eq!(exits(&growing), [0, 1, 0, 0, 0]);
        eventually("its successor is there", || growing.worker_pids().len() == 1);
        growing.terminate();
        eventually("its successor has ended", || ends(&growing.stats().total())[3] == 2);
        assert_eq!(exits(&growing), [0, 1, 0, 0, 1]);
    }
    Ok(())
}

fn the_table_shows_the_ends_that_there_were() -> Outcome {
    let pool = Pool::builder().workers(1).max_tasks_per_worker(5).build()?;
    let titles = || pool.stats().to_string().lines().next().unwrap_or_default().to_owned();
    assert!(!titles().contains("recycled"), "{}", titles());
    pool.map(square, 0..10)?;
    eventually("two workers have ended", || pool.stats().total().recycled == 2);
    let titles = titles();
    assert!(titles.contains("retried  recycled  running"), "{titles}");
    Ok(())
}

fn workers_that_cannot_start_count_as_dead() -> Outcome {
    let pool = Pool::builder().workers(1).initializer(|| -> () { panic!("on purpose") }, ()).build()?;
    assert!(pool.apply(square, (1,)).is_err());
    eventually("a worker has died", || pool.stats().total().died > 0);
    assert_eq!(tasks(&pool.stats().total()), [0; 3]);
    Ok(())
}

fn the_work_of_former_workers_is_kept() -> Outcome {
    let pool = Pool::new(3)?;
    pool.map(square, 0..1_000)?;
    pool.resize(1)?;
    eventually("two workers have ended", || pool.stats().total().scaled_down == 2);
    let stats = pool.stats();
    assert_eq!(told_to_exit(&stats.total()), [0, 0, 0, 2, 0]);
    assert_eq!((tasks(&stats.total()), stats.workers.len()), ([1_000, 0, 0], 3));
    assert_eq!(stats.workers.iter().filter(|worker| worker.pid.is_some()).count(), 1);
    Ok(())
}

fn a_running_task_counts_as_running_and_an_idle_worker_waits() -> Outcome {
    const TIME: Duration = Duration::from_millis(50);
    let pool = Pool::new(1)?;
    pool.apply(square, (1,))?;
    eventually("it has waited", || pool.stats().total().waiting >= TIME);
    let before = pool.stats().total();
    assert!(before.starting > Duration::ZERO);
    let (task, latch) = blocked_task(&pool)?;
    eventually("it has run", || pool.stats().total().running >= before.running + TIME);
    let running = pool.stats().total();
    drop(latch);
    task.get()?;
    assert!(pool.stats().total().running >= running.running);
    eventually("it has waited again", || pool.stats().total().waiting >= running.waiting + TIME);
    // The time of a task that is killed counts, too.
    let (task, _latch) = blocked_task(&pool)?;
    eventually("it has run again", || pool.stats().total().running >= running.running + TIME);
    assert!(task.cancel() && task.get().is_err());
    assert!(pool.stats().total().running >= running.running + TIME);
    Ok(())
}

fn a_broadcast_that_waits_for_a_worker_is_pending() -> Outcome {
    let pool = Pool::new(2)?;
    let (task, latch) = blocked_task(&pool)?;
    thread::scope(|scope| {
        let results = scope.spawn(|| pool.broadcast(square, (7,)));
        // One worker is blocked, and the other may have its result.
        eventually("it waits", || pool.stats().pending >= 2);
        drop(latch);
        task.get()?;
        assert_eq!(results.join().unwrap()?.len(), 2);
        assert_eq!(pool.stats().pending, 0);
        Ok(())
    })
}

fn what_waits_for_a_worker_is_pending() -> Outcome {
    let pool = Pool::new(1)?;
    let (task, latch) = blocked_task(&pool)?;
    let behind = (0..7).map(|number| pool.submit(square, (number,))).collect::<Result<Vec<_>, _>>()?;
    assert_eq!(pool.stats().pending, 8);
    drop(latch);
    task.get()?;
    for task in behind {
        task.get()?;
    }
    assert_eq!(pool.stats().pending, 0);
    Ok(())
}

fn inline_there_is_nothing_to_count() -> Outcome {
    let pool = Pool::builder().inline(true).build()?;
    pool.apply(square, (1,))?;
    let stats = pool.stats();
    assert_eq!((stats.workers.len(), stats.pending, stats.total()), (0, 0, WorkerStats::default()));
    Ok(())
}

/// How many times may be at least this long.
fn at_least(times: &Histogram, least: Duration) -> u64 {
    times.buckets().filter(|(limit, _)| *limit > least).map(|(_, count)| count).sum()
}

fn run_times_tell_short_tasks_from_long_ones() -> Outcome {
    const LONG: Duration = Duration::from_millis(50);
    let pool = Pool::new(2)?;
    pool.map(square, 0..10_000)?;
    pool.map(thread::sleep, [LONG; 5])?;
    // A worker counts the last ones when it begins to wait.
    eventually("all are counted", || pool.stats().total().run_times.count() == 10_005);
    let times = pool.stats().total().run_times;
    assert!(at_least(&times, LONG) >= 5, "{times}");
    assert!(times.quantile(0.5) < Some(LONG) && times.quantile(1.0) > Some(LONG), "{times}");
    let by_worker = pool.stats().workers.iter().map(|worker| worker.run_times.count()).sum::<u64>();
    assert_eq!(by_worker, 10_005);
    Ok(())
}

fn a_rare_long_task_among_short_ones_has_its_own_time() -> Outcome {
    const LONG: Duration = Duration::from_millis(50);
    const ITEMS: u64 = 100_000;
    let pool = Pool::new(1)?;
    let rarely_long = |number: u64| {
        if number % (ITEMS / 4) == ITEMS / 8 {
            thread::sleep(LONG);
        }
        number
    };
    pool.map(rarely_long, 0..ITEMS)?;
    eventually("all are counted", || pool.stats().total().run_times.count() == ITEMS);
    let times = pool.stats().total().run_times;
    assert!(at_least(&times, LONG) >= 4, "{times}");
    assert!(times.quantile(0.9) < Some(LONG), "{times}");
    Ok(())
}

fn a_task_with_a_time_limit_and_a_thread_has_its_run_time() -> Outcome {
    const LONG: Duration = Duration::from_millis(50);
    fn sleep_beside_a_thread() {
        let (end, wait) = std::sync::mpsc::channel::<()>();
        let thread = thread::spawn(move || wait.recv());
        thread::sleep(LONG);
        drop(end);
        let _ = thread.join();
    }
    fn leave_a_thread() {
        thread::spawn(thread::park);
    }
    let pool = Pool::new(1)?;
    pool.apply(leave_a_thread, ())?;
    pool.options().timeout(HOUR).apply(sleep_beside_a_thread, ())?;
    eventually("both are counted", || pool.stats().total().run_times.count() == 2);
    assert_eq!(at_least(&pool.stats().total().run_times, LONG), 1);
    Ok(())
}

fn the_run_times_of_former_workers_are_kept() -> Outcome {
    let pool = Pool::builder().workers(1).max_tasks_per_worker(3).build()?;
    for _ in 0..8 {
        pool.apply(square, (3,))?;
    }
    eventually("two workers have ended", || pool.stats().total().recycled >= 2);
    eventually("all are counted", || pool.stats().total().run_times.count() == 8);
    Ok(())
}

fn what_waits_for_a_worker_has_a_wait_time() -> Outcome {
    let pool = Pool::new(1)?;
    let (task, latch) = blocked_task(&pool)?;
    let behind = (0..50).map(|number| pool.submit(square, (number,))).collect::<Result<Vec<_>, _>>()?;
    let long = Duration::from_millis(100);
    thread::sleep(long);
    drop(latch);
    task.get()?;
    behind.into_iter().try_for_each(|task| task.get().map(drop))?;
    let times = pool.stats().wait_times;
    assert_eq!(times.count(), 51, "{times}");
    // The kernel's coarse clock may be behind by a tick; and the worker may have got some with the first one.
    assert!(at_least(&times, long / 2) >= 30, "{times}");
    Ok(())
}

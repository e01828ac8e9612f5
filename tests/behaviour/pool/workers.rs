//! Workers: their start, the resources that they hold, and their replacement.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::OnceLock;

use multiproc::queue::{Sender, bounded};
use multiproc::{Connection, Pool, Process, Result, TaskError, active_children, pipe};
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, raise};

use super::{blocked_task, square};
use crate::support::{BadValue, Outcome, alone, blocked_child, descriptors, open_without_children, trials};

trials![
    workers_are_distinct_children_of_this_process,
    a_worker_may_have_children_and_a_pool,
    recycled_workers_get_new_pids_and_all_results_are_right,
    the_initializer_runs_once_in_each_worker_before_its_tasks,
    an_initializer_that_panics_is_reported_once_and_not_respawned_without_end,
    an_initializer_that_returns_an_error_is_reported_once_and_not_respawned_without_end,
    an_initializer_that_exits_is_reported_once_and_not_respawned_without_end,
    an_initializer_that_is_killed_is_reported_once_and_not_respawned_without_end,
    an_initializers_argument_that_does_not_encode_is_an_error,
    workers_that_cannot_start_in_the_constructor_leave_nothing_behind,
    arguments_are_released_after_the_task,
    a_pool_leaves_no_descriptor_open,
    a_worker_holds_no_descriptor_of_its_siblings_or_its_parent,
];

fn workers_are_distinct_children_of_this_process() -> Outcome {
    let pool = Pool::new(3)?;
    let mut pids = pool.worker_pids();
    pids.sort_unstable();
    pids.dedup();
    assert_eq!(pids.len(), 3);
    let children: Vec<u32> = active_children().iter().map(multiproc::ProcessInfo::pid).collect();
    assert!(pids.iter().all(|pid| children.contains(pid)));
    let who = |_: u32| (std::process::id(), multiproc::parent().unwrap().pid());
    for (pid, parent) in pool.map(who, 0..20)? {
        assert!(pids.contains(&pid));
        assert_eq!(parent, std::process::id());
    }
    Ok(())
}

fn a_worker_may_have_children_and_a_pool() -> Outcome {
    let pool = Pool::new(2)?;
    let delegate = |number: u64| -> Result<(u64, Vec<u64>)> {
        let alone = Process::spawn(square, (number,))?.join()?;
        Ok((alone, Pool::new(2)?.map(square, 0..number)?))
    };
    for (number, result) in (0..4).zip(pool.map(delegate, 0..4)?) {
        assert_eq!(result?, (square(number), (0..number).map(square).collect()));
    }
    Ok(())
}

fn recycled_workers_get_new_pids_and_all_results_are_right() -> Outcome {
    let who = |number: u64| (square(number), std::process::id());
    for chunk_size in [1, 7] {
        let pool = Pool::builder().workers(2).max_tasks_per_worker(3).chunk_size(chunk_size).build()?;
        let mut served = BTreeMap::new();
        for (number, (result, pid)) in (0..).zip(pool.map(who, 0..30)?) {
            assert_eq!(result, square(number));
            *served.entry(pid).or_insert(0) += 1;
        }
        assert!(served.values().all(|&tasks| tasks <= 3), "{served:?}");
        assert!(served.len() >= 10, "{served:?}");
    }
    Ok(())
}

static BEGINNINGS: OnceLock<(Sender<u32>, u32)> = OnceLock::new();

fn begin(log: Sender<u32>, number: u32) {
    log.send(std::process::id()).unwrap();
    assert!(BEGINNINGS.set((log, number)).is_ok(), "the initializer ran twice");
}

fn the_initializer_runs_once_in_each_worker_before_its_tasks() -> Outcome {
    let (log, entries) = bounded(100)?;
    let pool = Pool::builder().workers(3).initializer(begin, (log, 40)).build()?;
    let add = |number: u32| (BEGINNINGS.get().unwrap().1 + number, std::process::id());
    let results = pool.map(add, 0..50)?;
    let pids = pool.worker_pids();
    pool.join();
    let mut beginners: Vec<u32> = entries.into_iter().collect::<Result<_>>()?;
    assert!(results.iter().map(|result| result.0).eq(40..90));
    assert!(results.iter().all(|(_, pid)| beginners.contains(pid)));
    beginners.sort_unstable();
    beginners.dedup();
    assert!(
        beginners.len() <= 3 && beginners.iter().all(|pid| pids.contains(pid)),
        "{beginners:?} of {pids:?}"
    );
    Ok(())
}

/// How an initializer fails.
#[derive(Clone, Copy, serde::Serialize, serde::Deserialize)]
enum Failure {
    Error,
    Panic,
    Exit,
    Kill,
}

fn begin_and_fail(log: Sender<u32>, failure: Failure) -> Result<(), TaskError> {
    log.send(std::process::id())?;
    match failure {
        Failure::Error => Err(TaskError::from("not today")),
        Failure::Panic => panic!("not today"),
        Failure::Exit => std::process::exit(9),
        Failure::Kill => Ok(raise(Signal::SIGKILL)?),
    }
}

/// Pending and later tasks get the same error; a bounded number of workers is started, and no more after it.
fn initializer_that_fails(failure: Failure, why: &str) -> Outcome {
    let (log, entries) = bounded(1000)?;
    let pool = Pool::builder().workers(2).try_initializer(begin_and_fail, (log, failure)).build()?;
    let waiting: Vec<_> = (0..10).map_while(|number| pool.submit(square, (number,)).ok()).collect();
    for task in waiting {
        let error = task.get().unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
    }
    let first = pool.map(square, 0..10).unwrap_err();
    assert!(first.to_string().contains(why), "{first}");
    for _ in 0..20 {
        let later = pool.apply(square, (1,)).unwrap_err();
        assert_eq!(later.pid(), first.pid(), "{later}, after {first}");
    }
    drop(pool);
    let started = entries.into_iter().count();
    assert!((1..=50).contains(&started), "{started} workers were started");
    Ok(())
}

fn an_initializer_that_returns_an_error_is_reported_once_and_not_respawned_without_end() -> Outcome {
    initializer_that_fails(Failure::Error, "not today")
}

fn an_initializer_that_panics_is_reported_once_and_not_respawned_without_end() -> Outcome {
    initializer_that_fails(Failure::Panic, "not today")
}

fn an_initializer_that_exits_is_reported_once_and_not_respawned_without_end() -> Outcome {
    initializer_that_fails(Failure::Exit, "exited with code 9")
}

fn an_initializer_that_is_killed_is_reported_once_and_not_respawned_without_end() -> Outcome {
    initializer_that_fails(Failure::Kill, "was killed by SIGKILL")
}

fn an_initializers_argument_that_does_not_encode_is_an_error() -> Outcome {
    let initializer = |_: BadValue| ();
    let pool = Pool::builder().workers(1).initializer(initializer, (BadValue::Unencodable,));
    assert!(pool.build().unwrap_err().is_codec());
    Ok(())
}

fn workers_that_cannot_start_in_the_constructor_leave_nothing_behind() -> Outcome {
    alone(want_too_many_workers)
}

fn want_too_many_workers() -> Result<()> {
    Pool::new(1)?.join(); // the first use opens descriptors that stay open
    let before = open_without_children();
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 40, hard).unwrap();
    let error = Pool::new(100).unwrap_err();
    assert_eq!(error.os_error(), Some(Errno::EMFILE as i32), "{error}");
    assert_eq!(active_children(), []);
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    assert_eq!(open_without_children(), before);
    assert_eq!(Pool::new(2)?.map(square, 0..3)?, [0, 1, 4]);
    Ok(())
}

/// Whether a task returns, panics or kills its worker: its resources are released while the pool lives.
fn arguments_are_released_after_the_task() -> Outcome {
    let pool = Pool::new(2)?;
    let consume = |_peer: Connection<(), ()>, number: u32| match number {
        0 => (),
        1 => panic!("on purpose"),
        _ => raise(Signal::SIGKILL).unwrap(),
    };
    for number in 0..3 {
        let (ours, theirs) = pipe::<(), ()>()?;
        let task = pool.submit(consume, (theirs, number))?;
        assert!(ours.recv().unwrap_err().is_disconnected(), "only the task held the other end");
        assert_eq!(task.get().is_ok(), number == 0);
    }
    let (sender, receiver) = bounded::<u32>(1)?;
    assert_eq!(
        pool.starmap(|_: Sender<u32>, x: u32| x, (0..5).map(|x| (sender.clone(), x)))?,
        [0, 1, 2, 3, 4]
    );
    drop(sender);
    assert!(receiver.recv().unwrap_err().is_disconnected());
    Ok(())
}

fn a_pool_leaves_no_descriptor_open() -> Outcome {
    alone(|| {
        use_a_pool()?; // the first use opens descriptors that stay open
        let before = open_without_children();
        (0..5).try_for_each(|_| use_a_pool())?;
        assert_eq!(open_without_children(), before);
        Ok(())
    })
}

fn use_a_pool() -> Result<()> {
    let pool = Pool::new(2)?;
    let held = || pool.map(|_: u32| descriptors(), 0..10);
    let before = held()?;
    let echo = |bytes: Vec<u8>| if bytes[0] == 7 { panic!("on purpose") } else { bytes };
    let outcomes = pool.map_results(echo, (0..20).map(|byte| vec![byte; 40_000]))?;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 19);
    assert_eq!(held()?, before, "in the workers");
    assert!(pool.apply(|| -> () { std::process::abort() }, ()).is_err());
    pool.join();
    Ok(())
}

fn a_worker_holds_no_descriptor_of_its_siblings_or_its_parent() -> Outcome {
    let held = |pool: &Pool| pool.map(|_: u32| descriptors(), 0..10);
    let lonely = held(&Pool::new(1)?)?;
    let _open = (File::open("/dev/null")?, pipe::<(), ()>()?, bounded::<u32>(1)?, blocked_child()?);
    let pool = Pool::new(4)?;
    let (task, latch) = blocked_task(&pool)?;
    assert_eq!(held(&pool)?, lonely);
    drop(latch);
    Ok(task.get()?)
}

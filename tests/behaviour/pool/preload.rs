//! **A preloaded state**: made once, and every worker begins with a copy of it.

use std::cell::Cell;
use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::process::id;
use std::thread;
use std::time::Instant;

use multiproc::pool::{PoolBuilder, State};
use multiproc::queue::{self, Receiver, Sender};
use multiproc::{ErrorKind, Pool, Process, StartMethod, TaskError, pipe};
use nix::sys::signal::Signal;

use super::{HOUR, SHORT};
use crate::support::{Latch, Outcome, TEST_TIMEOUT, alone, block, eventually, send_signal, trials};

trials![
    it_is_made_once_and_every_worker_has_a_copy,
    what_a_worker_changes_stays_there,
    workers_share_its_memory,
    thread_local_state_is_fresh_in_a_worker,
    initializers_and_broadcasts_find_it,
    with_another_start_method_it_is_an_error,
    a_panic_and_a_crash_of_its_function_are_errors_of_the_pool,
    an_error_of_its_function_is_that_of_the_pool,
    a_function_that_leaves_a_thread_is_an_error,
    a_function_has_limited_time,
    a_function_whose_process_is_killed_is_an_error,
    it_is_made_again_when_its_process_was_killed,
    the_process_ends_with_the_pool,
    a_pool_ends_in_time_while_its_state_is_made_again,
    a_pool_ends_in_time_while_its_process_does_not_answer,
    stop_fork_server_ends_it_and_the_pool_goes_on,
    inline_the_caller_makes_it,
];

/// The process that made it, and a number that tasks change.
struct Made {
    by: u32,
    number: u64,
}

impl Made {
    fn new(number: u64) -> Self {
        Self { by: id(), number }
    }

    fn by(&mut self) -> (u32, u32) {
        (self.by, id())
    }

    fn add(&mut self, number: u64) -> (u32, u64) {
        self.number += number;
        (id(), self.number)
    }
}

fn forking() -> PoolBuilder {
    Pool::builder().workers(2).start_method(StartMethod::ForkServer)
}

/// The process that made the state of all workers.
fn maker(pool: &Pool<State<Made>>) -> multiproc::Result<u32> {
    let makers = pool.options().retries(20).map(|made: &mut Made, _: u32| made.by().0, 0..100)?;
    assert!(makers.iter().all(|maker| *maker == makers[0]), "{makers:?}");
    Ok(makers[0])
}

fn it_is_made_once_and_every_worker_has_a_copy() -> Outcome {
    let (sender, made) = queue::bounded::<u32>(16)?;
    let make = |sender: Sender<u32>| {
        sender.send(id()).unwrap();
        Made::new(7)
    };
    let pool = forking().preload(make, (sender,)).build()?;
    let maker_pid = maker(&pool)?;
    for _ in 0..3 {
        pool.worker_pids().into_iter().for_each(|pid| send_signal(pid, Signal::SIGKILL));
        assert_eq!(maker(&pool)?, maker_pid);
    }
    pool.resize(4)?;
    eventually("there are four", || pool.worker_pids().len() == 4);
    let all = pool.broadcast(Made::by, ())?.into_iter().collect::<Result<HashSet<_>, _>>()?;
    assert!(all.len() == 4 && all.iter().all(|&(by, worker)| by == maker_pid && worker != by), "{all:?}");
    drop(pool);
    assert_eq!((made.recv()?, made.recv().is_err()), (maker_pid, true)); // nothing else was sent
    Ok(())
}

fn what_a_worker_changes_stays_there() -> Outcome {
    let pool = forking().preload(Made::new, (100,)).build()?;
    let counts = pool.map(Made::add, vec![1; 1000])?;
    for pid in counts.iter().map(|count| count.0).collect::<HashSet<_>>() {
        let mut own: Vec<u64> = counts.iter().filter(|count| count.0 == pid).map(|count| count.1).collect();
        own.sort_unstable();
        assert!(own.iter().copied().eq(101..=100 + own.len() as u64), "{own:?}");
    }
    pool.worker_pids().into_iter().for_each(|pid| send_signal(pid, Signal::SIGKILL));
    eventually("a replacement begins with what was made", || {
        pool.apply(Made::add, (0,)).is_ok_and(|count| count.1 == 100)
    });
    Ok(())
}

fn workers_share_its_memory() -> Outcome {
    const SIZE: usize = 64 << 20;
    let pool = forking().preload(|byte: u8| vec![byte; SIZE], (7,)).build()?;
    let private_kibibytes = |bytes: &mut Vec<u8>| -> (usize, usize) {
        let sum = bytes.iter().step_by(4096).map(|&byte| usize::from(byte)).sum();
        let usage = fs::read_to_string("/proc/self/smaps_rollup").unwrap();
        let private = usage.lines().filter(|line| line.starts_with("Private_"));
        (sum, private.map(|line| line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap()).sum())
    };
    for result in pool.broadcast(private_kibibytes, ())? {
        let (sum, private) = result?;
        assert_eq!(sum, 7 * SIZE / 4096);
        assert!(private * 1024 < SIZE / 2, "{private} KiB");
    }
    Ok(())
}

thread_local!(static LOCAL: Cell<u64> = const { Cell::new(1) });

fn thread_local_state_is_fresh_in_a_worker() -> Outcome {
    let pool = forking().preload(|| LOCAL.replace(2), ()).build()?;
    assert_eq!(pool.apply(|before: &mut u64| (*before, LOCAL.get()), ())?, (1, 1));
    Ok(())
}

fn initializers_and_broadcasts_find_it() -> Outcome {
    let pool = forking().initializer(|| LOCAL.set(LOCAL.get() + 4), ()).preload(Made::new, (7,)).build()?;
    for result in pool.broadcast(Made::add, (10,))? {
        assert_eq!(result?.1, 17);
    }
    pool.worker_pids().into_iter().for_each(|pid| send_signal(pid, Signal::SIGKILL));
    let read = |made: &mut Made, _: u32| (made.number, LOCAL.get());
    assert_eq!(pool.options().retries(20).map(read, 0..100)?, [(17, 5); 100]);
    Ok(())
}

fn with_another_start_method_it_is_an_error() -> Outcome {
    let error =
        Pool::builder().start_method(StartMethod::Spawn).preload(Made::new, (7,)).build().unwrap_err();
    assert!(error.to_string().contains("`preload` needs the start method `ForkServer`"), "{error}");
    Ok(())
}

fn a_panic_and_a_crash_of_its_function_are_errors_of_the_pool() -> Outcome {
    let error =
        forking().preload(|name: String| -> u32 { panic!("no {name}") }, ("table".to_owned(),)).build();
    let error = error.unwrap_err();
    assert!(error.is_panic() && error.to_string().contains("no table"), "{error}");
    let error = forking().preload(|| -> u32 { std::process::abort() }, ()).build().unwrap_err();
    assert_eq!(error.signal(), Some(6), "{error}");
    let error = forking().preload(|| -> u32 { std::process::exit(3) }, ()).build().unwrap_err();
    assert_eq!(error.exit_code(), Some(3), "{error}");
    Ok(())
}

fn an_error_of_its_function_is_that_of_the_pool() -> Outcome {
    let load = |path: String| -> Result<String, TaskError> { Ok(fs::read_to_string(path)?) };
    for builder in [forking(), forking().idle_timeout(HOUR)] {
        let error = builder.try_preload(load, ("/missing/table".to_owned(),)).build().unwrap_err();
        assert!(error.kind() == ErrorKind::Task && error.to_string().contains("No such file"), "{error}");
    }
    let pool = forking().try_preload(load, ("/proc/self/comm".to_owned(),)).build()?;
    let found = pool.broadcast(|text: &mut String| text.clone(), ())?;
    assert!(found.into_iter().all(|text| text.is_ok_and(|text| !text.is_empty())));
    Ok(())
}

fn a_function_that_leaves_a_thread_is_an_error() -> Outcome {
    let leave = || drop(thread::spawn(|| thread::sleep(HOUR)));
    let error = forking().preload(leave, ()).build().unwrap_err();
    assert!(error.to_string().contains("has left a thread"), "{error}");
    let join = || (0..4).map(|number| thread::spawn(move || number).join().unwrap()).sum::<u64>();
    assert_eq!(forking().preload(join, ()).build()?.apply(|sum: &mut u64| *sum, ())?, 6);
    Ok(())
}

fn a_function_has_limited_time() -> Outcome {
    let error = forking().initializer_timeout(SHORT).preload(thread::sleep, (HOUR,)).build().unwrap_err();
    assert!(error.to_string().contains("not preloaded within 0.1 s"), "{error}");
    Ok(())
}

fn a_function_whose_process_is_killed_is_an_error() -> Outcome {
    let (ours, theirs) = pipe::<(), u32>()?;
    let make = |parent: multiproc::Connection<u32, ()>| {
        parent.send(id()).unwrap();
        thread::sleep(HOUR);
    };
    thread::scope(|scope| {
        let built = scope.spawn(|| forking().preload(make, (theirs,)).build().map(drop));
        send_signal(ours.recv()?, Signal::SIGKILL);
        assert_eq!(built.join().unwrap().unwrap_err().signal(), Some(9));
        Ok(())
    })
}

fn it_is_made_again_when_its_process_was_killed() -> Outcome {
    let pool = forking().workers(1).preload(Made::new, (7,)).build()?;
    let (latch, theirs) = pipe()?;
    let running = pool.submit(|_: &mut Made, latch: Latch| block(latch), (theirs,))?;
    latch.recv()?;
    pool.resize(2)?;
    let mut before = maker(&pool)?;
    let mut known = HashSet::from([before]);
    for workers in 3..6 {
        send_signal(before, Signal::SIGKILL);
        eventually("it is dead", || !Path::new(&format!("/proc/{before}")).exists());
        pool.resize(workers)?;
        eventually("there is one more", || pool.worker_pids().len() == workers);
        eventually("it was made again", || {
            let makers = pool.map(|made: &mut Made, _: u32| made.by().0, 0..100).unwrap_or_default();
            let new = makers.into_iter().find(|&maker| known.insert(maker));
            before = new.unwrap_or(before);
            new.is_some()
        });
    }
    drop(latch);
    running.get()?; // a worker outlives the process that it was forked from
    Ok(())
}

fn a_pool_ends_in_time_while_its_state_is_made_again() -> Outcome {
    /// Takes an hour, unless it takes the token.
    fn make(token: Receiver<()>, begun: Sender<u32>) -> Made {
        if token.try_recv().is_err() {
            let _ = begun.send(id());
            thread::sleep(HOUR);
        }
        Made::new(7)
    }
    let ((give, token), (begin, begun)) = (queue::bounded(1)?, queue::bounded(10)?);
    give.send(())?;
    let pool = forking().workers(1).shutdown_timeout(SHORT).preload(make, (token, begin)).build()?;
    let first = maker(&pool)?;
    send_signal(first, Signal::SIGKILL);
    eventually("it is dead", || !Path::new(&format!("/proc/{first}")).exists());
    send_signal(pool.worker_pids()[0], Signal::SIGKILL);
    let second = begun.recv()?;
    let start = Instant::now();
    drop(pool);
    assert!(start.elapsed() < TEST_TIMEOUT / 2, "{:?}", start.elapsed());
    eventually("the second has ended", || !Path::new(&format!("/proc/{second}")).exists());
    Ok(())
}

fn a_pool_ends_in_time_while_its_process_does_not_answer() -> Outcome {
    alone(|| {
        let builder = forking().workers(1).shutdown_timeout(SHORT).start_timeout(HOUR);
        let pool = builder.preload(Made::new, (7,)).build()?;
        let maker = maker(&pool)?;
        send_signal(maker, Signal::SIGSTOP);
        send_signal(pool.worker_pids()[0], Signal::SIGKILL);
        eventually("a start has begun", || has_thread("mp-spawner"));
        let start = Instant::now();
        drop(pool);
        assert!(start.elapsed() < TEST_TIMEOUT / 2, "{:?}", start.elapsed());
        eventually("it has ended", || !Path::new(&format!("/proc/{maker}")).exists());
        Ok(())
    })
}

fn has_thread(name: &str) -> bool {
    let threads = fs::read_dir("/proc/self/task").unwrap();
    let names = threads.filter_map(|thread| fs::read_to_string(thread.unwrap().path().join("comm")).ok());
    names.into_iter().any(|other| other.trim_end() == name)
}

fn the_process_ends_with_the_pool() -> Outcome {
    for how in [Pool::<State<Made>>::join, drop] {
        let pool = forking().preload(Made::new, (7,)).build()?;
        let maker = maker(&pool)?;
        assert!(Path::new(&format!("/proc/{maker}")).exists());
        how(pool);
        eventually("it has ended", || !Path::new(&format!("/proc/{maker}")).exists());
    }
    Ok(())
}

fn stop_fork_server_ends_it_and_the_pool_goes_on() -> Outcome {
    alone(|| {
        let pool = forking().preload(Made::new, (7,)).build()?;
        let before = maker(&pool)?;
        Process::spawn(id, ())?.join()?;
        multiproc::stop_fork_server()?;
        assert!(!Path::new(&format!("/proc/{before}")).exists());
        pool.worker_pids().into_iter().for_each(|pid| send_signal(pid, Signal::SIGKILL));
        eventually("there is another", || maker(&pool).is_ok_and(|maker| maker != before));
        Ok(())
    })
}

fn inline_the_caller_makes_it() -> Outcome {
    let inline = || Pool::builder().inline(true);
    let pool = inline().preload(Made::new, (7,)).build()?;
    assert_eq!(pool.apply(Made::by, ())?, (id(), id()));
    let error = inline().preload(|| -> u32 { panic!("no table") }, ()).build().unwrap_err();
    assert!(error.is_panic(), "{error}");
    Ok(())
}

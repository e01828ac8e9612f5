//! The workers of a pool, by either start method.

use std::collections::BTreeSet;
use std::fs;
use std::thread;
use std::time::Duration;

use multiproc::{Error, Pool, Process, active_children, current};
use nix::sys::signal::Signal;

use crate::support::{METHODS, Outcome, send_signal, trials};

trials![
    an_initializer_that_never_returns_is_an_error_of_every_call,
    the_workers_of_a_pool_share_its_indices_and_a_new_one_has_that_of_the_old,
    a_pools_name_is_that_of_its_workers_and_in_their_errors,
];

/// What a worker is called: by itself, by the kernel (`ps`), and as the parent of a child.
fn names() -> (String, String, String) {
    let own = current().name().to_owned();
    let parent = || multiproc::parent().unwrap().name().to_owned();
    let by_its_child = Process::spawn(parent, ()).unwrap().join().unwrap();
    (own, fs::read_to_string("/proc/self/comm").unwrap().trim_end().to_owned(), by_its_child)
}

fn a_pools_name_is_that_of_its_workers_and_in_their_errors() -> Outcome {
    for method in METHODS {
        for (name, by_kernel) in [("decoder \"1\"", "decoder \"1\""), ("reader of images", "reader of image")]
        {
            let pool = Pool::builder().workers(1).name(name).start_method(method).build()?;
            let names_again = (name.to_owned(), by_kernel.to_owned(), name.to_owned());
            assert_eq!(pool.apply(names, ())?, names_again);
            let pid = pool.worker_pids()[0];
            assert!(active_children().iter().any(|child| child.pid() == pid && child.name() == name));
            assert_errors_begin_with(&pool, |pid| format!("worker {pid} of pool {name:?}"))?;
            assert_eq!(pool.apply(names, ())?, names_again, "of one that replaces another");
        }
        let pool = Pool::builder().workers(1).start_method(method).build()?;
        assert_eq!(pool.apply(names, ())?.0, "pool-worker");
        assert_errors_begin_with(&pool, |pid| format!("worker {pid}"))?;
    }
    Ok(())
}

/// Each of the errors that a worker, or its pool, makes of what happens in it.
fn assert_errors_begin_with(pool: &Pool, origin: impl Fn(u32) -> String) -> Outcome {
    let says = |error: &Error, what: &str| {
        let expected = format!("{} {what}", origin(error.pid().unwrap()));
        assert!(error.to_string().contains(&expected), "{error}: {expected}");
    };
    let panics = || -> () { panic!("on purpose") };
    says(&pool.apply(panics, ()).unwrap_err(), "panicked at ");
    let panics = |_: u32| -> u32 { panic!("on purpose") };
    says(&pool.map_reduce(panics, |sum, next| sum + next, [1, 2]).unwrap_err(), "panicked at ");
    let ends = || -> () { std::process::exit(3) };
    says(&pool.apply(ends, ()).unwrap_err(), "exited with code 3 while running its task");
    let sleeps = || thread::sleep(Duration::from_secs(1000));
    let limit = Duration::from_millis(20);
    says(
        &pool.options().timeout(limit).apply(sleeps, ()).unwrap_err(),
        "was killed while running its task, ",
    );
    let waits = || while !multiproc::is_cancelled() {};
    let with_grace = pool.options().timeout(limit).grace(Duration::from_secs(600));
    says(&with_grace.apply(waits, ()).unwrap_err(), "ended a task in its grace while running its task, ");
    Ok(())
}

fn an_initializer_that_never_returns_is_an_error_of_every_call() -> Outcome {
    for method in METHODS {
        let pool = Pool::builder().workers(2).start_method(method);
        let hang = || thread::sleep(Duration::from_secs(1000));
        let limit = Duration::from_millis(200);
        let pool = pool.initializer(hang, ()).initializer_timeout(limit).build()?;
        for outcome in [pool.apply(|| (), ()), pool.map(|_: u32| (), 0..10).map(drop)] {
            let error = outcome.unwrap_err();
            let says_why = error.to_string().contains("its initializer did not return within 0.2 s");
            assert!(error.is_start() && says_why, "{error}");
        }
        // A slow initializer within its time, and a missing one, are no errors.
        let pause = || thread::sleep(Duration::from_millis(300));
        let pool = Pool::builder().workers(1).start_method(method).initializer(pause, ()).build()?;
        assert_eq!(pool.apply(|| 3, ())?, 3);
        let none = Pool::builder().workers(1).start_method(method).initializer_timeout(Duration::ZERO);
        assert_eq!(none.build()?.apply(|| 3, ())?, 3);
    }
    Ok(())
}

fn the_workers_of_a_pool_share_its_indices_and_a_new_one_has_that_of_the_old() -> Outcome {
    assert_eq!(current().worker_index(), None);
    let index = |_: u32| (current().pid(), current().worker_index().unwrap());
    for method in METHODS {
        let pool = Pool::builder().workers(3).chunk_size(1).start_method(method).build()?;
        let mut seen = BTreeSet::new();
        while seen.len() < 3 {
            seen.extend(pool.map(index, 0..30)?);
        }
        let indices = |seen: &BTreeSet<(u32, usize)>| -> Vec<usize> {
            let mut indices: Vec<_> = seen.iter().map(|&(_, index)| index).collect();
            indices.sort_unstable();
            indices
        };
        assert_eq!(indices(&seen), [0, 1, 2], "{method:?}");
        let Some(&(victim, place)) = seen.iter().nth(1) else { panic!("there are three") };
        send_signal(victim, Signal::SIGKILL);
        seen.remove(&(victim, place));
        while seen.len() < 3 {
            // The running task of the killed worker is lost.
            seen.extend(pool.map_results(index, 0..30)?.into_iter().flatten().filter(|it| it.0 != victim));
        }
        assert_eq!(indices(&seen), [0, 1, 2], "{method:?}");
        let in_a_child = || Process::spawn(|| current().worker_index(), ()).unwrap().join().unwrap();
        assert_eq!(pool.apply(in_a_child, ())?, None);
        // However often they are replaced, there are no others.
        let pool = Pool::builder().workers(2).max_tasks_per_worker(1).start_method(method).build()?;
        let places: BTreeSet<usize> = pool.map(index, 0..12)?.into_iter().map(|(_, place)| place).collect();
        assert!(places.iter().all(|&place| place < 2), "{method:?}: {places:?}");
    }
    Ok(())
}

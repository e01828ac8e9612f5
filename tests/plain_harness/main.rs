//! Tests by the standard harness, which runs them in threads of one process; `nextest.rs` runs them in
//! processes of their own.

#![forbid(unsafe_code)] // a program that forbids it can still use the macro
#![allow(clippy::unwrap_used, reason = "a test ends where something does not go as it should")]

use std::cell::Cell;
use std::collections::HashSet;
use std::env::{args, vars};
use std::io::{self, ErrorKind, Write};
use std::process::id;
use std::thread;

use multiproc::{Error, Pool, Process, RemoteFn, StartMethod, queue};

multiproc::init_for_tests!();

/// Runs a task by each method; returns the results.
fn by_each_method<F: RemoteFn<()>>(task: F) -> [Result<F::Output, Error>; 2] {
    [StartMethod::ForkServer, StartMethod::Spawn].map(|method| {
        let child = Process::builder().start_method(method).spawn(task, ()).unwrap();
        child.join()
    })
}

fn values<F: RemoteFn<()>>(task: F) -> [F::Output; 2] {
    by_each_method(task).map(Result::unwrap)
}

#[test]
fn the_first_process_is_still_the_first() {
    assert_eq!((multiproc::current().name(), multiproc::parent()), ("main", None));
    assert!(multiproc::at_start(|| ()).is_err(), "it would have no effect");
    multiproc::init(); // does nothing
    assert_eq!(multiproc::current().pid(), id());
}

#[test]
fn a_child_runs_its_task_and_not_the_tests() {
    let pids = values(|| (id(), multiproc::parent().map(|parent| parent.pid())));
    for (pid, parent) in pids {
        assert!(pid != id() && parent == Some(id()));
    }
}

#[test]
fn a_child_has_the_arguments_and_the_environment() {
    let here = (args().collect::<Vec<_>>(), vars().collect::<HashSet<_>>());
    assert!(!here.0.is_empty());
    assert_eq!(values(|| (args().collect(), vars().collect())), [here.clone(), here]);
}

#[test]
fn a_child_has_threads_and_thread_local_values() {
    thread_local!(static NUMBER: Cell<u32> = const { Cell::new(1) });
    let task = || {
        NUMBER.set(2);
        let other = thread::spawn(|| NUMBER.get()).join().unwrap_or_default();
        (NUMBER.get(), other)
    };
    assert_eq!(values(task), [(2, 1); 2]);
}

#[test]
fn a_panic_and_an_exit_of_a_task_are_its_errors() {
    for result in by_each_method(|| -> u32 { panic!("on purpose") }) {
        let error = result.unwrap_err();
        assert!(error.is_panic() && error.to_string().contains("on purpose"), "{error}");
    }
    for result in by_each_method(|| -> u32 { std::process::exit(3) }) {
        assert!(result.unwrap_err().to_string().contains("exited with code 3"));
    }
}

#[test]
fn a_write_to_a_broken_pipe_is_an_error() {
    let task = || {
        let Ok((reader, mut writer)) = io::pipe() else { return false };
        drop(reader);
        writer.write_all(b"text").is_err_and(|error| error.kind() == ErrorKind::BrokenPipe)
    };
    assert_eq!(values(task), [true; 2]);
}

#[test]
fn a_child_can_have_a_pool_of_its_own() {
    let task = || Pool::new(2)?.map(|n: u32| n + 1, [1, 2]);
    for result in values(task) {
        assert_eq!(result.unwrap(), [2, 3]);
    }
}

#[test]
fn a_queue_connects_a_test_and_a_child() {
    let (sender, receiver) = queue::bounded::<u32>(4).unwrap();
    let child = Process::spawn(|sender: queue::Sender<u32>| sender.send(7).is_ok(), (sender,)).unwrap();
    assert_eq!(receiver.into_iter().map(Result::unwrap).collect::<Vec<_>>(), [7]);
    assert!(child.join().unwrap());
}

/// Two tests with pools, which the harness runs at the same time; and threads within one.
fn use_pools() {
    thread::scope(|scope| {
        for number in 0..3_u32 {
            scope.spawn(move || {
                let pool = Pool::new(2).unwrap();
                let sums = pool.map(|(a, b): (u32, u32)| a + b, (0..100).map(|n| (n, number))).unwrap();
                assert_eq!(sums, (number..number + 100).collect::<Vec<_>>());
                let error = pool.apply(|| -> () { std::process::abort() }, ()).unwrap_err();
                assert_eq!(error.signal(), Some(6));
                pool.join();
            });
        }
    });
}

#[test]
fn a_test_can_use_pools() {
    use_pools();
}

#[test]
fn another_test_can_use_pools_meanwhile() {
    use_pools();
}

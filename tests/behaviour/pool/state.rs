//! **A worker's state**: made once in each worker, and passed to every task.

use std::cell::Cell;
use std::collections::HashSet;
use std::rc::Rc;

use multiproc::queue::{self, Sender};
use multiproc::{Pool, TaskError, pipe};
use nix::sys::signal::Signal;

use crate::support::{METHODS, Outcome, block, eventually, send_signal, trials};

trials![
    every_worker_has_a_state_of_its_own,
    a_state_need_not_travel,
    a_replaced_worker_makes_its_state_again,
    a_panic_leaves_the_state_as_it_is,
    every_call_of_a_pool_gets_the_state,
    an_error_of_the_function_that_makes_it_is_that_of_every_call,
    a_panic_of_the_function_that_makes_it_is_that_of_every_call,
    initializers_and_the_state_are_made_in_order,
    descriptors_are_arguments_of_a_state,
    a_state_is_dropped_when_its_worker_ends,
    a_killed_worker_drops_no_state,
];

/// Counts its calls. It is neither `Send` nor `Serialize`.
struct Counter {
    calls: Rc<Cell<u64>>,
    pid: u32,
}

impl Counter {
    fn new(start: u64) -> Self {
        Self { calls: Rc::new(Cell::new(start)), pid: std::process::id() }
    }

    fn count(&mut self, number: u64) -> (u32, u64, u64) {
        assert!(number != 13, "an unlucky number");
        if number == 99 {
            std::process::abort();
        }
        self.calls.set(self.calls.get() + 1);
        (self.pid, self.calls.get(), number)
    }

    fn calls(&mut self) -> u64 {
        self.calls.get()
    }
}

fn every_worker_has_a_state_of_its_own() -> Outcome {
    let pool = Pool::builder().workers(2).state(Counter::new, (0,)).build()?;
    let pids: HashSet<u32> = pool.worker_pids().into_iter().collect();
    let counts = pool.map(Counter::count, 100..1100)?;
    assert!(counts.iter().map(|count| count.2).eq(100..1100));
    for pid in pids {
        // Each worker has counted what it ran, and nothing else.
        let mut own: Vec<u64> = counts.iter().filter(|count| count.0 == pid).map(|count| count.1).collect();
        own.sort_unstable();
        assert!(own.iter().copied().eq(1..=own.len() as u64), "{own:?}");
    }
    Ok(())
}

fn a_state_need_not_travel() -> Outcome {
    let pool = Pool::builder().workers(1).state(|| Rc::new(Cell::new(0_u64)), ()).build()?;
    let add = |total: &mut Rc<Cell<u64>>, number: u64| total.replace(total.get() + number);
    assert_eq!(pool.map(add, [1, 2, 3])?, [0, 1, 3]);
    Ok(())
}

fn a_replaced_worker_makes_its_state_again() -> Outcome {
    let pool = Pool::builder().workers(1).state(Counter::new, (10,)).build()?;
    assert_eq!(pool.apply(Counter::count, (1,))?.1, 11);
    assert_eq!(pool.apply(Counter::count, (99,)).unwrap_err().signal(), Some(6));
    assert_eq!(pool.apply(Counter::count, (1,))?.1, 11);
    send_signal(pool.worker_pids()[0], Signal::SIGKILL);
    eventually("it is replaced", || pool.apply(Counter::calls, ()).is_ok_and(|calls| calls == 10));
    Ok(())
}

fn a_panic_leaves_the_state_as_it_is() -> Outcome {
    let pool = Pool::builder().workers(1).state(Counter::new, (0,)).build()?;
    let counts = pool.map_results(Counter::count, [1, 13, 2])?;
    assert!(counts[1].as_ref().unwrap_err().is_panic());
    assert_eq!((counts[0].as_ref().unwrap().1, counts[2].as_ref().unwrap().1), (1, 2));
    Ok(())
}

fn every_call_of_a_pool_gets_the_state() -> Outcome {
    let pool = Pool::builder().workers(2).state(Counter::new, (0,)).build()?;
    assert_eq!(pool.apply(Counter::count, (7,))?.2, 7);
    assert_eq!(pool.submit(Counter::count, (7,))?.get()?.2, 7);
    assert!(pool.imap(Counter::count, 0..10).map(|count| count.unwrap().2).eq(0..10));
    assert_eq!(pool.imap_unordered(Counter::count, 0..10).map(|count| count.unwrap().2).sum::<u64>(), 45);
    assert_eq!(pool.starmap(Counter::count, [(1,), (2,)])?.len(), 2);
    let squares = |_: &mut Counter, number: u64| number * number;
    assert_eq!(pool.map_reduce(squares, |a: u64, b: u64| a + b, 0..10)?, Some(285));
    assert_eq!(pool.options().retries(1).map_results(Counter::count, [1, 2])?.len(), 2);
    Ok(())
}

fn an_error_of_the_function_that_makes_it_is_that_of_every_call() -> Outcome {
    let fail = |name: String| -> Result<Counter, TaskError> { Err(format!("no model {name}"))? };
    let pool = Pool::builder().workers(2).try_state(fail, ("x".to_owned(),)).build()?;
    for _ in 0..3 {
        let error = pool.map(Counter::count, 0..3).unwrap_err();
        assert!(error.to_string().contains("no model x"), "{error}");
    }
    let load = |start: u64| -> std::io::Result<Counter> { Ok(Counter::new(start)) };
    let pool = Pool::builder().workers(2).try_state(load, (5,)).build()?;
    assert_eq!(pool.apply(Counter::count, (1,))?.1, 6);
    Ok(())
}

fn a_panic_of_the_function_that_makes_it_is_that_of_every_call() -> Outcome {
    let fail = |start: u64| -> Counter { panic!("no counter from {start}") };
    let pool = Pool::builder().workers(2).state(fail, (3,)).build()?;
    for _ in 0..3 {
        let error = pool.apply(Counter::count, (1,)).unwrap_err();
        assert!(error.to_string().contains("no counter from 3"), "{error}");
    }
    Ok(())
}

thread_local!(static NAME: Cell<u64> = const { Cell::new(0) });

fn initializers_and_the_state_are_made_in_order() -> Outcome {
    let set = |number: u64| NAME.set(NAME.get() * 10 + number);
    let builder = Pool::builder().workers(2).initializer(set, (1,)).initializer(set, (2,));
    let pool = builder.state(|| NAME.get(), ()).build()?;
    assert_eq!(pool.apply(|number: &mut u64| *number, ())?, 12);
    Ok(())
}

fn descriptors_are_arguments_of_a_state() -> Outcome {
    let (ours, theirs) = pipe::<(), u64>()?;
    let keep = |sender: multiproc::Connection<u64, ()>| sender;
    let pool = Pool::builder().workers(1).state(keep, (theirs,)).build()?;
    let send = |sender: &mut multiproc::Connection<u64, ()>, number: u64| sender.send(number).is_ok();
    assert!(pool.apply(send, (7,))?);
    assert_eq!(ours.recv()?, 7);
    let (latch, theirs) = pipe()?;
    pool.submit(|_: &mut multiproc::Connection<u64, ()>, latch| block(latch), (theirs,))?.canceller();
    latch.recv()?;
    Ok(())
}

/// Sends its numbers when it is dropped.
struct Numbers {
    kept: Vec<u64>,
    sender: Sender<u64>,
}

impl Numbers {
    fn new(sender: Sender<u64>) -> Self {
        Self { kept: Vec::new(), sender }
    }

    fn keep(&mut self, number: u64) {
        self.kept.push(number);
    }
}

impl Drop for Numbers {
    fn drop(&mut self) {
        let _ = self.sender.send_all(self.kept.drain(..));
    }
}

fn a_state_is_dropped_when_its_worker_ends() -> Outcome {
    for method in METHODS {
        for (name, tasks_per_worker) in [("join", None), ("drop", None), ("recycled", Some(10))] {
            let (sender, receiver) = queue::bounded(1000)?;
            let mut builder = Pool::builder().workers(2).start_method(method);
            if let Some(tasks) = tasks_per_worker {
                builder = builder.max_tasks_per_worker(tasks);
            }
            let pool = builder.state(Numbers::new, (sender,)).build()?;
            pool.map(Numbers::keep, 0..100)?;
            if name == "join" {
                pool.join();
            } else {
                drop(pool);
            }
            let mut numbers = receiver.into_iter().collect::<multiproc::Result<Vec<u64>>>()?;
            numbers.sort_unstable();
            assert!(numbers.iter().copied().eq(0..100), "{method:?}, {name}: {numbers:?}");
        }
    }
    Ok(())
}

fn a_killed_worker_drops_no_state() -> Outcome {
    for method in METHODS {
        let (sender, receiver) = queue::bounded(1000)?;
        let pool = Pool::builder().workers(1).start_method(method).state(Numbers::new, (sender,)).build()?;
        pool.map(Numbers::keep, 0..100)?;
        let pid = pool.worker_pids()[0];
        send_signal(pid, Signal::SIGKILL);
        eventually("the worker is replaced", || {
            pool.worker_pids().first().is_some_and(|other| *other != pid)
        });
        pool.apply(Numbers::keep, (100,))?;
        pool.join();
        let numbers = receiver.into_iter().collect::<multiproc::Result<Vec<u64>>>()?;
        assert_eq!(numbers, [100], "{method:?}");
    }
    Ok(())
}

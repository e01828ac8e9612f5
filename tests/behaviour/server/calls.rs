//! Calls of a server: order, handles, values of any size, and concurrent callers.

use std::thread;
use std::time::{Duration, Instant};

use multiproc::server::CallHandle;
use multiproc::{Error, Process, Result, Server, SharedSlice, pipe};
use nix::errno::Errno;

use super::{Counter, block};
use crate::forked_copies::in_fork;
use crate::support::{BadValue, METHODS, Outcome, TEST_TIMEOUT, alone, trials};

trials![
    methods_change_a_state_that_stays_in_its_process,
    a_server_starts_by_every_method,
    calls_of_a_caller_run_in_its_order,
    no_call_of_several_processes_is_lost_or_run_twice,
    threads_of_a_process_get_their_own_results,
    handles_can_be_waited_for_in_any_order,
    a_handle_is_ready_when_its_result_is_there,
    a_result_is_given_once,
    a_copy_that_asks_for_a_result_takes_nothing_away,
    arguments_and_results_may_be_handles,
    values_of_any_size_come_and_go,
    values_that_do_not_travel_are_errors_of_their_call,
    calls_beyond_the_capacity_wait,
    an_idle_server_with_little_room_takes_a_first_call,
    a_call_waits_for_room_for_as_long_as_it_may,
    a_method_that_waits_for_its_own_server_gets_an_error,
    a_method_gets_a_result_of_its_own_server_that_is_there,
    a_call_with_a_time_limit_ends_on_time,
    a_time_limit_holds_while_another_thread_waits_for_room,
    a_caller_that_takes_no_results_delays_no_other,
];

fn methods_change_a_state_that_stays_in_its_process() -> Outcome {
    let counter = Server::builder().name("counter").spawn(Counter::new, (5,))?;
    assert_eq!(counter.call(Counter::add, (3,))?, 8);
    assert_eq!(counter.call(|counter: &mut Counter, a: u64, b: u64| counter.add(a * b), (2, 4))?, 16);
    assert_eq!(counter.call(Counter::total, ())?, 16);
    assert_eq!(counter.call(Counter::pid, ())?, counter.pid());
    assert_ne!(counter.pid(), std::process::id());
    let name = |_: &mut Counter| multiproc::current().name().to_owned();
    assert_eq!((counter.call(name, ())?.as_str(), counter.name()), ("counter", "counter"));
    Ok(())
}

fn a_server_starts_by_every_method() -> Outcome {
    for method in METHODS {
        let counter = Server::builder().start_method(method).spawn(Counter::new, (1,))?;
        assert_eq!(counter.call(Counter::add, (1,))?, 2);
    }
    assert!(Server::builder().capacity(0).spawn(Counter::new, (1,)).is_err());
    Ok(())
}

fn a_method_that_waits_for_its_own_server_gets_an_error() -> Outcome {
    for method in METHODS {
        let counter = Server::builder().capacity(2).start_method(method).spawn(Counter::new, (1,))?;
        let call =
            |_: &mut Counter, own: Server<Counter>| own.call(Counter::total, ()).map_err(|e| e.to_string());
        let error = counter.call(call, (counter.clone(),))?.unwrap_err();
        assert!(error.contains("of the same server"), "{error}");
        let deadlock = |_: &mut Counter, own: Server<Counter>| {
            let timed = own.call_timeout(Counter::total, (), TEST_TIMEOUT).unwrap_err();
            let handle = own.submit(Counter::add, (5,)).and_then(CallHandle::get).unwrap_err();
            [timed, handle, own.clear_poison().unwrap_err()].map(|error| error.os_error())
        };
        assert_eq!(counter.call(deadlock, (counter.clone(),))?, [Some(Errno::EDEADLK as i32); 3]);
        // What it has submitted runs after it, and a full queue is an error at once.
        assert_eq!(counter.call(Counter::total, ())?, 6);
        let fill = |_: &mut Counter, own: Server<Counter>| {
            (0..10).map(|_| own.submit(Counter::total, ())).find_map(Result::err).map(|error| error.is_full())
        };
        assert_eq!(counter.call(fill, (counter.clone(),))?, Some(true));
        assert_eq!(counter.call(Counter::total, ())?, 6);
    }
    Ok(())
}

fn a_method_gets_a_result_of_its_own_server_that_is_there() -> Outcome {
    struct Keeper(Option<CallHandle<u32>>);
    let keep = |keeper: &mut Keeper, own: Server<Keeper>| keeper.0 = own.submit(|_: &mut Keeper| 5, ()).ok();
    for method in METHODS {
        let keeper = Server::builder().start_method(method).spawn(|| Keeper(None), ())?;
        keeper.call(keep, (keeper.clone(),))?;
        keeper.call(|_: &mut Keeper| (), ())?;
        let taken = keeper.call(|keeper: &mut Keeper| keeper.0.take().map(CallHandle::get), ())?;
        assert_eq!(taken.transpose()?, Some(5));
    }
    Ok(())
}

fn calls_of_a_caller_run_in_its_order() -> Outcome {
    let list = Server::spawn(Vec::<u32>::new, ())?;
    let clone = list.clone();
    for number in (0..3000).step_by(2) {
        drop(list.submit(Vec::push, (number,))?);
        drop(clone.submit(Vec::push, (number + 1,))?);
    }
    assert_eq!(list.stop()?, (0..3000).collect::<Vec<_>>());
    Ok(())
}

fn add_often(counter: Server<Counter>) -> Result<u64> {
    (0..500).map(|_| counter.call(Counter::add, (1,))).try_fold(0, |last, total| {
        let total = total?;
        assert!(total > last, "a later call sees an earlier state");
        Ok(total)
    })
}

fn no_call_of_several_processes_is_lost_or_run_twice() -> Outcome {
    let counter = Server::spawn(Counter::new, (0,))?;
    let children: Vec<_> =
        (0..3).map(|_| Process::spawn(add_often, (counter.clone(),))).collect::<Result<_>>()?;
    add_often(counter.clone())?;
    for child in children {
        child.join()??;
    }
    assert_eq!(counter.call(Counter::total, ())?, 2000);
    Ok(())
}

fn threads_of_a_process_get_their_own_results() -> Outcome {
    let server = Server::spawn(|| (), ())?;
    let echo = |(): &mut (), number: u64| number;
    thread::scope(|scope| {
        let ask = |first: u64| {
            let server = &server;
            move || (first..first + 300).all(|number| server.call(echo, (number,)).unwrap() == number)
        };
        let threads: Vec<_> = (0..4).map(|thread| scope.spawn(ask(1000 * thread))).collect();
        assert!(threads.into_iter().all(|thread| thread.join().unwrap()));
    });
    Ok(())
}

fn handles_can_be_waited_for_in_any_order() -> Outcome {
    let counter = Server::spawn(Counter::new, (0,))?;
    let mut handles = (0..100).map(|_| counter.submit(Counter::add, (1,))).collect::<Result<Vec<_>>>()?;
    let dropped = handles.split_off(90);
    drop(dropped);
    for (index, handle) in handles.into_iter().enumerate().rev() {
        assert_eq!(handle.get()?, index as u64 + 1);
    }
    assert_eq!(counter.call(Counter::total, ())?, 100, "a dropped handle withdraws nothing");
    Ok(())
}

fn a_handle_is_ready_when_its_result_is_there() -> Outcome {
    let counter = Server::spawn(Counter::new, (0,))?;
    let (blocked, latch) = block(&counter)?;
    let mut behind = counter.submit(Counter::add, (1,))?;
    assert!(!blocked.is_ready() && !behind.is_ready());
    assert_eq!(behind.get_timeout(Duration::from_millis(5))?, None);
    drop(latch);
    assert_eq!(behind.get()?, 1);
    assert!(blocked.is_ready());
    blocked.get()?;
    Ok(())
}

fn a_copy_that_asks_for_a_result_takes_nothing_away() -> Outcome {
    alone(|| {
        let server = Server::spawn(Counter::new, (0,))?;
        let mut call = server.submit(Counter::add, (3,))?;
        assert!(in_fork(|| {
            let begun = Instant::now();
            while !call.is_ready() && begun.elapsed() < TEST_TIMEOUT {
                thread::yield_now();
            }
            call.get_timeout(TEST_TIMEOUT).is_err_and(|error| error.to_string().contains("forked copy"))
        }));
        assert_eq!(call.get_timeout(TEST_TIMEOUT)?, Some(3));
        Ok(())
    })
}

fn a_result_is_given_once() -> Outcome {
    let counter = Server::spawn(Counter::new, (0,))?;
    let mut handle = counter.submit(Counter::add, (1,))?;
    assert_eq!(handle.get_timeout(Duration::from_secs(60))?, Some(1));
    assert!(handle.is_ready());
    assert!(handle.get().unwrap_err().to_string().contains("already taken"));
    Ok(())
}

fn arguments_and_results_may_be_handles() -> Outcome {
    let counter = Server::spawn(Counter::new, (0,))?;
    let keeper = Server::spawn(|counter: Server<Counter>| counter, (counter.clone(),))?;
    let add = |counter: &mut Server<Counter>, number: u64| counter.call(Counter::add, (number,));
    assert_eq!(keeper.call(add, (7,))??, 7);
    let back = keeper.call(|counter: &mut Server<Counter>| counter.clone(), ())?;
    assert_eq!(back.call(Counter::add, (1,))?, 8);
    let (ours, theirs) = pipe::<(), Server<Counter>>()?;
    let send = |ours: pipe_end::Sender, counter: Server<Counter>| ours.send(counter).map_err(Error::from);
    Process::spawn(send, (theirs, counter))?.join()??;
    assert_eq!(ours.recv()?.call(Counter::add, (1,))?, 9);
    let numbers = SharedSlice::from_slice(&[1_u64, 2, 3])?;
    let slices = Server::spawn(|numbers: SharedSlice<u64>| numbers, (numbers,))?;
    let taken = slices.call(|numbers: &mut SharedSlice<u64>| numbers.clone(), ())?;
    assert_eq!(taken[..], [1, 2, 3]);
    Ok(())
}

mod pipe_end {
    pub(super) type Sender = multiproc::Connection<multiproc::Server<super::Counter>, ()>;
}

fn values_of_any_size_come_and_go() -> Outcome {
    let server = Server::spawn(|| (), ())?;
    let echo = |(): &mut (), bytes: Vec<u8>| bytes;
    for size in [0, 1, 7, 32_000, 33_000, 300_000, 3_000_000, 20_000_000] {
        let bytes: Vec<u8> = (0..size).map(|index| u8::try_from(index % 251).unwrap_or(0)).collect();
        assert!(server.call(echo, (bytes.clone(),))? == bytes, "{size} bytes are others");
    }
    Ok(())
}

fn values_that_do_not_travel_are_errors_of_their_call() -> Outcome {
    let server = Server::spawn(|| 0_u32, ())?;
    let put = |state: &mut u32, value: BadValue| {
        *state += 1;
        matches!(value, BadValue::Fine(_))
    };
    assert!(server.call(put, (BadValue::Fine(1),))?);
    assert!(server.call(put, (BadValue::Unencodable,)).unwrap_err().is_codec());
    assert!(server.call(put, (BadValue::Undecodable,)).unwrap_err().is_codec());
    let take = |state: &mut u32, value: u32| {
        *state += 1;
        if value == 0 { BadValue::Unencodable } else { BadValue::Undecodable }
    };
    assert!(server.call(take, (0,)).unwrap_err().is_codec());
    assert!(server.call(take, (1,)).unwrap_err().is_codec());
    assert_eq!(server.call(|state: &mut u32| *state, ())?, 3, "the state is not poisoned");
    Ok(())
}

fn a_call_waits_for_room_for_as_long_as_it_may() -> Outcome {
    for method in METHODS {
        let counter = Server::builder().capacity(1).start_method(method).spawn(Counter::new, (0,))?;
        let (blocked, latch) = block(&counter)?;
        let waiting = counter.submit_timeout(Counter::add, (1,), TEST_TIMEOUT)?;
        let (begun, time) = (Instant::now(), Duration::from_millis(20));
        let refused = counter.submit_timeout(Counter::add, (1,), time).unwrap_err();
        assert!(refused.is_full() && begun.elapsed() >= time, "{refused}");
        thread::scope(|scope| {
            let next = scope.spawn(|| counter.submit_timeout(Counter::add, (1,), TEST_TIMEOUT)?.get());
            drop(latch);
            assert_eq!(next.join().unwrap()?, 2, "the one that was refused did not run");
            Ok::<_, Error>(())
        })?;
        blocked.get()?;
        assert_eq!(waiting.get()?, 1);
    }
    Ok(())
}

/// Or a later one, since a busy machine can keep the server from taking a connection in time.
fn an_idle_server_with_little_room_takes_a_first_call() -> Outcome {
    for method in METHODS {
        let counter = Server::builder().capacity(1).start_method(method).spawn(Counter::new, (0,))?;
        let (here, there) = pipe::<(), Server<Counter>>()?;
        let (mut taken, begun) = (0, Instant::now());
        while taken == 0 && begun.elapsed() < TEST_TIMEOUT {
            counter.call(Counter::total, ())?;
            there.send(counter.clone())?;
            let handle = here.recv()?; // it has a connection of its own
            match handle.try_submit(Counter::add, (1,)) {
                Ok(call) => taken = call.get()?,
                Err(error) => assert!(error.is_full(), "{error}"),
            }
        }
        assert!(taken > 0, "{method:?}");
        // A server that is not idle refuses it.
        let (blocked, latch) = block(&counter)?;
        there.send(counter.clone())?;
        let handle = here.recv()?;
        assert!(handle.try_submit(Counter::add, (1,)).unwrap_err().is_full());
        drop(latch);
        blocked.get()?;
        assert_eq!(counter.call(Counter::total, ())?, taken);
    }
    Ok(())
}

fn calls_beyond_the_capacity_wait() -> Outcome {
    let counter = Server::builder().capacity(3).spawn(Counter::new, (0,))?;
    let (blocked, latch) = block(&counter)?;
    let waiting = (0..3).map(|_| counter.try_submit(Counter::add, (1,))).collect::<Result<Vec<_>>>()?;
    assert_eq!(counter.waiting(), 3);
    assert!(counter.try_submit(Counter::add, (1,)).unwrap_err().is_full());
    let late = counter.call_timeout(Counter::add, (1,), Duration::from_millis(10));
    assert!(late.unwrap_err().is_timeout());
    thread::scope(|scope| {
        let fourth = scope.spawn(|| counter.call(Counter::add, (1,)));
        drop(latch);
        assert_eq!(fourth.join().unwrap()?, 4, "those that were refused did not run");
        Ok::<_, Error>(())
    })?;
    blocked.get()?;
    waiting.into_iter().try_for_each(|handle| handle.get().map(drop))?;
    Ok(())
}

fn a_call_with_a_time_limit_ends_on_time() -> Outcome {
    let counter = Server::spawn(Counter::new, (0,))?;
    let (blocked, latch) = block(&counter)?;
    let late = counter.call_timeout(Counter::add, (1,), Duration::from_millis(10));
    assert!(late.unwrap_err().is_timeout());
    drop(latch);
    blocked.get()?;
    assert_eq!(counter.call(Counter::total, ())?, 1, "it has run nevertheless");
    Ok(())
}

/// That thread makes the first call of a handle.
fn a_time_limit_holds_while_another_thread_waits_for_room() -> Outcome {
    let counter = Server::builder().capacity(1).spawn(Counter::new, (0,))?;
    let (blocked, latch) = block(&counter)?;
    let waiting = counter.submit(Counter::add, (1,))?;
    let (ours, theirs) = pipe::<Server<Counter>, ()>()?;
    ours.send(counter)?;
    let other = theirs.recv()?;
    let first = thread::spawn({
        let other = other.clone();
        move || other.call(Counter::add, (1,))
    });
    thread::sleep(Duration::from_millis(20)); // it may wait by now; the outcome is the same if not
    let (results, result) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let limit = Duration::from_millis(10);
        let _ = results.send(other.call_timeout(Counter::add, (1,), limit).unwrap_err().is_timeout());
    });
    assert!(result.recv_timeout(TEST_TIMEOUT / 2)?);
    drop(latch);
    blocked.get()?;
    waiting.get()?;
    assert_eq!(first.join().unwrap()?, 2, "the late one did not run");
    Ok(())
}

/// Results that no one takes wait in the server's memory, and not in the server.
fn a_caller_that_takes_no_results_delays_no_other() -> Outcome {
    const CALLS: u32 = 60;
    let fill = |_: &mut u32, size: usize| vec![7_u8; size];
    let server = Server::spawn(|| 0_u32, ())?;
    let submit = move |server: Server<u32>, latch: multiproc::Connection<(), ()>| -> Result<usize> {
        let handles: Vec<_> = (0..CALLS).map(|_| server.submit(fill, (30_000,))).collect::<Result<_>>()?;
        latch.send(())?;
        latch.recv()?;
        handles.into_iter().map(|handle| Ok(handle.get()?.len())).sum()
    };
    let (latch, theirs) = pipe::<(), ()>()?;
    let child = Process::spawn(submit, (server.clone(), theirs))?;
    latch.recv()?;
    for number in 1..=10 {
        let count = |count: &mut u32| {
            *count += 1;
            *count
        };
        assert_eq!(server.call(count, ())?, number);
    }
    latch.send(())?;
    assert_eq!(child.join()??, CALLS as usize * 30_000);
    Ok(())
}

//! Servers that are made again after a death or a panic.

use std::time::Duration;

use multiproc::queue::{Sender, bounded};
use multiproc::server::{CallHandle, Limit};
use multiproc::{Connection, ErrorKind, Process, Result, Server, StartMethod, pipe};
use nix::libc;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Counter, block};
use crate::support::{Outcome, TEST_TIMEOUT, eventually, trials, wait_for_state};

trials![
    the_running_call_fails_and_the_others_go_on,
    who_only_asks_gets_results_after_a_restart,
    a_panic_makes_the_state_again,
    results_from_before_a_panic_are_not_lost,
    calls_of_other_processes_go_on,
    calls_whose_handle_is_dropped_run_after_a_restart,
    an_idle_server_that_is_killed_is_made_again,
    a_call_runs_at_most_once,
    too_many_restarts_are_the_end,
    a_server_that_cannot_be_made_again_ends,
    the_last_handle_is_the_end_of_a_restarted_server,
    replies_to_a_caller_that_is_gone_are_dropped,
    calls_go_on_however_long_the_state_takes_to_be_dropped,
    a_process_that_cannot_exit_is_killed,
    a_server_that_is_stopped_is_not_made_again,
];

fn restarting(times: usize) -> Result<Server<Counter>> {
    Server::builder().restart(Limit::new(times, Duration::from_secs(3600))).spawn(Counter::new, (100,))
}

fn the_running_call_fails_and_the_others_go_on() -> Outcome {
    let counter = restarting(5)?;
    let first = counter.pid();
    let (blocked, _latch) = block(&counter)?;
    let behind: Vec<CallHandle<u64>> =
        (0..10).map(|_| counter.submit(Counter::add, (1,))).collect::<Result<_>>()?;
    counter.kill()?;
    let error = blocked.get().unwrap_err();
    assert_eq!((error.signal(), error.pid()), (Some(9), Some(first)));
    assert!(error.to_string().ends_with("Counter::block"), "{error}");
    let results = behind.into_iter().map(CallHandle::get).collect::<Result<Vec<_>>>()?;
    assert_eq!(results, (101..=110).collect::<Vec<_>>(), "on a new state");
    assert_ne!(counter.call(Counter::pid, ())?, first);
    assert!(counter.is_alive());
    Ok(())
}

fn who_only_asks_gets_results_after_a_restart() -> Outcome {
    let counter = restarting(5)?;
    let (blocked, _latch) = block(&counter)?;
    let behind = counter.submit(Counter::add, (1,))?;
    counter.kill()?;
    eventually("both are ready", || blocked.is_ready() && behind.is_ready());
    assert_eq!(blocked.get().unwrap_err().signal(), Some(9));
    assert_eq!(behind.get()?, 101);
    Ok(())
}

fn a_panic_makes_the_state_again() -> Outcome {
    let counter = restarting(5)?;
    counter.call(Counter::add, (1,))?;
    let panics = counter.submit(Counter::panic, ())?;
    let behind = counter.submit(Counter::total, ())?;
    let error = panics.get().unwrap_err();
    assert!(error.is_panic(), "{error}");
    assert_eq!(behind.get()?, 100);
    Ok(())
}

fn total(counter: Server<Counter>, started: Connection<(), ()>) -> Result<(u64, u64)> {
    let handle = counter.submit(Counter::add, (1,))?;
    let _ = started.send(());
    Ok((handle.get()?, counter.call(Counter::add, (10,))?))
}

/// More than the channel holds, so they wait in the server when it panics.
fn results_from_before_a_panic_are_not_lost() -> Outcome {
    let counter = restarting(5)?;
    let first = counter.call(Counter::pid, ())?;
    let (blocked, latch) = block(&counter)?; // so that no reply is taken with the next call
    let calls: Vec<CallHandle<Vec<u8>>> =
        (0..100).map(|_| counter.submit(Counter::bytes, (10_000,))).collect::<Result<_>>()?;
    let panics = counter.submit(Counter::panic, ())?;
    let behind = counter.submit(Counter::pid, ())?;
    drop(latch);
    std::thread::sleep(Duration::from_millis(200)); // so that it has panicked, which no call tells
    for call in calls {
        assert_eq!(call.get()?.len(), 10_000);
    }
    blocked.get()?;
    assert!(panics.get().unwrap_err().is_panic());
    assert_ne!(behind.get()?, first);
    Ok(())
}

fn calls_of_other_processes_go_on() -> Outcome {
    let counter = restarting(5)?;
    counter.call(Counter::add, (1000,))?;
    let (blocked, _latch) = block(&counter)?;
    let (ours, theirs) = pipe::<(), ()>()?;
    let child = Process::spawn(total, (counter.clone(), theirs))?;
    ours.recv()?;
    wait_for_state(child.pid(), 'S');
    counter.kill()?;
    assert_eq!(child.join()??, (101, 111));
    assert_eq!(blocked.get().unwrap_err().signal(), Some(9));
    Ok(())
}

fn calls_whose_handle_is_dropped_run_after_a_restart() -> Outcome {
    let counter = restarting(5)?;
    let (blocked, _latch) = block(&counter)?;
    for _ in 0..50 {
        drop(counter.submit(Counter::add, (1,))?);
    }
    counter.kill()?;
    drop(blocked);
    assert_eq!(counter.call(Counter::total, ())?, 150);
    Ok(())
}

fn an_idle_server_that_is_killed_is_made_again() -> Outcome {
    let counter = restarting(5)?;
    let pid = counter.call(Counter::pid, ())?;
    wait_for_state(pid, 'S');
    counter.kill()?;
    // The call may still be taken by the dying process; then it is that call's error.
    let total = counter.call(Counter::total, ());
    assert!(total.as_ref().is_ok_and(|total| *total == 100) || total.is_err(), "{total:?}");
    assert_eq!(counter.call(Counter::total, ())?, 100);
    Ok(())
}

/// Kills at random moments: each call has a result or an error, and ran at most once.
fn a_call_runs_at_most_once() -> Outcome {
    let (log, lines) = bounded::<u64>(100_000)?;
    let record = |log: &mut Sender<u64>, number: u64| log.send(number).is_ok();
    let limit = Limit::new(1000, Duration::from_secs(1));
    let server = Server::builder().restart(limit).spawn(|log: Sender<u64>| log, (log,))?;
    let (mut lost, mut handles) = (0, std::collections::VecDeque::new());
    for number in 0..3000_u64 {
        handles.push_back(server.submit(record, (number,))?);
        if number % 150 == 149 {
            server.kill()?;
        }
        if handles.len() > 50 {
            lost += u32::from(handles.pop_front().is_some_and(|handle| handle.get().is_err()));
        }
    }
    lost += u32::try_from(handles.into_iter().filter_map(|handle| handle.get().err()).count())?;
    drop(server);
    let mut ran = lines.into_iter().collect::<Result<Vec<_>>>()?;
    let count = ran.len();
    assert!(ran.is_sorted(), "out of order");
    ran.dedup();
    assert_eq!(ran.len(), count, "a call ran twice");
    assert!(count + lost as usize >= 3000, "{lost} calls are errors, and only {count} ran");
    Ok(())
}

fn too_many_restarts_are_the_end() -> Outcome {
    let counter = restarting(2)?;
    for _ in 0..2 {
        assert_eq!(counter.call(Counter::die, ()).unwrap_err().signal(), Some(6));
        assert_eq!(counter.call(Counter::total, ())?, 100);
    }
    assert_eq!(counter.call(Counter::die, ()).unwrap_err().signal(), Some(6));
    let error = counter.call(Counter::total, ()).unwrap_err();
    assert_eq!((error.kind(), error.signal()), (ErrorKind::Died, Some(6)));
    assert!(!counter.is_alive());
    Ok(())
}

fn a_server_that_cannot_be_made_again_ends() -> Outcome {
    let once = |path: String| {
        assert!(std::fs::remove_file(&path).is_ok(), "it was made before");
        Counter::new(1)
    };
    let folder = std::env::temp_dir().join(format!("multiproc-restarts-{}", std::process::id()));
    std::fs::write(&folder, "")?;
    let limit = Limit::new(3, Duration::from_secs(3600));
    let counter = Server::builder().restart(limit).spawn(once, (folder.display().to_string(),))?;
    assert_eq!(counter.call(Counter::add, (1,))?, 2);
    assert_eq!(counter.call(Counter::die, ()).unwrap_err().signal(), Some(6));
    let error = counter.call(Counter::total, ()).unwrap_err();
    assert!(error.is_panic() && error.to_string().contains("it was made before"), "{error}");
    Ok(())
}

fn the_last_handle_is_the_end_of_a_restarted_server() -> Outcome {
    let counter = restarting(5)?;
    assert_eq!(counter.call(Counter::die, ()).unwrap_err().signal(), Some(6));
    let pid = counter.call(Counter::pid, ())?;
    drop(counter);
    eventually("the server ends", || !std::path::Path::new(&format!("/proc/{pid}")).exists());
    Ok(())
}

/// Each reply holds a sender of a queue, which ends when all of them are gone.
fn replies_to_a_caller_that_is_gone_are_dropped() -> Outcome {
    let submit = |counter: Server<Counter>, sender: Sender<u32>| -> Result<()> {
        let give_back = |_: &mut Counter, sender: Sender<u32>| sender;
        (0..4).try_for_each(|_| counter.submit(give_back, (sender.clone(),)).map(drop))
    };
    let counter = restarting(1)?;
    for times in 0..2 {
        let (sender, items) = bounded(1)?;
        let (blocked, latch) = block(&counter)?;
        Process::spawn(submit, (counter.clone(), sender))?.join()??;
        drop(latch);
        blocked.get()?;
        assert_eq!(counter.call(Counter::total, ())?, 100, "after the calls of that process");
        assert!(items.recv_timeout(TEST_TIMEOUT).unwrap_err().is_disconnected());
        if times == 0 {
            assert_eq!(counter.call(Counter::die, ()).unwrap_err().signal(), Some(6));
        }
    }
    Ok(())
}

/// Longer than a caller waits to learn what became of a server that is gone.
struct DropsSlowly;

impl Drop for DropsSlowly {
    fn drop(&mut self) {
        std::thread::sleep(Duration::from_secs(4));
    }
}

fn calls_go_on_however_long_the_state_takes_to_be_dropped() -> Outcome {
    let limit = Limit::new(1, Duration::from_secs(3600));
    let server = Server::builder().restart(limit).spawn(|| DropsSlowly, ())?;
    let panics = server.submit(|_: &mut DropsSlowly| -> () { panic!("it always does") }, ())?;
    let behind = server.submit(|_: &mut DropsSlowly| 7, ())?;
    assert!(panics.get().unwrap_err().is_panic());
    assert_eq!(behind.get()?, 7);
    Ok(())
}

extern "C" fn block_exit() {
    loop {
        std::thread::sleep(TEST_TIMEOUT);
    }
}

#[allow(unsafe_code)]
fn make_one_that_cannot_exit() -> u64 {
    // SAFETY: the function is one, and takes nothing.
    assert_eq!(unsafe { libc::atexit(block_exit) }, 0);
    1
}

fn a_process_that_cannot_exit_is_killed() -> Outcome {
    let is_gone = |pid: u32| !std::path::Path::new(&format!("/proc/{pid}")).exists();
    let get = |number: &mut u64| *number;
    let limit = Limit::new(1, Duration::from_secs(3600));
    // (A child of the fork server does not run what is registered for its exit.)
    let builder = Server::builder().restart(limit).start_method(StartMethod::Spawn);
    let server = builder.spawn(make_one_that_cannot_exit, ())?;
    let first = server.call(|_: &mut u64| std::process::id(), ())?;
    let panics = server.submit(|_: &mut u64| -> () { panic!("it always does") }, ())?;
    let mut behind = server.submit(get, ())?;
    assert!(panics.get().unwrap_err().is_panic());
    assert_eq!(behind.get_timeout(TEST_TIMEOUT)?, Some(1));
    assert!(is_gone(first), "it was not killed and reaped");
    let (other, second) = (server.clone(), server.pid());
    assert_eq!(server.stop()?, 1);
    assert!(other.call(get, ()).unwrap_err().is_closed());
    assert!(is_gone(second) && !other.is_alive());
    Ok(())
}

/// A state whose process ends in another way than it should once the server is stopped.
#[derive(Debug)]
enum Ends {
    ByPanic,
    ByDeath,
    /// As nothing of it is left in the server.
    Decoded,
}

impl Serialize for Ends {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            Self::ByPanic | Self::Decoded => serializer.serialize_unit(),
            Self::ByDeath => std::process::abort(),
        }
    }
}

impl<'de> Deserialize<'de> for Ends {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        <()>::deserialize(deserializer).map(|()| Self::Decoded)
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        assert!(!matches!(self, Self::ByPanic), "its drop always panics");
    }
}

fn a_server_that_is_stopped_is_not_made_again() -> Outcome {
    let restarting = || Server::builder().restart(Limit::new(3, Duration::from_secs(3600)));
    let get = |_: &mut Ends| 7;
    let server = restarting().spawn(|| Ends::ByPanic, ())?;
    assert_eq!(server.call(get, ())?, 7);
    let other = server.clone();
    server.stop()?;
    eventually("the server has ended", || !other.is_alive());
    assert!(other.call(get, ()).unwrap_err().is_closed());

    let server = restarting().spawn(|| Ends::ByDeath, ())?;
    let other = server.clone();
    let error = server.stop().unwrap_err();
    assert_eq!((error.kind(), error.signal()), (ErrorKind::Died, Some(6)), "{error}");
    assert_eq!(other.call(get, ()).unwrap_err().signal(), Some(6));
    assert!(!other.is_alive());
    Ok(())
}

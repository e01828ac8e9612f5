//! A fork server, or a pre-forked child, that is killed or stopped.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use multiproc::queue::{Sender, bounded};
use multiproc::{Result, StartMethod};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid, getuid, setuid};

use super::{blocked_child, lives};
use crate::support::{
    Outcome, alone, children, eventually, fork_server, is_root, open_without_children, send_signal, trials,
    wait_for_state, with,
};

trials![
    children_of_a_killed_fork_server_live_on_and_the_next_start_makes_another,
    kills_of_the_fork_server_lose_nothing_and_leave_nothing,
    what_a_fork_server_has_ready_is_reaped_when_it_is_killed_and_not_missed,
    all_that_a_fork_server_has_ready_can_die_and_the_next_start_works,
    a_program_that_becomes_another_user_has_other_children_ready_and_leaves_none,
    a_stopped_fork_server_delays_a_start_no_longer_than_its_time,
];

fn children_of_a_killed_fork_server_live_on_and_the_next_start_makes_another() -> Outcome {
    alone(|| {
        let (child, latch) = blocked_child()?;
        let server = fork_server().unwrap();
        send_signal(server, Signal::SIGKILL);
        eventually("the fork server is reaped", || fork_server().is_none());
        assert!(child.is_alive());
        let (other, other_latch) = blocked_child()?;
        assert_ne!(fork_server(), Some(server));
        drop((latch, other_latch));
        child.join()?;
        other.join()
    })
}

/// Each start meanwhile gives a child or a start error, and each child runs once.
fn kills_of_the_fork_server_lose_nothing_and_leave_nothing() -> Outcome {
    alone(|| {
        blocked_child()?.0.kill()?;
        let before = open_without_children();
        let (runs, queue) = bounded::<u32>(10_000)?;
        let (done, killed, joined) = (AtomicBool::new(false), Mutex::default(), Mutex::default());
        thread::scope(|scope| {
            scope.spawn(|| kill_fork_servers(&killed, &done));
            let (runs, killed, joined) = (&runs, &killed, &joined);
            let start_some = |first| scope.spawn(move || start_many(first, runs, killed, joined));
            let starters = [0, 1000, 2000, 3000].map(start_some);
            let outcomes = starters.map(thread::ScopedJoinHandle::join);
            done.store(true, Ordering::Relaxed);
            assert!(outcomes.iter().all(std::result::Result::is_ok), "a child was lost");
        });
        drop(runs);
        let ran: Vec<u32> = queue.iter().collect::<Result<_>>()?;
        drop(queue);
        let distinct: BTreeSet<u32> = ran.iter().copied().collect();
        assert_eq!(ran.len(), distinct.len(), "a task has run twice");
        let joined: BTreeSet<u32> = joined.into_inner().unwrap();
        assert!(joined.is_subset(&distinct));
        let killed = killed.into_inner().unwrap();
        assert!(!joined.is_empty() && !killed.is_empty());

        // The last one may be about to die.
        while fork_server().is_none_or(|server| killed.contains(&server)) {
            blocked_child()?.0.kill()?; // pre-forked children of the killed one are used first
        }
        eventually("there is a fork server and nothing else", || {
            let children = children();
            children.len() == 1 && children[0].1 == "fork-server"
        });
        assert_eq!(open_without_children(), before);
        Ok(())
    })
}

/// Kills every fork server, for some a moment after it was made, for others later.
fn kill_fork_servers(killed: &Mutex<BTreeSet<u32>>, done: &AtomicBool) {
    for pause in (0..).map(|turn: u64| 500 + turn * 7919 % 3000) {
        if done.load(Ordering::Relaxed) {
            return;
        }
        if let Some(pid) = fork_server() {
            // It may be a child that has not taken on its own name yet.
            killed.lock().unwrap().insert(pid);
            let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL); // it may be gone already
        }
        thread::sleep(Duration::from_micros(pause));
    }
}

fn start_many(first: u32, runs: &Sender<u32>, killed: &Mutex<BTreeSet<u32>>, joined: &Mutex<BTreeSet<u32>>) {
    for number in first..first + 300 {
        let run = |number: u32, runs: Sender<u32>| runs.send(number).map(|()| number).unwrap();
        let child = match with(StartMethod::ForkServer).spawn(run, (number, runs.clone())) {
            Ok(child) => child,
            Err(error) => {
                assert!(error.is_start(), "{error}");
                continue;
            }
        };
        let pid = child.pid();
        match child.join() {
            Ok(result) => {
                assert_eq!(result, number);
                joined.lock().unwrap().insert(number);
            }
            Err(error) => assert!(
                error.signal() == Some(9) && killed.lock().unwrap().contains(&pid),
                "{error}, and {pid} was not killed"
            ),
        }
    }
}

/// The pre-forked children, once there are two.
fn preforked_children() -> Vec<u32> {
    let all = || -> Vec<u32> {
        let children = tests::children_of(std::process::id()).into_iter();
        children
            .filter(|(pid, name)| name == "mp-preforked" && tests::is_preforked(*pid, name))
            .map(|(pid, _)| pid)
            .collect()
    };
    while all().len() < 2 {
        with(StartMethod::ForkServer).spawn(|| (), ()).unwrap().join().unwrap();
    }
    all()
}

fn what_a_fork_server_has_ready_is_reaped_when_it_is_killed_and_not_missed() -> Outcome {
    alone(|| {
        for signal in [Signal::SIGKILL, Signal::SIGTERM] {
            let [first, second] = preforked_children()[..] else { panic!("there are others") };
            send_signal(second, signal);
            eventually("it is reaped", || !lives(second));
            assert!(lives(first));
            assert_eq!(with(StartMethod::ForkServer).spawn(|| 1, ())?.join()?, 1);
            assert_eq!(with(StartMethod::ForkServer).spawn(|| 2, ())?.join()?, 2);
        }
        Ok(())
    })
}

fn all_that_a_fork_server_has_ready_can_die_and_the_next_start_works() -> Outcome {
    alone(|| {
        let server = {
            preforked_children();
            fork_server().unwrap()
        };
        for turn in 0..20 {
            for pid in preforked_children() {
                send_signal(pid, Signal::SIGKILL);
                eventually("it is dead", || !tests::is_preforked(pid, "mp-preforked"));
            }
            assert_eq!(with(StartMethod::ForkServer).spawn(|turn: u32| turn, (turn,))?.join()?, turn);
        }
        assert_eq!(fork_server(), Some(server));
        Ok(())
    })
}

fn a_program_that_becomes_another_user_has_other_children_ready_and_leaves_none() -> Outcome {
    if !is_root() {
        return Ok(());
    }
    alone(|| {
        let old: Vec<u32> = preforked_children().into_iter().chain(fork_server()).collect();
        setuid(Uid::from_raw(65_534)).unwrap();
        let user = || getuid().as_raw();
        assert_eq!(with(StartMethod::ForkServer).spawn(user, ())?.join()?, 65_534);
        for pid in old {
            eventually("it is reaped", || !lives(pid));
        }
        Ok(())
    })
}

fn a_stopped_fork_server_delays_a_start_no_longer_than_its_time() -> Outcome {
    alone(|| {
        let (child, _latch) = blocked_child()?;
        let server = fork_server().unwrap();
        send_signal(server, Signal::SIGSTOP);
        wait_for_state(server, 'T');
        let time = Duration::from_millis(200);
        let run = |sender: Sender<u32>| sender.send(1).unwrap();
        // Its pre-forked children are still used.
        let late = (0..5).find_map(|_| {
            let (sender, receiver) = bounded::<u32>(1).unwrap();
            let start = Instant::now();
            let started = with(StartMethod::ForkServer).start_timeout(time).spawn(run, (sender,));
            started.err().map(|error| (error, receiver, start.elapsed()))
        });
        let (error, receiver, took) = late.unwrap();
        assert!(took >= time);
        assert!(error.is_start() && error.to_string().contains("did not answer within 0.2 s"), "{error}");
        assert!(receiver.recv().unwrap_err().is_disconnected(), "the task has run");
        eventually("the fork server is reaped", || children().iter().all(|&(pid, _)| pid != server));
        assert!(child.is_alive());
        assert_eq!(with(StartMethod::ForkServer).spawn(|| 3, ())?.join()?, 3);
        Ok(())
    })
}

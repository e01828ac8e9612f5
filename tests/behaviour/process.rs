//! **Process**: one child, from its start to its end.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::process::parent_id;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use multiproc::{Connection, Process, Result, active_children, current, parent, pipe, queue};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};

use crate::support::{
    BadValue, Latch, Outcome, TEST_TIMEOUT, alone, block, blocked_child, descriptors, send_signal, trials,
    wait_for_state,
};

trials![
    the_current_process_has_the_kernels_pid,
    the_first_process_has_no_parent,
    a_child_sees_its_own_and_its_parents_pid_and_name,
    arguments_arrive_equal,
    large_arguments_and_results_arrive_equal,
    a_child_has_its_parents_environment_arguments_and_folder,
    a_child_is_alive_until_it_exits_with_0,
    active_children_is_exact,
    a_join_with_a_zero_timeout_returns_at_once,
    a_join_with_a_timeout_ends_on_time,
    a_result_is_given_once,
    terminate_ends_a_child_with_signal_15,
    kill_ends_a_child_with_signal_9,
    terminate_ends_a_stopped_child,
    terminate_ends_a_child_of_a_thread_that_blocks_the_signal,
    a_child_that_has_ended_can_be_terminated_and_killed,
    exit_codes_come_through,
    a_panics_place_and_message_come_through,
    children_may_have_children,
    a_grandchild_sees_its_parents_death,
    a_dropped_child_goes_on,
    the_sentinel_becomes_readable_at_exit,
    a_hundred_processes_start_and_join,
    a_hundred_processes_are_killed_at_once,
    many_threads_start_children_at_once,
    a_child_holds_no_descriptor_of_its_siblings_or_its_parent,
    an_argument_that_does_not_encode_is_an_error_of_spawn,
    an_argument_that_does_not_decode_is_an_error_of_join,
    a_result_that_does_not_encode_is_an_error_of_join,
    a_result_that_does_not_decode_is_an_error_of_join,
    a_task_that_forks_answers_once,
];

fn the_current_process_has_the_kernels_pid() -> Outcome {
    assert_eq!(current().pid(), std::process::id());
    assert_eq!(current().name(), "main");
    Ok(())
}

fn the_first_process_has_no_parent() -> Outcome {
    assert_eq!(parent(), None);
    Ok(())
}

fn a_child_sees_its_own_and_its_parents_pid_and_name() -> Outcome {
    let introduce = || {
        let parent = parent().unwrap();
        (current().pid(), current().name().to_owned(), parent.pid(), parent.name().to_owned())
    };
    let child = Process::builder().name("clerk").spawn(introduce, ())?;
    let pid = child.pid();
    assert_eq!(child.name(), "clerk");
    assert_eq!(child.join()?, (pid, "clerk".to_owned(), std::process::id(), "main".to_owned()));

    let unnamed = Process::spawn(introduce, ())?;
    let name = unnamed.name().to_owned();
    assert_eq!(unnamed.join()?.1, name);
    Ok(())
}

type Eight = (u64, i64, f64, char, String, Vec<Option<Vec<u8>>>, BTreeMap<(u8, bool), String>, [u8; 3]);

fn arguments_arrive_equal() -> Outcome {
    let echo = |a, b, c, d, e, f, g, h| -> Eight { (a, b, c, d, e, f, g, h) };
    let map = BTreeMap::from([((1, true), "one".to_owned()), ((0, false), String::new())]);
    let vectors = vec![None, Some(vec![]), Some(vec![0, 255])];
    let args: Eight =
        (u64::MAX, i64::MIN, -0.1, 'ß', "nul \0 and ünïcode".to_owned(), vectors, map, [1, 2, 3]);
    assert_eq!(Process::spawn(echo, args.clone())?.join()?, args);
    Ok(())
}

fn large_arguments_and_results_arrive_equal() -> Outcome {
    for size in [0, 1, 32 * 1024 - 1, 32 * 1024 + 1, 200_000, 2_000_000] {
        let bytes: Vec<u8> = (0..=250).cycle().take(size).collect();
        let back = Process::spawn(|bytes: Vec<u8>| bytes, (bytes.clone(),))?.join()?;
        assert!(back == bytes, "{size} bytes came back as {}", back.len());
    }
    Ok(())
}

/// The state that a process has inherited.
fn inherited_state() -> (Vec<(OsString, OsString)>, Vec<OsString>, PathBuf) {
    (env::vars_os().collect(), env::args_os().collect(), env::current_dir().unwrap())
}

fn a_child_has_its_parents_environment_arguments_and_folder() -> Outcome {
    assert_eq!(Process::spawn(inherited_state, ())?.join()?, inherited_state());
    Ok(())
}

fn a_child_is_alive_until_it_exits_with_0() -> Outcome {
    let (mut child, latch) = blocked_child()?;
    assert!(child.is_alive());
    assert_eq!(child.exit_code(), None);
    drop(latch);
    assert_eq!(child.join_timeout(TEST_TIMEOUT)?, Some(()));
    assert!(!child.is_alive());
    assert_eq!(child.exit_code(), Some(0));
    Ok(())
}

fn active_children_is_exact() -> Outcome {
    alone(watch_children_come_and_go)
}

fn watch_children_come_and_go() -> Result<()> {
    let pids = || {
        let mut pids: Vec<u32> = active_children().iter().map(multiproc::ProcessInfo::pid).collect();
        pids.sort_unstable();
        pids
    };
    assert!(pids().is_empty());
    let (first, _latch) = blocked_child()?;
    let (second, latch) = blocked_child()?;
    assert_eq!(pids(), sorted([first.pid(), second.pid()]));
    assert!(active_children().iter().any(|child| child.name() == first.name()));
    drop(latch);
    second.join()?;
    assert_eq!(pids(), [first.pid()]);
    first.kill()?;
    assert_eq!(first.join().unwrap_err().signal(), Some(9));
    assert!(pids().is_empty());
    Ok(())
}

fn sorted<const N: usize>(mut pids: [u32; N]) -> [u32; N] {
    pids.sort_unstable();
    pids
}

fn a_join_with_a_zero_timeout_returns_at_once() -> Outcome {
    let (mut child, latch) = blocked_child()?;
    // The child blocks until the latch is dropped, so a join that waited for it would never return.
    assert_eq!(child.join_timeout(Duration::ZERO)?, None);
    drop(latch);
    Ok(child.join()?)
}

fn a_join_with_a_timeout_ends_on_time() -> Outcome {
    let (mut child, latch) = blocked_child()?;
    let time = Duration::from_millis(50);
    let start = Instant::now();
    assert_eq!(child.join_timeout(time)?, None);
    assert!(start.elapsed() >= time);
    drop(latch);
    assert_eq!(child.join_timeout(Duration::MAX)?, Some(()));
    Ok(())
}

fn a_result_is_given_once() -> Outcome {
    let mut child = Process::spawn(|| "once".to_owned(), ())?;
    assert_eq!(child.join_timeout(TEST_TIMEOUT)?.as_deref(), Some("once"));
    assert!(child.join_timeout(TEST_TIMEOUT).is_err());
    assert!(child.join().is_err());
    Ok(())
}

fn terminate_ends_a_child_with_signal_15() -> Outcome {
    let (mut child, _latch) = blocked_child()?;
    child.terminate()?;
    let error = child.join_timeout(TEST_TIMEOUT).unwrap_err();
    assert_eq!((error.signal(), error.pid()), (Some(15), Some(child.pid())));
    assert_eq!((error.exit_code(), child.exit_code()), (None, None));
    assert!(error.is_died() && error.to_string().contains("was killed by SIGTERM"), "{error}");
    Ok(())
}

fn kill_ends_a_child_with_signal_9() -> Outcome {
    let (mut child, _latch) = blocked_child()?;
    child.kill()?;
    let error = child.join_timeout(TEST_TIMEOUT).unwrap_err();
    assert_eq!((error.signal(), error.pid()), (Some(9), Some(child.pid())));
    assert!(error.is_died() && error.to_string().contains("was killed by SIGKILL"), "{error}");
    assert!(!child.is_alive());
    Ok(())
}

fn terminate_ends_a_stopped_child() -> Outcome {
    let (child, _latch) = blocked_child()?;
    send_signal(child.pid(), Signal::SIGSTOP);
    wait_for_state(child.pid(), 'T');
    child.terminate()?;
    assert_eq!(child.join().unwrap_err().signal(), Some(15));
    Ok(())
}

/// In a process of its own, where no child was started before the signal was blocked.
fn terminate_ends_a_child_of_a_thread_that_blocks_the_signal() -> Outcome {
    alone(|| {
        SigSet::all().thread_block().unwrap();
        let (child, _latch) = blocked_child()?;
        child.terminate()?;
        assert_eq!(child.join().unwrap_err().signal(), Some(15));
        Ok(())
    })
}

fn a_child_that_has_ended_can_be_terminated_and_killed() -> Outcome {
    let mut child = Process::spawn(|| (), ())?;
    child.join_timeout(TEST_TIMEOUT)?;
    child.terminate()?;
    child.kill()?;
    assert_eq!(child.exit_code(), Some(0));
    Ok(())
}

fn exit_codes_come_through() -> Outcome {
    for code in [0, 1, 42, 101, 255] {
        let mut child = Process::spawn(|code| -> () { std::process::exit(code) }, (code,))?;
        let error = child.join_timeout(TEST_TIMEOUT).unwrap_err();
        assert_eq!((error.exit_code(), error.signal()), (Some(code), None), "{error}");
        assert_eq!(child.exit_code(), Some(code));
    }
    let error = Process::spawn(|| -> () { std::process::abort() }, ())?.join().unwrap_err();
    assert_eq!((error.exit_code(), error.signal()), (None, Some(6)), "{error}");
    Ok(())
}

fn a_panics_place_and_message_come_through() -> Outcome {
    let mut child = Process::spawn(|shelf: u32| -> () { panic!("shelf {shelf} fell") }, (3,))?;
    let place = format!("{}:{}:", file!(), line!() - 1);
    let error = child.join_timeout(TEST_TIMEOUT).unwrap_err();
    assert!(error.is_panic() && !error.is_died());
    assert_eq!(error.pid(), Some(child.pid()));
    assert_eq!(child.exit_code(), Some(101));
    let text = error.to_string();
    assert!(text.contains("shelf 3 fell") && text.contains(&place), "{text}");
    Ok(())
}

fn children_may_have_children() -> Outcome {
    let family = lineage(3)?;
    assert_eq!(family.len(), 4);
    for generations in family.windows(2) {
        let [(elder, _), (younger, parent)] = generations else { unreachable!() };
        assert_eq!(parent, elder);
        assert_ne!(younger, elder);
    }
    Ok(())
}

/// The ids of this process and its parent, and those of this many generations below.
fn lineage(generations: u32) -> Result<Vec<(u32, u32)>> {
    let mut family = vec![(std::process::id(), parent_id())];
    if generations > 0 {
        family.extend(Process::spawn(lineage, (generations - 1,))?.join()??);
    }
    Ok(family)
}

fn a_grandchild_sees_its_parents_death() -> Outcome {
    let (latch, theirs) = pipe()?;
    let pass_on = |latch: Latch| Process::spawn(block, (latch,)).unwrap().join().unwrap();
    let child = Process::spawn(pass_on, (theirs,))?;
    latch.recv()?;
    child.kill()?;
    assert!(
        latch.recv().unwrap_err().is_disconnected(),
        "only the grandchild holds the other end, so it is gone"
    );
    Ok(())
}

fn a_dropped_child_goes_on() -> Outcome {
    let (latch, theirs) = pipe::<u32, u32>()?;
    let answer = |questions: Connection<u32, u32>| {
        let number = questions.recv().unwrap();
        questions.send(number + 1).unwrap();
    };
    drop(Process::spawn(answer, (theirs,))?);
    latch.send(41)?;
    assert_eq!(latch.recv()?, 42);
    Ok(())
}

fn the_sentinel_becomes_readable_at_exit() -> Outcome {
    let (child, latch) = blocked_child()?;
    let is_readable =
        |time: PollTimeout| poll(&mut [PollFd::new(child.as_fd(), PollFlags::POLLIN)], time).unwrap() == 1;
    assert!(!is_readable(PollTimeout::ZERO));
    drop(latch);
    assert!(is_readable(PollTimeout::try_from(TEST_TIMEOUT)?));
    assert!(!child.is_alive());
    Ok(child.join()?)
}

fn a_hundred_processes_start_and_join() -> Outcome {
    let children: Vec<_> = (0..100).map(|i| Process::spawn(|i: u32| i, (i,))).collect::<Result<_>>()?;
    for (i, child) in (0..100).zip(children) {
        assert_eq!(child.join()?, i);
    }
    Ok(())
}

fn a_hundred_processes_are_killed_at_once() -> Outcome {
    let children: Vec<_> = (0..100).map(|_| blocked_child()).collect::<Result<_>>()?;
    children.iter().try_for_each(|(child, _)| child.kill())?;
    for (child, _latch) in children {
        assert_eq!(child.join().unwrap_err().signal(), Some(9));
    }
    Ok(())
}

fn many_threads_start_children_at_once() -> Outcome {
    let start_some = || (0..10).all(|i| Process::spawn(|i: u32| i, (i,)).unwrap().join().unwrap() == i);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(start_some)).collect();
        assert!(threads.into_iter().all(|thread| thread.join().unwrap()));
    });
    Ok(())
}

fn a_child_holds_no_descriptor_of_its_siblings_or_its_parent() -> Outcome {
    alone(start_with_much_open)
}

fn start_with_much_open() -> Result<()> {
    // The standard streams, and the socket for its result.
    const EXPECTED: [u32; 4] = [0, 1, 2, 3];
    let inheritable = File::open("/dev/null").unwrap();
    fcntl(&inheritable, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    let _queue = queue::bounded::<u32>(4)?;
    let _siblings = (blocked_child()?, blocked_child()?);
    assert_eq!(Process::spawn(descriptors, ())?.join()?, EXPECTED);

    let (ours, theirs) = pipe::<(), ()>()?;
    let with_an_argument = Process::spawn(|_end: Latch| descriptors(), (theirs,))?.join()?;
    // An end of a pipe is a socket, the memory, and two eventfds for each direction.
    assert_eq!(with_an_argument.len(), EXPECTED.len() + 6, "{with_an_argument:?}");
    assert!(
        ours.recv().unwrap_err().is_disconnected(),
        "an end that was handed to a child is still open here"
    );
    Ok(())
}

fn an_argument_that_does_not_encode_is_an_error_of_spawn() -> Outcome {
    let error = Process::spawn(|_: BadValue| (), (BadValue::Unencodable,)).unwrap_err();
    assert!(error.is_codec());
    assert!(error.to_string().starts_with("cannot encode the arguments"), "{error}");
    Ok(())
}

fn an_argument_that_does_not_decode_is_an_error_of_join() -> Outcome {
    let error = Process::spawn(|_: BadValue| (), (BadValue::Undecodable,))?.join().unwrap_err();
    assert!(error.is_codec());
    assert!(error.to_string().starts_with("cannot decode the arguments"), "{error}");
    Ok(())
}

fn a_result_that_does_not_encode_is_an_error_of_join() -> Outcome {
    let error = Process::spawn(|| BadValue::Unencodable, ())?.join().unwrap_err();
    assert!(error.is_codec());
    assert!(error.to_string().starts_with("cannot encode the result"), "{error}");
    Ok(())
}

fn a_result_that_does_not_decode_is_an_error_of_join() -> Outcome {
    let child = Process::spawn(|| BadValue::Undecodable, ())?;
    let pid = child.pid();
    let error = child.join().unwrap_err();
    assert!(error.is_codec());
    assert_eq!(error.pid(), Some(pid));
    assert!(error.to_string().starts_with("cannot decode the result"), "{error}");
    Ok(())
}

fn a_task_that_forks_answers_once() -> Outcome {
    // The forked copy returns first: if it answered, its answer would count.
    let child = Process::spawn(|| (tests::fork_and_wait(), std::process::id()), ())?;
    let pid = child.pid();
    assert_eq!(child.join()?, (true, pid));
    Ok(())
}

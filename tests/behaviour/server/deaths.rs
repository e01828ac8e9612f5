//! The death of a server or a caller: who learns of it, and what it says.

use std::time::{Duration, Instant};

use multiproc::{ErrorKind, Process, Result, Server, pipe};
use tests::corrupter::{Corrupter, Where, mappings};

use super::{Counter, NOTICED, block, of_another_process};
use crate::support::{Outcome, TEST_TIMEOUT, eventually, send_signal, trials, wait_for_state};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;

trials![
    the_running_call_says_who_died_and_of_what,
    the_calls_behind_it_say_which_one_was_running,
    a_killed_server_fails_what_waits,
    calls_after_the_death_say_the_same,
    an_unrelated_process_learns_of_the_death,
    a_sender_that_waits_for_room_learns_of_the_death,
    a_killed_caller_disturbs_no_other,
    a_stopped_caller_disturbs_no_other,
    stopped_callers_of_a_server_that_gets_no_thread_disturb_no_other,
    the_server_ends_with_the_process_that_spawned_it,
    an_unrelated_process_learns_that_the_spawning_one_died,
    who_only_asks_learns_that_the_spawning_process_died,
    a_call_that_may_not_wait_says_nothing_untrue_of_the_end,
    who_only_asks_need_not_know_why_the_end_is_not_told,
    any_bytes_in_its_memory_hang_no_caller,
    calls_whose_requests_were_overwritten_are_errors,
];

fn the_running_call_says_who_died_and_of_what() -> Outcome {
    let counter = Server::builder().name("counter").spawn(Counter::new, (0,))?;
    let pid = counter.pid();
    let error = counter.call(Counter::die, ()).unwrap_err();
    assert_eq!((error.kind(), error.signal(), error.pid()), (ErrorKind::Died, Some(6), Some(pid)));
    let text = error.to_string();
    let expected = format!("server \"counter\" ({pid}) was killed by SIGABRT while running ");
    assert!(text.starts_with(&expected) && text.ends_with("Counter::die"), "{text}");
    let exits = |_: &mut Counter| -> () { std::process::exit(3) };
    let error = Server::spawn(Counter::new, (0,))?.call(exits, ()).unwrap_err();
    assert_eq!(error.exit_code(), Some(3));
    Ok(())
}

fn the_calls_behind_it_say_which_one_was_running() -> Outcome {
    let counter = Server::spawn(Counter::new, (0,))?;
    let (_blocked, latch) = block(&counter)?;
    let dies = counter.submit(Counter::die, ())?;
    let behind = counter.submit(Counter::add, (1,))?;
    drop(latch);
    let text = behind.get().unwrap_err().to_string();
    let [running, before] =
        ["while running ", ", before it replied to "].map(|part| text.find(part).unwrap());
    assert!(running < before && text.ends_with("Counter::add"), "{text}");
    assert!(text[..before].ends_with("Counter::die"), "{text}");
    assert!(dies.get().unwrap_err().to_string().ends_with("Counter::die"));
    Ok(())
}

fn a_killed_server_fails_what_waits() -> Outcome {
    let counter = Server::spawn(Counter::new, (0,))?;
    assert!(counter.is_alive());
    let (blocked, _latch) = block(&counter)?;
    let behind = counter.submit(Counter::add, (1,))?;
    counter.kill()?;
    assert_eq!(blocked.get().unwrap_err().signal(), Some(9));
    assert_eq!(behind.get().unwrap_err().signal(), Some(9));
    assert!(!counter.is_alive());
    Ok(())
}

fn calls_after_the_death_say_the_same() -> Outcome {
    let counter = Server::spawn(Counter::new, (0,))?;
    assert_eq!(counter.call(Counter::die, ()).unwrap_err().signal(), Some(6));
    for _ in 0..3 {
        assert_eq!(counter.call(Counter::total, ()).unwrap_err().signal(), Some(6));
        assert_eq!(counter.submit(Counter::total, ()).err().and_then(|error| error.signal()), Some(6));
    }
    let in_child = |counter: Server<Counter>| counter.call(Counter::total, ()).unwrap_err().signal();
    assert_eq!(Process::spawn(in_child, (counter,))?.join()?, Some(6));
    Ok(())
}

fn call(counter: Server<Counter>, started: multiproc::Connection<(), ()>) -> Option<i32> {
    let handle = counter.submit(Counter::add, (1,)).unwrap();
    started.send(()).unwrap();
    handle.get().unwrap_err().signal()
}

fn an_unrelated_process_learns_of_the_death() -> Outcome {
    let counter = Server::spawn(Counter::new, (0,))?;
    let (blocked, _latch) = block(&counter)?;
    let (ours, theirs) = pipe::<(), ()>()?;
    let child = Process::spawn(call, (counter.clone(), theirs))?;
    ours.recv()?;
    wait_for_state(child.pid(), 'S');
    let killed = Instant::now();
    counter.kill()?;
    assert_eq!(child.join()?, Some(9));
    assert!(killed.elapsed() < NOTICED, "after {:?}", killed.elapsed());
    assert_eq!(blocked.get().unwrap_err().signal(), Some(9));
    let error = counter.call(Counter::total, ()).unwrap_err().to_string();
    assert!(error.contains("Counter::block, before it replied to "), "{error}");
    Ok(())
}

fn a_sender_that_waits_for_room_learns_of_the_death() -> Outcome {
    let counter = Server::builder().capacity(1).spawn(Counter::new, (0,))?;
    let (_blocked, _latch) = block(&counter)?;
    let _fills = counter.submit(Counter::add, (1,))?;
    let submit = |counter: Server<Counter>, started: multiproc::Connection<(), ()>| {
        started.send(()).unwrap();
        counter.submit(Counter::add, (1,)).err().and_then(|error| error.signal())
    };
    let (ours, theirs) = pipe::<(), ()>()?;
    let child = Process::spawn(submit, (counter.clone(), theirs))?;
    ours.recv()?;
    wait_for_state(child.pid(), 'S');
    counter.kill()?;
    assert_eq!(child.join()?, Some(9));
    Ok(())
}

/// A child with a call behind one that runs, that one, and its latch.
type Waiting = (Process<Option<i32>>, multiproc::server::CallHandle<()>, multiproc::Connection<(), ()>);

/// A child that has called a method, and waits for it behind another one.
fn waiting_child(counter: &Server<Counter>) -> Result<Waiting> {
    let (blocked, latch) = block(counter)?;
    let (ours, theirs) = pipe::<(), ()>()?;
    let child = Process::spawn(call, (counter.clone(), theirs))?;
    ours.recv()?;
    wait_for_state(child.pid(), 'S');
    Ok((child, blocked, latch))
}

fn a_killed_caller_disturbs_no_other() -> Outcome {
    let counter = Server::spawn(Counter::new, (0,))?;
    for number in 1..=3 {
        let (child, blocked, latch) = waiting_child(&counter)?;
        child.kill()?;
        assert!(child.join().is_err());
        drop(latch);
        blocked.get()?;
        assert_eq!(counter.call(Counter::total, ())?, number, "the server had its call");
    }
    let open = |_: &mut Counter| std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let before = counter.call(open, ())?;
    let once = |counter: Server<Counter>| counter.call(Counter::total, ());
    for _ in 0..5 {
        Process::spawn(once, (counter.clone(),))?.join()??;
    }
    assert!(counter.call(open, ())? <= before + 4, "the descriptors of one caller at most are kept");
    Ok(())
}

fn a_stopped_caller_disturbs_no_other() -> Outcome {
    let counter = Server::spawn(Counter::new, (0,))?;
    let (child, blocked, latch) = waiting_child(&counter)?;
    send_signal(child.pid(), Signal::SIGSTOP);
    wait_for_state(child.pid(), 'T');
    drop(latch);
    blocked.get()?;
    assert_eq!(counter.call(Counter::total, ())?, 1);
    child.kill()?;
    Ok(())
}

/// More replies than its channel has room for wait for each. There may be the stacks of some threads that have
/// ended.
fn stopped_callers_of_a_server_that_gets_no_thread_disturb_no_other() -> Outcome {
    let block_then_get_no_thread = |_: &mut Counter, latch: multiproc::Connection<(), ()>| {
        latch.send(()).unwrap();
        let _ = latch.recv();
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: u64 = statm.split(' ').next().unwrap().parse().unwrap();
        let bytes = pages * 4096 + 1024 * 1024; // the stack of a thread has twice that
        setrlimit(Resource::RLIMIT_AS, bytes, bytes).unwrap();
    };
    let submit_many = |counter: Server<Counter>, stage: multiproc::Connection<(), ()>| {
        let calls = (0..400).map(|_| counter.submit(Counter::bytes, (1000,)));
        let calls = calls.collect::<Result<Vec<_>>>()?;
        stage.send(())?;
        Ok::<_, multiproc::Error>(calls.into_iter().filter_map(|call| call.get().err()).count())
    };
    let counter = Server::builder().capacity(3_000).spawn(Counter::new, (0,))?;
    let (latch, theirs) = pipe::<(), ()>()?;
    let blocked = counter.submit(block_then_get_no_thread, (theirs,))?;
    latch.recv()?;
    let mut children = Vec::new();
    for _ in 0..6 {
        let (ours, theirs) = pipe::<(), ()>()?;
        let child = Process::spawn(submit_many, (counter.clone(), theirs))?;
        ours.recv()?;
        send_signal(child.pid(), Signal::SIGSTOP);
        wait_for_state(child.pid(), 'T');
        children.push(child);
    }
    drop(latch);
    blocked.get()?;
    assert_eq!(counter.call(Counter::add, (1,))?, 1);
    for child in &children {
        send_signal(child.pid(), Signal::SIGCONT);
    }
    let lost = children.into_iter().map(|child| child.join()?).sum::<Result<usize>>()?;
    assert!((1..6 * 400).contains(&lost), "{lost} calls have no result");
    Ok(())
}

fn the_server_ends_with_the_process_that_spawned_it() -> Outcome {
    let (child, latch, server) = of_another_process()?;
    let pid = server.call(Counter::pid, ())?;
    drop(latch); // it returns, though its server has a handle here
    child.join()?;
    eventually("the server ends", || !std::path::Path::new(&format!("/proc/{pid}")).exists());
    assert_eq!(server.call(Counter::total, ()).unwrap_err().kind(), ErrorKind::Died);
    Ok(())
}

fn an_unrelated_process_learns_that_the_spawning_one_died() -> Outcome {
    let (child, _latch, server) = of_another_process()?;
    assert!(server.kill().is_err(), "it is not this process's child");
    let (blocked, _held) = block(&server)?;
    let behind = server.submit(Counter::add, (1,))?;
    let killed = Instant::now();
    child.kill()?;
    let errors = [blocked.get().unwrap_err(), behind.get().map(drop).unwrap_err()];
    assert!(errors.iter().all(|error| error.kind() == ErrorKind::Died), "{errors:?}");
    assert_eq!(server.call(Counter::total, ()).unwrap_err().kind(), ErrorKind::Died);
    assert!(killed.elapsed() < NOTICED, "after {:?}", killed.elapsed());
    Ok(())
}

fn who_only_asks_learns_that_the_spawning_process_died() -> Outcome {
    let (child, _latch, server) = of_another_process()?;
    let (blocked, _held) = block(&server)?;
    assert!(server.is_alive() && !blocked.is_ready());
    child.kill()?;
    eventually("the call is ready", || blocked.is_ready());
    eventually("the server is known to have ended", || !server.is_alive());
    assert_eq!(blocked.get().unwrap_err().kind(), ErrorKind::Died);
    Ok(())
}

/// The process that has spawned it is stopped, so no process says how the server has ended.
fn a_call_that_may_not_wait_says_nothing_untrue_of_the_end() -> Outcome {
    let (child, _latch, server) = of_another_process()?;
    let pid = server.call(Counter::pid, ())?;
    wait_for_state(pid, 'S'); // so that each send asks whether it lives
    send_signal(child.pid(), Signal::SIGSTOP);
    wait_for_state(child.pid(), 'T');
    send_signal(pid, Signal::SIGKILL);
    wait_for_state(pid, 'Z');
    let short = Duration::from_millis(10);
    let error = server.try_submit(Counter::total, ()).map(drop).unwrap_err();
    assert!(error.is_full(), "{error}");
    let error = server.submit_timeout(Counter::total, (), short).map(drop).unwrap_err();
    assert!(error.is_full(), "{error}");
    let error = server.call_timeout(Counter::total, (), short).unwrap_err();
    assert!(error.is_timeout(), "{error}");
    send_signal(child.pid(), Signal::SIGCONT);
    assert_eq!(server.call(Counter::total, ()).unwrap_err().signal(), Some(9));
    assert_eq!(server.try_submit(Counter::total, ()).map(drop).unwrap_err().signal(), Some(9));
    Ok(())
}

/// As for a thread that waits, there is an error after some seconds, though the process that would tell it is stopped.
fn who_only_asks_need_not_know_why_the_end_is_not_told() -> Outcome {
    for asks_by_time in [false, true] {
        let (child, _latch, server) = of_another_process()?;
        let pid = server.call(Counter::pid, ())?;
        let (mut blocked, _held) = block(&server)?;
        send_signal(child.pid(), Signal::SIGSTOP);
        wait_for_state(child.pid(), 'T');
        send_signal(pid, Signal::SIGKILL);
        let mut error = None;
        eventually("the call has an error", || {
            if asks_by_time {
                error = blocked.get_timeout(Duration::from_millis(20)).err();
            }
            error.is_some() || !asks_by_time && blocked.is_ready()
        });
        let error = if asks_by_time { error.unwrap() } else { blocked.get().unwrap_err() };
        assert_eq!(error.kind(), ErrorKind::Died, "{error}");
        child.kill()?;
    }
    Ok(())
}

/// A server whose memory is overwritten gives values or errors, in time.
fn any_bytes_in_its_memory_hang_no_caller() -> Outcome {
    let write = |_server: Server<Counter>, started: multiproc::Connection<(), ()>| {
        let _ = started.send(());
        Corrupter::new(mappings(), 11).write_for(Where::Heads(512), Duration::from_millis(300));
    };
    let counter = Server::spawn(Counter::new, (0,))?;
    counter.call(Counter::add, (1,))?;
    let (ours, theirs) = pipe::<(), ()>()?;
    let child = Process::spawn(write, (counter.clone(), theirs))?;
    ours.recv()?;
    while child.is_alive() {
        let begun = Instant::now();
        let _ = counter.call_timeout(Counter::add, (1,), Duration::from_millis(20));
        assert!(begun.elapsed() < TEST_TIMEOUT, "over after {:?}", begun.elapsed());
    }
    counter.kill()?;
    child.join()?;
    let after = Server::spawn(Counter::new, (0,))?;
    assert_eq!(after.call(Counter::add, (1,))?, 1);
    Ok(())
}

fn calls_whose_requests_were_overwritten_are_errors() -> Outcome {
    let overwrite = |_server: Server<Counter>| {
        let corrupter = Corrupter::new(mappings(), 0);
        let requests = 64 * 1024..68 * 1024;
        requests.step_by(4).skip(128).for_each(|word| corrupter.overwrite(word, u32::MAX));
    };
    let counter = Server::spawn(Counter::new, (0,))?;
    let (blocked, latch) = block(&counter)?;
    let mut waiting = [counter.submit(Counter::total, ())?, counter.submit(Counter::total, ())?];
    Process::spawn(overwrite, (counter.clone(),))?.join()?;
    drop(latch);
    blocked.get()?;
    for call in &mut waiting {
        let error = call.get_timeout(TEST_TIMEOUT).unwrap_err();
        assert!(error.is_codec(), "{error}");
    }
    Ok(())
}

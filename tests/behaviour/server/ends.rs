//! The end of a server: its last handle, `stop`, and what is left.

use multiproc::{Connection, ErrorKind, Process, Server, pipe};

use super::{Counter, block};
use crate::support::{Outcome, alone, children, eventually, open_without_children, trials};

trials![
    the_last_handle_dropped_is_the_end,
    the_last_handle_killed_is_the_end,
    the_calls_before_the_end_run,
    stop_gives_the_state_back,
    a_state_that_does_not_encode_is_an_error_of_stop,
    calls_behind_a_stop_are_errors,
    nothing_is_left_of_a_server,
];

fn is_gone(pid: u32) -> bool {
    !std::path::Path::new(&format!("/proc/{pid}")).exists()
}

fn the_last_handle_dropped_is_the_end() -> Outcome {
    let counter = Server::spawn(Counter::new, (0,))?;
    let pid = counter.call(Counter::pid, ())?;
    let (latch, theirs) = pipe::<(), ()>()?;
    let hold = |counter: Server<Counter>, latch: Connection<(), ()>| {
        let _ = latch.recv();
        counter.call(Counter::add, (1,))
    };
    let child = Process::spawn(hold, (counter.clone(), theirs))?;
    drop(counter);
    latch.send(())?;
    assert_eq!(child.join()??, 1, "it lives while another process has a handle");
    eventually("the server ends", || is_gone(pid));
    Ok(())
}

fn the_last_handle_killed_is_the_end() -> Outcome {
    let counter = Server::spawn(Counter::new, (0,))?;
    let pid = counter.call(Counter::pid, ())?;
    let (latch, theirs) = pipe::<(), ()>()?;
    let hold = |counter: Server<Counter>, latch: Connection<(), ()>| {
        let _ = counter.call(Counter::add, (1,));
        let _ = latch.send(());
        let _ = latch.recv();
    };
    let child = Process::spawn(hold, (counter, theirs))?;
    latch.recv()?;
    assert!(!is_gone(pid));
    child.kill()?;
    eventually("the server ends", || is_gone(pid));
    Ok(())
}

fn the_calls_before_the_end_run() -> Outcome {
    let (results, theirs) = pipe::<(), u64>()?;
    let counter = Server::spawn(Counter::new, (0,))?;
    let report = |counter: &mut Counter, results: Connection<u64, ()>| {
        let _ = results.send(counter.total);
    };
    for _ in 0..100 {
        drop(counter.submit(Counter::add, (1,))?);
    }
    drop(counter.submit(report, (theirs,))?);
    drop(counter);
    assert_eq!(results.recv()?, 100);
    Ok(())
}

fn stop_gives_the_state_back() -> Outcome {
    let list = Server::spawn(Vec::<String>::new, ())?;
    drop(list.submit(Vec::push, ("first".to_owned(),))?);
    let pid = list.pid();
    assert_eq!(list.stop()?, ["first"]);
    eventually("the server ends", || is_gone(pid));
    let large = Server::spawn(|| vec![7_u8; 5_000_000], ())?;
    assert_eq!(large.stop()?.len(), 5_000_000);
    Ok(())
}

fn a_state_that_does_not_encode_is_an_error_of_stop() -> Outcome {
    let server = Server::spawn(|| crate::support::BadValue::Unencodable, ())?;
    assert!(server.stop().unwrap_err().is_codec());
    Ok(())
}

fn calls_behind_a_stop_are_errors() -> Outcome {
    let blocks = |_: &mut u64, latch: Connection<(), ()>| {
        let _ = latch.send(());
        let _ = latch.recv();
    };
    let server = Server::builder().name("stopped").spawn(|| 7_u64, ())?;
    let (latch, theirs) = pipe::<(), ()>()?;
    drop(server.submit(blocks, (theirs,))?);
    latch.recv()?; // so that what waits below is the stop
    let other = server.clone();
    let get = |number: &mut u64| *number;
    std::thread::scope(|scope| {
        let stopped = scope.spawn(move || server.stop());
        eventually("it waits", || other.waiting() == 1);
        let behind = other.submit(get, ())?;
        drop(latch);
        assert_eq!(stopped.join().unwrap()?, 7);
        let error = behind.get().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Closed);
        assert!(error.to_string().starts_with("server \"stopped\" ("), "{error}");
        assert!(error.to_string().contains("was stopped before it replied to "), "{error}");
        assert!(other.call(get, ()).unwrap_err().is_closed());
        assert!(!other.is_alive());
        Ok(())
    })
}

fn nothing_is_left_of_a_server() -> Outcome {
    alone(|| {
        let use_one = || -> multiproc::Result<()> {
            let counter = Server::spawn(Counter::new, (0,))?;
            counter.call(Counter::add, (1,))?;
            let (blocked, latch) = block(&counter)?;
            drop(latch);
            blocked.get()?;
            let pid = counter.pid();
            drop(counter);
            eventually("the server is reaped", || children().iter().all(|(child, _)| *child != pid));
            Ok(())
        };
        use_one()?;
        let before = open_without_children();
        for _ in 0..5 {
            use_one()?;
        }
        assert_eq!(open_without_children(), before);
        Ok(())
    })
}

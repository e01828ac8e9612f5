//! **Servers**: a process that owns a state, on which any process calls methods.

mod calls;
mod deaths;
mod ends;
mod panics;
mod restarts;
mod states;

use std::time::Duration;

use libtest_mimic::Trial;
use multiproc::{Connection, Process, Result, Server, pipe};

use crate::support::TEST_TIMEOUT;

pub(crate) fn trials() -> Vec<Trial> {
    let trials = [
        calls::trials(),
        deaths::trials(),
        ends::trials(),
        panics::trials(),
        restarts::trials(),
        states::trials(),
    ];
    trials.into_iter().flatten().collect()
}

/// A state that is not `Serialize`.
struct Counter {
    total: u64,
    _of_this_process: std::sync::mpsc::Receiver<()>,
}

#[allow(clippy::unused_self, reason = "methods of a state have it")]
impl Counter {
    fn new(total: u64) -> Self {
        Self { total, _of_this_process: std::sync::mpsc::channel().1 }
    }

    fn add(&mut self, number: u64) -> u64 {
        self.total += number;
        self.total
    }

    fn total(&mut self) -> u64 {
        self.total
    }

    /// Reports that it runs, and blocks until the latch is dropped.
    fn block(&mut self, latch: Connection<(), ()>) {
        let _ = latch.send(());
        let _ = latch.recv();
    }

    fn die(&mut self) {
        std::process::abort();
    }

    fn panic(&mut self) {
        self.total += 1000;
        panic!("this method always panics");
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        vec![7; count]
    }

    fn pid(&mut self) -> u32 {
        std::process::id()
    }
}

/// Has a server run a method that blocks until the latch is dropped.
fn block(server: &Server<Counter>) -> Result<(multiproc::server::CallHandle<()>, Connection<(), ()>)> {
    let (latch, theirs) = pipe()?;
    let blocked = server.submit(Counter::block, (theirs,))?;
    assert!(latch.poll(TEST_TIMEOUT)?, "the method did not begin");
    latch.recv()?;
    Ok((blocked, latch))
}

/// The process that has spawned a server, its latch, and a handle.
type Elsewhere = (Process<()>, Connection<(), ()>, Server<Counter>);

/// A server of a child of this process, which this process did not spawn.
fn of_another_process() -> Result<Elsewhere> {
    let spawn = |handles: Connection<Server<Counter>, ()>, latch: Connection<(), ()>| {
        let server = Server::spawn(Counter::new, (0,)).unwrap();
        handles.send(server).unwrap();
        let _ = latch.recv();
    };
    let ((ours, theirs), (latch, held)) = (pipe::<(), Server<Counter>>()?, pipe()?);
    let child = Process::spawn(spawn, (theirs, held))?;
    let server = ours.recv()?;
    Ok((child, latch, server))
}

/// Within this time a caller learns of a death. Twice the promise, for a busy machine.
const NOTICED: Duration = Duration::from_secs(10);

//! Servers with callers in several processes.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use multiproc::failpoints::now;
use multiproc::server::Limit;
use multiproc::{Error, ErrorKind, Process, Server, TaskError};

use super::{AllowedFailures, Observed};

const CALLERS: u32 = 2;
const CALLS: u32 = 24;

/// A state that is no value of serde's.
#[derive(Default)]
struct Echo;

#[allow(clippy::unused_self, reason = "methods of a state have it")]
impl Echo {
    fn bytes(&mut self, bytes: Vec<u8>) -> Vec<u8> {
        bytes
    }

    fn handle(&mut self, server: Server<Self>) -> Server<Self> {
        server
    }
}

/// Calls of all kinds; how many have succeeded, and the errors of the others.
fn work(server: Server<Echo>) -> (u32, Vec<Error>) {
    let (mut good, mut errors) = (0, Vec::new());
    for number in 0..CALLS {
        let result = match number % 8 {
            5 => server.call(Echo::handle, (server.clone(),)).map(drop),
            6 => echo(&server, 40_000),
            7 => echo(&server, 1_500_000),
            _ => echo(&server, number as usize),
        };
        match result {
            Ok(()) => good += 1,
            Err(error) => errors.push(error),
        }
    }
    (good, errors)
}

fn echo(server: &Server<Echo>, size: usize) -> Result<(), Error> {
    let bytes = vec![7; size];
    if server.call(Echo::bytes, (bytes.clone(),))? == bytes {
        Ok(())
    } else {
        Err(TaskError::from("other bytes").into())
    }
}

/// The errors of all callers, here and in children. A child that was killed is one of the failures.
fn errors_of_all(
    server: &Server<Echo>,
    observed: &mut Observed,
    allowed: AllowedFailures,
) -> Result<Vec<Error>> {
    let children: Vec<_> = (0..CALLERS).map(|_| Process::spawn(work, (server.clone(),))).collect();
    let (mut good, mut errors) = work(server.clone());
    let mut callers = 1;
    for child in children {
        if let Some((more, failures)) = observed.tolerate(child.and_then(Process::join), allowed)? {
            (good, callers) = (good + more, callers + 1);
            errors.extend(failures);
        }
    }
    observed.settled = Some(now());
    ensure!(good as usize + errors.len() == (callers * CALLS) as usize, "calls are missing");
    for error in &errors {
        let is_death = error.kind() == ErrorKind::Died && allowed.deaths > 0;
        ensure!(is_death || allowed.is_refusal(error), "a call fails: {error}");
    }
    Ok(errors)
}

/// A server whose death fails the calls.
pub(super) fn plain(allowed: AllowedFailures) -> Result<Observed> {
    let mut observed = Observed::default();
    let server = Server::spawn(Echo::default, ());
    let Some(server) = observed.tolerate(server, allowed)? else { return Ok(observed) };
    errors_of_all(&server, &mut observed, allowed)?;
    Ok(observed)
}

/// A server whose death fails one call.
pub(super) fn restarted(allowed: AllowedFailures) -> Result<Observed> {
    let mut observed = Observed::default();
    let limit = Limit::new(10, Duration::from_secs(3600));
    let server = Server::builder().restart(limit).spawn(Echo::default, ());
    let Some(server) = observed.tolerate(server, allowed)? else { return Ok(observed) };
    let errors = errors_of_all(&server, &mut observed, allowed)?;
    let last = echo(&server, 1);
    let deaths = errors.iter().filter(|error| error.kind() == ErrorKind::Died).count();
    ensure!(deaths <= 1, "{deaths} calls fail: {errors:?}");
    match last {
        Err(error) if error.kind() == ErrorKind::Died && deaths < allowed.deaths as usize => {
            echo(&server, 1)?;
        }
        Err(error) if !allowed.is_refusal(&error) => bail!("no server goes on: {error}"),
        _ => {}
    }
    Ok(observed)
}

/// A server of a child.
pub(super) fn nested(allowed: AllowedFailures) -> Result<Observed> {
    let mut observed = Observed::default();
    let child = Process::spawn(own, ());
    match observed.tolerate(child.and_then(Process::join), allowed)? {
        None => {}
        Some(Ok(total)) => ensure!(total == 20, "{total} of 20 calls"),
        Some(Err(error)) if allowed.is_refusal(&error) => {}
        Some(Err(error)) if error.kind() == ErrorKind::Died && allowed.deaths > 0 => observed.tasks += 1,
        Some(Err(error)) => bail!("the child's server fails: {error}"),
    }
    observed.settled = Some(now());
    Ok(observed)
}

/// Has a server and stops it.
fn own() -> multiproc::Result<u64> {
    let server = Server::spawn(|| 0_u64, ())?;
    for _ in 0..20 {
        server.call(|total: &mut u64| *total += 1, ())?;
    }
    let other = server.clone();
    let total = server.stop()?;
    // The thread that reaps the server passes its failpoint before this process ends.
    while other.is_alive() {
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(total)
}

//! A child that waits for several things at a time, and one that closes a queue under others.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;

use anyhow::{Result, bail, ensure};
use multiproc::failpoints::now;
use multiproc::queue::{Receiver, Sender, bounded};
use multiproc::{Connection, Error, Fd, Process, pipe, wait_any};

use super::{AllowedFailures, Observed};

const ROUNDS: u32 = 12;

/// What the child waits for: a queue, a pipe and a socket.
type Sources = (Receiver<u32>, Connection<u32, u32>, Fd<UnixStream>);

/// Each message is answered before the next one is sent, so that the child waits for each. The later ones are sent
/// once it sleeps.
pub(super) fn any(allowed: AllowedFailures) -> Result<Observed> {
    let mut observed = Observed::default();
    let Some((sender, items)) = observed.tolerate(bounded(4), allowed)? else { return Ok(observed) };
    let Some((ours, theirs)) = observed.tolerate(pipe::<u32, u32>(), allowed)? else { return Ok(observed) };
    let (mut client, served) = UnixStream::pair()?;
    let sources: Sources = (items, theirs, Fd::from(served));
    let child = Process::spawn(answer, (sources,));
    let answered = (0..ROUNDS).all(|number| {
        if number >= ROUNDS / 2 {
            wait_until_it_sleeps(&child);
        }
        match number % 3 {
            0 => sender.send(number).is_ok() && ours.recv().is_ok_and(|answer| answer == number),
            1 => ours.send(number).is_ok() && ours.recv().is_ok_and(|answer| answer == number),
            _ => client.write_all(b"x").is_ok() && client.read_exact(&mut [0]).is_ok(),
        }
    });
    drop((sender, ours));
    let ended = observed.tolerate(child.and_then(Process::join), allowed)?;
    observed.settled = Some(now());
    let rest = client.read(&mut [0]);
    ensure!(rest.as_ref().is_ok_and(|&length| length == 0) || rest.is_err(), "the socket is still open");
    match ended {
        Some(Err(error)) if !allowed.is_refusal(&error) => bail!("the child fails: {error}"),
        Some(Ok(count)) => ensure!((answered && count == ROUNDS) || allowed.refusal, "{count} answers"),
        _ => {}
    }
    Ok(observed)
}

/// Waits until the child sleeps, or lives no more. When it has answered a message, it sleeps for nothing but the next
/// one.
fn wait_until_it_sleeps<R>(child: &Result<Process<R>, Error>) {
    let Ok(child) = child else { return };
    let stat = format!("/proc/{0}/task/{0}/stat", child.pid());
    while child.is_alive() && fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") S ")) {
        thread::yield_now();
    }
}

/// Returns the number of answers, when the other ends are gone.
fn answer((items, pipe, mut socket): Sources) -> Result<u32, Error> {
    for count in 0.. {
        let ready = wait_any(&[&items, &pipe, &socket])?;
        let answered = match ready.first() {
            Some(0) => items.recv().and_then(|number| Ok(pipe.send(number)?)),
            Some(1) => pipe.recv().and_then(|number| Ok(pipe.send(number)?)),
            _ => {
                let done = socket.read_exact(&mut [0]).and_then(|()| socket.write_all(b"y"));
                done.map_err(|error| multiproc::TaskError::from(error).into())
            }
        };
        match answered {
            Err(error) if error.is_disconnected() => return Ok(count),
            answered => answered?,
        }
    }
    Ok(0)
}

const ITEMS: u32 = 20;

/// The receiver comes to the end although a sender is left.
pub(super) fn closed(allowed: AllowedFailures) -> Result<Observed> {
    let mut observed = Observed::default();
    let Some((sender, receiver)) = observed.tolerate(bounded(64), allowed)? else { return Ok(observed) };
    let count = |receiver: Receiver<u32>| receiver.into_iter().collect::<Result<Vec<_>, _>>();
    let close = |sender: Sender<u32>| -> Result<(), Error> {
        (0..ITEMS).try_for_each(|number| sender.send(number))?;
        sender.close();
        Ok(())
    };
    let receiving = Process::spawn(count, (receiver.clone(),));
    let closing = Process::spawn(close, (sender.clone(),));
    let is_closed = match observed.tolerate(closing.and_then(Process::join), allowed)? {
        Some(Err(error)) if !allowed.is_refusal(&error) => bail!("a child fails: {error}"),
        closed => closed.is_some_and(|closed| closed.is_ok()),
    };
    if is_closed {
        let sent = sender.send(ITEMS);
        ensure!(sent.is_err_and(|refused| refused.error().is_disconnected()), "a closed queue takes more");
    } else {
        sender.close();
    }
    let received = observed.tolerate(receiving.and_then(Process::join), allowed)?;
    observed.settled = Some(now());
    match received {
        Some(Err(error)) if !allowed.is_refusal(&error) => bail!("the receiver fails: {error}"),
        Some(Ok(received)) => {
            ensure!((0..ITEMS).collect::<Vec<_>>().starts_with(&received), "{received:?} come");
            ensure!(!is_closed || received.len() == ITEMS as usize, "{received:?} come");
        }
        _ => {}
    }
    Ok(observed)
}

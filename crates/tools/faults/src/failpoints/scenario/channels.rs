//! Scenarios with queues and pipes.

use std::process::id;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use multiproc::Process;
use multiproc::failpoints::now;
use multiproc::queue::{self, Receiver, Sender};
use nix::unistd::gettid;

use super::wakeups::{Sleepers, wait_until_asleep};
use super::{AllowedFailures, Observed};
use crate::event_log::EventLog;
use crate::workload::{self, Item, Question};

const PRODUCERS: u32 = 2;
const CONSUMERS: u32 = 2;

pub(super) fn queue(allowed: AllowedFailures) -> Result<Observed> {
    through(|| queue::bounded(32), allowed)
}

/// With more in it than one step of its memory.
pub(super) fn unbounded(allowed: AllowedFailures) -> Result<Observed> {
    through(queue::unbounded, allowed)
}

/// Producers and consumers in processes of their own.
fn through(
    create: impl FnOnce() -> multiproc::Result<(Sender<Item>, Receiver<Item>)>,
    allowed: AllowedFailures,
) -> Result<Observed> {
    let mut observed = Observed::default();
    let event_log = EventLog::create()?;
    let Some((sender, receiver)) = observed.tolerate(create(), allowed)? else { return Ok(observed) };
    let mut children = Vec::new();
    for own in 0..PRODUCERS {
        children.push(Process::spawn(workload::produce, (sender.clone(), own, event_log.path())));
    }
    for own in 0..CONSUMERS {
        children.push(Process::spawn(workload::consume, (receiver.clone(), own, event_log.path())));
    }
    drop((sender, receiver));
    let mut ended_well = Vec::new();
    for child in children {
        match observed.tolerate(child.and_then(Process::join), allowed)? {
            Some(Ok(())) => ended_well.push(true),
            None => ended_well.push(false),
            Some(Err(error)) if allowed.is_refusal(&error) => ended_well.push(false),
            Some(Err(error)) => bail!("a producer or consumer fails: {error}"),
        }
    }
    observed.settled = Some(now());
    let (producers, consumers) = ended_well.split_at(PRODUCERS as usize);
    workload::check(&event_log, producers, consumers)?;
    Ok(observed)
}

/// Questions and answers, small and large, some with an end of a queue.
pub(super) fn pipe(allowed: AllowedFailures) -> Result<Observed> {
    let mut observed = Observed::default();
    let Some((ours, theirs)) = observed.tolerate(multiproc::pipe::<Question, Vec<u8>>(), allowed)? else {
        return Ok(observed);
    };
    let child = Process::spawn(workload::answer, (theirs,));
    let (mut answers, mut failed) = (0, None);
    for number in 0..30_u8 {
        match workload::ask(&ours, number) {
            Ok(Some(true)) => answers += 1,
            Ok(Some(false)) => bail!("a wrong answer comes"),
            Ok(None) => break,
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    drop(ours);
    let answered = observed.tolerate(child.and_then(Process::join), allowed)?;
    observed.settled = Some(now());
    match answered {
        Some(Ok(())) if failed.is_none() => ensure!(answers == 30 || allowed.refusal, "{answers} answers"),
        Some(Ok(())) => {
            let error = failed.map_or_else(String::new, |error| error.to_string());
            ensure!(allowed.refusal, "after {answers} answers: {error}");
        }
        Some(Err(error)) => {
            ensure!(allowed.is_refusal(&error), "the child fails: {error}");
        }
        None => {}
    }
    Ok(observed)
}

/// How soon a sleeping receiver must find a message whose sender died before the wake-up.
const FOUND: Duration = Duration::from_millis(1500);

/// One message for a sleeping receiver, and none after it. If its sender is killed before the wake-up, no
/// other sender makes up for it.
pub(super) fn single(allowed: AllowedFailures) -> Result<Observed> {
    let mut observed = Observed::default();
    let Some((sender, receiver)) = observed.tolerate(queue::bounded::<u32>(4), allowed)? else {
        return Ok(observed);
    };
    thread::scope(|scope| {
        let (tell, told) = mpsc::channel();
        let (bring, brought) = mpsc::channel();
        scope.spawn(move || {
            let _ = tell.send(gettid());
            let _ = bring.send(receiver.recv());
        });
        let child = Process::spawn(wait_and_send, (sender.clone(), (id(), vec![told.recv()?.as_raw()])));
        let sent = observed.tolerate(child.and_then(Process::join), allowed)?;
        observed.settled = Some(now());
        let found = brought.recv_timeout(FOUND).ok();
        if found.is_some() {
            observed.settled = Some(now());
        }
        drop(sender); // ends a receiver that still sleeps
        let came = match &found {
            Some(came) => came,
            None => &brought.recv()?,
        };
        match (came, found.is_some(), sent) {
            (Ok(7), true, _) => {}
            (Ok(7), false, _) => bail!("a message was found only when the last sender had gone"),
            (Ok(other), ..) => bail!("{other} comes"),
            (Err(error), _, None | Some(Err(_))) if error.is_disconnected() || allowed.is_refusal(error) => {}
            (Err(error), ..) => bail!("a message that was sent does not come: {error}"),
        }
        Ok(observed)
    })
}

/// Sends once the receiver sleeps.
fn wait_and_send(messages: Sender<u32>, receiver: Sleepers) -> multiproc::Result<()> {
    wait_until_asleep(&receiver);
    Ok(messages.send(7)?)
}

//! Queues and pipes of which the memory is overwritten.

use anyhow::{Result, bail};
use multiproc::{Connection, Error, Process, pipe, queue};
use tests::corrupter::Random;

use super::bounds::Bounds;
use super::{PATIENCE, Rest, TIME, end};

/// More messages than can be forged while memory is overwritten.
const MANY: u32 = 1_000_000;

pub(super) fn use_queue(random: &mut Random, _: &Bounds) -> Result<Rest> {
    let (sender, receiver) = queue::bounded([1, 8, 1_000][usize::try_from(random.below(3))?])?;
    use_both_ends(sender, receiver, random)
}

pub(super) fn use_unbounded(random: &mut Random, _: &Bounds) -> Result<Rest> {
    let (sender, receiver) = queue::unbounded()?;
    use_both_ends(sender, receiver, random)
}

/// A child at each end of a queue, and the parent at both.
fn use_both_ends(
    sender: queue::Sender<String>,
    receiver: queue::Receiver<String>,
    random: &mut Random,
) -> Result<Rest> {
    let produce = |sender: queue::Sender<String>, count: u64| {
        (0..count).all(|number| sender.send(number.to_string()).is_ok());
    };
    let consume = |receiver: queue::Receiver<String>, count: u64| {
        (0..count).all(|_| receiver.recv_timeout(TIME).is_ok());
    };
    let children = [
        Process::spawn(produce, (sender.clone(), random.below(3_000)))?,
        Process::spawn(consume, (receiver.clone(), random.below(3_000)))?,
    ];
    Ok(Box::new(move |random, bounds| {
        for number in 0..random.below(200) {
            let text = number.to_string();
            let long = "long".repeat(20_000);
            match random.below(5) {
                0 => drop(bounds.at_once("Sender::try_send", || sender.try_send(text))?),
                1 => drop(bounds.within(TIME, "Sender::send_timeout", || sender.send_timeout(long, TIME))?),
                2 => drop(bounds.at_once("Receiver::try_recv", || receiver.try_recv())?),
                3 => drop(bounds.within(TIME, "Receiver::recv_timeout", || receiver.recv_timeout(TIME))?),
                _ => drop(bounds.at_once("Sender::len", || sender.len())?),
            }
        }
        bounds.at_once("Sender::drop", || drop(sender))?;
        children.into_iter().try_for_each(|child| end(child, bounds))?;
        // Without a time limit, as all senders are gone.
        until_end(bounds, "Receiver::recv without senders", || receiver.recv().err())
    }))
}

/// A child that answers, and the parent that asks.
pub(super) fn use_pipe(random: &mut Random, _: &Bounds) -> Result<Rest> {
    let (ours, theirs) = pipe::<Vec<u64>, String>()?;
    let answer = |line: Connection<String, Vec<u64>>| {
        // Both ends wait for a lost question: this one gives up first.
        while line.poll(PATIENCE).is_ok_and(|has_come| has_come) {
            let Ok(question) = line.recv() else { break };
            if line.send(format!("{question:?}")).is_err() {
                break;
            }
        }
    };
    let child = Process::spawn(answer, (theirs,))?;
    let questions = random.below(300);
    Ok(Box::new(move |random, bounds| {
        for number in 0..questions {
            let question = vec![number; usize::try_from(random.below(40))?];
            let send = || ours.send_timeout(question, TIME);
            drop(bounds.within(TIME, "Connection::send_timeout", send)?);
            if bounds.within(TIME, "Connection::poll", || ours.poll(TIME))?.is_ok_and(|has_come| has_come) {
                // The message may be gone again.
                drop(bounds.within(TIME, "Connection::recv_timeout", || ours.recv_timeout(TIME))?);
            }
        }
        end(child, bounds)?;
        until_end(bounds, "Connection::recv without the other end", || ours.recv().err())
    }))
}

/// Receives without a time limit until the end, which many messages may precede that were never sent.
fn until_end(bounds: &Bounds, call: &'static str, receive: impl Fn() -> Option<Error>) -> Result<()> {
    if bounds.only_with_limits() {
        return Ok(());
    }
    for _ in 0..MANY {
        if bounds.at_once(call, &receive)?.is_some_and(|error| error.is_disconnected()) {
            return Ok(());
        }
    }
    bail!("{call}: the end does not come")
}

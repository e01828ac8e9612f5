//! Joinable queues, whose receivers keep, give back and acknowledge items.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use multiproc::failpoints::now;
use multiproc::queue::{JoinableReceiver, JoinableSender, Unfinished, joinable};
use multiproc::sync::Atomic;
use multiproc::{Error, ErrorKind, Process};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::{AllowedFailures, Observed};

const CONSUMERS: u32 = 2;
const ITEMS: u32 = 40;
/// Items that a receiver drops the first time.
const DROPPED_EACH: u32 = 8;
/// How long `join` may take: it waits for the consumers' work, too.
const BOUND: Duration = Duration::from_secs(60);

/// A number, and bytes.
type Item = (u32, ByteBuf);

/// What has become of each item, by its number.
#[derive(Clone, Serialize, Deserialize)]
struct Counts {
    /// Whether its sender knows that it is in the queue.
    sent: Atomic<[u32]>,
    /// How often a receiver has dealt with it; counted before it is acknowledged.
    done: Atomic<[u32]>,
}

/// Items of a killed receiver go to the other one.
pub(super) fn redelivered(allowed: AllowedFailures) -> Result<Observed> {
    let mut observed = Observed::default();
    let Some((counts, joined)) = run(Unfinished::Redeliver, &mut observed, allowed)? else {
        return Ok(observed);
    };
    match joined {
        Err(error) if !allowed.is_refusal(&error) => bail!("the queue is not joined: {error}"),
        Err(_) => {}
        Ok(()) => ensure!(counts.missing() == 0, "{} items are lost", counts.missing()),
    }
    let twice = counts.done.iter().filter(|count| count.load(SeqCst) > 1).count();
    ensure!(twice <= allowed.deaths as usize, "{twice} items come again, though no receiver was killed");
    Ok(observed)
}

/// Items of a killed receiver are reported, and no others are lost.
pub(super) fn reported(allowed: AllowedFailures) -> Result<Observed> {
    let mut observed = Observed::default();
    let Some((counts, joined)) = run(Unfinished::Report, &mut observed, allowed)? else {
        return Ok(observed);
    };
    let lost = match joined {
        Err(error) if error.kind() == ErrorKind::Unacknowledged => number_of_lost(&error),
        Err(error) if !allowed.is_refusal(&error) => bail!("the queue is not joined: {error}"),
        _ => 0,
    };
    ensure!(counts.done.iter().all(|count| count.load(SeqCst) <= 1), "an item comes twice");
    let (missing, deaths) = (counts.missing(), allowed.deaths as usize);
    ensure!(allowed.refusal || missing <= lost, "{missing} items are lost, {lost} reported");
    // A process that is killed while it counts a loss has it counted once more.
    let most = ITEMS.div_ceil(DROPPED_EACH) as usize + 2 * deaths;
    ensure!(lost <= most, "{lost} losses, and at most {most} were caused");
    Ok(observed)
}

/// The text begins with the number, if there are several.
fn number_of_lost(error: &Error) -> usize {
    error.to_string().split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(1)
}

/// A producer and two consumers. Returns the counts, and what `join` has returned.
fn run(
    unfinished: Unfinished,
    observed: &mut Observed,
    allowed: AllowedFailures,
) -> Result<Option<(Counts, Result<(), Error>)>> {
    let made = joinable(8, unfinished).and_then(|ends| Ok((ends, Counts::new()?)));
    let Some(((sender, receiver), counts)) = observed.tolerate(made, allowed)? else { return Ok(None) };
    let mut children = vec![Process::spawn(produce, (sender.clone(), counts.clone()))];
    for _ in 0..CONSUMERS {
        children.push(Process::spawn(consume, (receiver.clone(), counts.clone())));
    }
    drop(receiver);
    let mut children = children.into_iter();
    let mut join_next = || -> Result<()> {
        let child = children.next().map(|child| child.and_then(Process::join));
        match child.map(|ended| observed.tolerate(ended, allowed)).transpose()?.flatten() {
            Some(Err(error)) if !allowed.is_refusal(&error) => bail!("a child fails: {error}"),
            _ => Ok(()),
        }
    };
    join_next()?; // the producer
    let joined = sender.join_timeout(BOUND);
    drop(sender);
    (0..CONSUMERS).try_for_each(|_| join_next())?;
    observed.settled = Some(now());
    Ok(Some((counts, joined)))
}

fn produce(sender: JoinableSender<Item>, counts: Counts) -> Result<(), Error> {
    for number in 0..ITEMS {
        // Some are so large that their memory is given back.
        let length = if number.is_multiple_of(10) { 100_000 } else { 10 };
        sender.send((number, vec![7; length].into()))?;
        counts.sent[number as usize].store(1, SeqCst);
    }
    Ok(())
}

fn consume(receiver: JoinableReceiver<Item>, counts: Counts) -> Result<(), Error> {
    for delivery in receiver {
        let delivery = delivery?;
        if delivery.0 % DROPPED_EACH == 3 && delivery.attempt() == 1 {
            continue; // which drops it
        }
        counts.done[delivery.0 as usize].fetch_add(1, SeqCst);
        delivery.done();
    }
    Ok(())
}

impl Counts {
    fn new() -> Result<Self, Error> {
        let zeros = [0_u32; ITEMS as usize];
        Ok(Self { sent: Atomic::from_slice(&zeros)?, done: Atomic::from_slice(&zeros)? })
    }

    /// How many items were sent, and no receiver has dealt with them.
    fn missing(&self) -> usize {
        let both = self.sent.iter().zip(self.done.iter());
        both.filter(|(sent, done)| sent.load(SeqCst) == 1 && done.load(SeqCst) == 0).count()
    }
}

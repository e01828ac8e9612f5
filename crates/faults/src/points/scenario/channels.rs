//! Queues and pipes.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail, ensure};
use multiproc::faults::now;
use multiproc::queue::{self, Receiver, Sender};
use multiproc::{Connection, Process};

use super::{Allowed, Cost};
use crate::ledger::{self, Ledger, Path};

/// From whom, which, and some bytes.
type Item = (u32, u32, Vec<u8>);

const PRODUCERS: u32 = 2;
const CONSUMERS: u32 = 2;
const ITEMS: u32 = 120;
/// As many as go off, or are taken, at once.
const BATCH: usize = 8;

/// What is entered into the ledger: who did what with which item.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Deed {
    Sending = 1,
    Sent = 2,
    Received = 3,
}

fn note(deed: Deed, who: u32, (from, number): (u32, u32)) {
    ledger::enter((deed as u64) << 56 | u64::from(who) << 48 | u64::from(from) << 32 | u64::from(number));
}

/// Producers and consumers in processes of their own.
pub(super) fn queue(allowed: Allowed) -> Result<Cost> {
    let mut cost = Cost::default();
    let ledger = Ledger::create()?;
    let Some((sender, receiver)) = cost.charge(queue::bounded(32), allowed)? else { return Ok(cost) };
    let mut children = Vec::new();
    for own in 0..PRODUCERS {
        children.push(Process::spawn(produce, (sender.clone(), own, ledger.path())));
    }
    for own in 0..CONSUMERS {
        children.push(Process::spawn(consume, (receiver.clone(), own, ledger.path())));
    }
    drop((sender, receiver));
    let mut ended_well = Vec::new();
    for child in children {
        match cost.charge(child.and_then(Process::join), allowed)? {
            Some(Ok(())) => ended_well.push(true),
            None => ended_well.push(false),
            Some(Err(error)) if allowed.is_refusal(&error) => ended_well.push(false),
            Some(Err(error)) => bail!("a producer or consumer fails: {error}"),
        }
    }
    cost.settled = Some(now());
    let (producers, consumers) = ended_well.split_at(PRODUCERS as usize);
    check(&ledger, producers, consumers)?;
    Ok(cost)
}

fn produce(items: Sender<Item>, own: u32, path: Path) -> multiproc::Result<()> {
    ledger::open(path);
    let make = |number: u32| -> Item {
        let length = match number % 40 {
            13 => 50_000,
            26 => 5_000_000, // more than the ring
            _ => number as usize % 100,
        };
        (own, number, vec![number.to_le_bytes()[0]; length])
    };
    for batch in (0..ITEMS).collect::<Vec<_>>().chunks(BATCH) {
        if batch[0].is_multiple_of(16) {
            let note_all = |deed| batch.iter().for_each(|&number| note(deed, own, (own, number)));
            note_all(Deed::Sending);
            items.send_all(batch.iter().map(|&number| make(number)))?;
            note_all(Deed::Sent);
            continue;
        }
        for &number in batch {
            note(Deed::Sending, own, (own, number));
            items.send(make(number))?;
            note(Deed::Sent, own, (own, number));
        }
    }
    Ok(())
}

fn consume(items: Receiver<Item>, own: u32, path: Path) -> multiproc::Result<()> {
    ledger::open(path);
    let take = |(from, number, bytes): Item| {
        if bytes.iter().all(|&byte| byte == number.to_le_bytes()[0]) {
            note(Deed::Received, own, (from, number)); // a torn one is missed
        }
    };
    loop {
        match items.recv() {
            Ok(item) => take(item),
            Err(error) if error.is_disconnected() => return Ok(()),
            Err(error) => return Err(error),
        }
        match items.recv_many(BATCH) {
            Ok(batch) => batch.into_iter().try_for_each(|item| item.map(take))?,
            Err(error) if error.is_disconnected() => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// What was sent has come exactly once, in order; only what a consumer had just taken that then died is missing.
fn check(ledger: &Ledger, producers: &[bool], consumers: &[bool]) -> Result<()> {
    let mut deeds: BTreeMap<u64, BTreeSet<(u32, u32)>> = BTreeMap::new();
    let mut last: BTreeMap<(u32, u32), u32> = BTreeMap::new();
    #[allow(clippy::cast_possible_truncation)] // parts of the number
    for entry in ledger.entries()? {
        let (deed, who) = (entry >> 56, (entry >> 48 & 0xff) as u32);
        let (from, number) = ((entry >> 32 & 0xffff) as u32, entry as u32);
        let is_new = deeds.entry(deed).or_default().insert((from, number));
        ensure!(is_new, "deed {deed} is done twice with item {number} of producer {from}");
        if deed == Deed::Received as u64
            && let Some(before) = last.insert((who, from), number)
        {
            ensure!(before < number, "item {number} of producer {from} comes after {before}");
        }
    }
    let mut of = |deed: Deed| deeds.remove(&(deed as u64)).unwrap_or_default();
    let (sending, sent, received) = (of(Deed::Sending), of(Deed::Sent), of(Deed::Received));
    ensure!(received.is_subset(&sending), "something has come that nobody sent");
    let missing: Vec<_> = sent.difference(&received).collect();
    let may_miss = if consumers.contains(&false) { BATCH } else { 0 };
    // Where all consumers have gone, what is left is nobody's.
    let all_gone = !consumers.contains(&true);
    ensure!(all_gone || missing.len() <= may_miss, "{missing:?} are lost");
    for (own, _) in (0..).zip(producers).filter(|(_, well)| **well && !all_gone) {
        let count = sent.iter().filter(|(from, _)| *from == own).count();
        ensure!(count == ITEMS as usize, "producer {own} has sent {count} items");
    }
    Ok(())
}

/// Questions and answers, small and large, some with an end of a queue.
pub(super) fn pipe(allowed: Allowed) -> Result<Cost> {
    let mut cost = Cost::default();
    let Some((ours, theirs)) = cost.charge(multiproc::pipe::<Question, Vec<u8>>(), allowed)? else {
        return Ok(cost);
    };
    let child = Process::spawn(answer, (theirs,));
    let (mut answers, mut failed) = (0, None);
    for number in 0..30_u8 {
        match ask(&ours, number) {
            Ok(true) => answers += 1,
            Ok(false) => break,
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    drop(ours);
    let answered = cost.charge(child.and_then(Process::join), allowed)?;
    cost.settled = Some(now());
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
    Ok(cost)
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Question {
    bytes: Vec<u8>,
    reply_to: Option<Sender<Vec<u8>>>,
}

/// Whether the answer came; if not, the other end is gone.
fn ask(end: &Connection<Question, Vec<u8>>, number: u8) -> multiproc::Result<bool> {
    let bytes = match number % 10 {
        7 => vec![number; 3_000_000],
        _ => vec![number; 10],
    };
    let (reply_to, replies) = if number % 10 == 3 {
        queue::bounded(1).map(|(to, from)| (Some(to), Some(from)))?
    } else {
        (None, None)
    };
    match end.send(Question { bytes: bytes.clone(), reply_to }) {
        Err(error) if error.is_disconnected() => return Ok(false),
        sent => sent?,
    }
    let answer = match replies {
        Some(replies) => match replies.recv() {
            Err(error) if error.is_disconnected() => return Ok(false),
            answer => Some(answer?),
        },
        None => end.recv()?,
    };
    Ok(answer.is_some_and(|answer| answer == bytes))
}

fn answer(end: Connection<Vec<u8>, Question>) -> multiproc::Result<()> {
    while let Some(Question { bytes, reply_to }) = end.recv()? {
        match reply_to {
            Some(reply_to) => reply_to.send(bytes)?,
            None => end.send(bytes)?,
        }
    }
    Ok(())
}

//! Traffic through queues and pipes, and its invariants whichever process is killed.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use multiproc::Connection;
use multiproc::queue::{self, Receiver, Sender};
use serde_bytes::ByteBuf;

use crate::event_log::{self, EventLog, Path};

/// Sender, number, and some bytes.
pub(crate) type Item = (u32, u32, ByteBuf);

/// The number of items of each producer.
pub(crate) const ITEMS: u32 = 120;
/// The size of a batch.
const BATCH: usize = 8;

/// An entry of the event log: which process did what with which item.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Event {
    Sending = 1,
    Sent = 2,
    Received = 3,
}

fn note(event: Event, who: u32, (from, number): (u32, u32)) {
    event_log::append(
        (event as u64) << 56 | u64::from(who) << 48 | u64::from(from) << 32 | u64::from(number),
    );
}

pub(crate) fn produce(items: Sender<Item>, own: u32, path: Path) -> multiproc::Result<()> {
    event_log::open(path);
    let make = |number: u32| -> Item {
        let length = match number % 40 {
            13 => 50_000,
            26 => 5_000_000, // more than the ring
            _ => number as usize % 100,
        };
        (own, number, ByteBuf::from(vec![number.to_le_bytes()[0]; length]))
    };
    for batch in (0..ITEMS).collect::<Vec<_>>().chunks(BATCH) {
        if batch[0].is_multiple_of(16) {
            let note_all = |event| batch.iter().for_each(|&number| note(event, own, (own, number)));
            note_all(Event::Sending);
            items.send_all(batch.iter().map(|&number| make(number)))?;
            note_all(Event::Sent);
            continue;
        }
        for &number in batch {
            note(Event::Sending, own, (own, number));
            items.send(make(number))?;
            note(Event::Sent, own, (own, number));
        }
    }
    Ok(())
}

pub(crate) fn consume(items: Receiver<Item>, own: u32, path: Path) -> multiproc::Result<()> {
    event_log::open(path);
    let take = |(from, number, bytes): Item| {
        if bytes == vec![number.to_le_bytes()[0]; bytes.len()] {
            note(Event::Received, own, (from, number)); // a torn one is missed
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

/// Checks that each sent item has arrived exactly once, in order, but for the batch that a killed consumer
/// had just taken. `producers` and `consumers` say which of them ended well.
pub(crate) fn check(event_log: &EventLog, producers: &[bool], consumers: &[bool]) -> Result<()> {
    let mut events: BTreeMap<u64, BTreeSet<(u32, u32)>> = BTreeMap::new();
    let mut last: BTreeMap<(u32, u32), u32> = BTreeMap::new();
    #[allow(clippy::cast_possible_truncation)] // parts of the number
    for entry in event_log.entries()? {
        let (event, who) = (entry >> 56, (entry >> 48 & 0xff) as u32);
        let (from, number) = ((entry >> 32 & 0xffff) as u32, entry as u32);
        let is_new = events.entry(event).or_default().insert((from, number));
        ensure!(is_new, "event {event} is done twice with item {number} of producer {from}");
        if event == Event::Received as u64
            && let Some(before) = last.insert((who, from), number)
        {
            ensure!(before < number, "item {number} of producer {from} comes after {before}");
        }
    }
    let mut of = |event: Event| events.remove(&(event as u64)).unwrap_or_default();
    let (sending, sent, received) = (of(Event::Sending), of(Event::Sent), of(Event::Received));
    ensure!(received.is_subset(&sending), "an item has come that was not sent");
    let missing: Vec<_> = sent.difference(&received).collect();
    let may_miss = BATCH * consumers.iter().filter(|well| !**well).count();
    // If all consumers are gone, the items that are left are lost.
    let all_gone = !consumers.contains(&true);
    ensure!(all_gone || missing.len() <= may_miss, "{missing:?} are lost");
    for (own, _) in (0..).zip(producers).filter(|(_, well)| **well && !all_gone) {
        let count = sent.iter().filter(|(from, _)| *from == own).count();
        ensure!(count == ITEMS as usize, "producer {own} has sent {count} items");
    }
    Ok(())
}

#[derive(serde::Serialize, serde::Deserialize)]
pub(crate) struct Question {
    bytes: ByteBuf,
    reply_to: Option<Sender<Vec<u8>>>,
}

/// Whether the answer is right; `None` if the other end is gone.
pub(crate) fn ask(end: &Connection<Question, Vec<u8>>, number: u8) -> multiproc::Result<Option<bool>> {
    let bytes = match number % 10 {
        7 => vec![number; 3_000_000],
        _ => vec![number; 10],
    };
    let (reply_to, replies) = if number % 10 == 3 {
        queue::bounded(1).map(|(to, from)| (Some(to), Some(from)))?
    } else {
        (None, None)
    };
    match end.send(Question { bytes: bytes.clone().into(), reply_to }) {
        Err(refused) if refused.error().is_disconnected() => return Ok(None),
        sent => sent?,
    }
    match replies.map_or_else(|| end.recv(), |replies| replies.recv()) {
        Err(error) if error.is_disconnected() => Ok(None),
        answer => Ok(Some(answer? == bytes)),
    }
}

pub(crate) fn answer(end: Connection<Vec<u8>, Question>) -> multiproc::Result<()> {
    for question in end.iter() {
        let Question { bytes, reply_to } = question?;
        match reply_to {
            Some(reply_to) => reply_to.send(bytes.into_vec())?,
            None => end.send(bytes.into_vec())?,
        }
    }
    Ok(())
}

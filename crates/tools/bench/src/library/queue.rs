//! W4: a queue from one process to another, and from two to two.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use bench::measure::{Scale, now};
use bench::program::Measured;
use bench::stream::{StreamResult, consume, flow, mixed, produce, stamp, stamped, unmixed};
use bench::work::{self, MIB, check};
use multiproc::Process;
use multiproc::queue::{Receiver, Sender, bounded};
use serde::{Deserialize, Serialize};

/// How many small messages a queue has room for, and how many of 1 MiB.
const CAPACITY: u32 = 1024;
const CAPACITY_1MIB: u32 = 16;

pub(super) fn words(scale: Scale) -> Result<Measured> {
    let (sender, receiver) = bounded::<u64>(CAPACITY)?;
    let produce = |sender: Sender<u64>, quick| {
        said(produce(Scale { quick }, 8, |number| Ok(sender.send(mixed(number))?)))
    };
    let producer = Process::spawn(produce, (sender, scale.quick))?;
    let flow = consume(|| Ok(unmixed(receiver.recv()?)))?;
    producer.join()?.map_err(anyhow::Error::msg)?;
    Ok(flow.millions())
}

/// The consumer's calls are batches, too: as many as there are at the moment.
#[allow(clippy::cast_possible_truncation)] // a batch is of some thousand items
pub(super) fn words_in_batches(scale: Scale) -> Result<Measured> {
    use bench::stream::BATCH;

    let (sender, receiver) = bounded::<u64>(CAPACITY.max(4 * BATCH as u32))?;
    let produce = |sender: Sender<u64>, quick| {
        let mut batch = Vec::with_capacity(BATCH as usize);
        let sent = produce(Scale { quick }, 8, |number| {
            batch.push(mixed(number));
            if batch.len() == BATCH as usize || number == u64::MAX {
                sender.send_all(batch.drain(..))?;
            }
            Ok(())
        });
        said(sent.and_then(|()| Ok(sender.send_all(batch)?)))
    };
    let producer = Process::spawn(produce, (sender, scale.quick))?;
    let mut batch = Vec::new().into_iter();
    let flow = consume(|| {
        loop {
            match batch.next() {
                Some(message) => return Ok(unmixed(message?)),
                None => batch = receiver.recv_many(BATCH as usize)?.into_iter(),
            }
        }
    })?;
    producer.join()?.map_err(anyhow::Error::msg)?;
    Ok(flow.millions())
}

/// The items that a producer has sent, or a consumer has received.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
struct Tally {
    count: u64,
    sum: u64,
    first: Duration,
    last: Duration,
}

pub(super) fn words_two_by_two(scale: Scale) -> Result<Measured> {
    let (sender, receiver) = bounded::<u64>(CAPACITY)?;
    let consumers = [Process::spawn(take_all, (receiver.clone(),))?, Process::spawn(take_all, (receiver,))?];
    let producers = [
        Process::spawn(put_many, (sender.clone(), scale.quick))?,
        Process::spawn(put_many, (sender, scale.quick))?,
    ];
    let put = total(producers)?;
    let taken = total(consumers)?;
    check("number of messages", put.count, taken.count)?;
    check("sum of all messages", put.sum, taken.sum)?;
    let flow = StreamResult {
        messages: usize::try_from(taken.count)?,
        time: taken.last.saturating_sub(taken.first),
    };
    Ok(flow.millions())
}

fn put_many(sender: Sender<u64>, quick: bool) -> Result<Tally, String> {
    let mut tally = Tally { first: said(now())?, ..Tally::default() };
    tally.count = said(flow(Scale { quick }, 8, |number| {
        tally.sum = tally.sum.wrapping_add(mixed(number));
        Ok(sender.send(mixed(number))?)
    }))?;
    tally.last = said(now())?;
    Ok(tally)
}

fn take_all(receiver: Receiver<u64>) -> Result<Tally, String> {
    let mut tally = Tally::default();
    for message in receiver {
        if tally.count == 0 {
            tally.first = said(now())?;
        }
        tally.count += 1;
        tally.sum = tally.sum.wrapping_add(said(message)?);
    }
    tally.last = said(now())?;
    Ok(tally)
}

fn total(processes: [Process<Result<Tally, String>>; 2]) -> Result<Tally> {
    let mut total = Tally { first: Duration::MAX, ..Tally::default() };
    for process in processes {
        let tally = process.join()?.map_err(anyhow::Error::msg)?;
        total.count += tally.count;
        total.sum = total.sum.wrapping_add(tally.sum);
        // One that got nothing has no time either.
        if tally.count > 0 {
            total.first = total.first.min(tally.first);
            total.last = total.last.max(tally.last);
        }
    }
    Ok(total)
}

/// Each message is a vector of its own, made for it.
pub(super) fn bytes(scale: Scale, length: usize) -> Result<StreamResult> {
    let capacity = if length < MIB { CAPACITY } else { CAPACITY_1MIB };
    let (sender, receiver) = bounded::<Vec<u8>>(capacity)?;
    let produce = |sender: Sender<Vec<u8>>, quick, length| {
        let template = work::bytes(length);
        said(produce(Scale { quick }, length, |number| {
            let mut message = template.clone();
            stamp(&mut message, number);
            Ok(sender.send(message)?)
        }))
    };
    let producer = Process::spawn(produce, (sender, scale.quick, length))?;
    let flow = consume(|| stamped(&receiver.recv()?, length))?;
    producer.join()?.map_err(anyhow::Error::msg)?;
    Ok(flow)
}

pub(super) fn mebibytes(scale: Scale) -> Result<Measured> {
    Ok(bytes(scale, MIB)?.gigabytes(MIB))
}

/// The producer sends bytes that it has already, and keeps them.
pub(super) fn mebibytes_lent(scale: Scale) -> Result<Measured> {
    let (sender, receiver) = bounded::<(u64, SharedBytes)>(CAPACITY_1MIB)?;
    let produce = |sender: Sender<(u64, SharedBytes)>, quick| {
        let bytes = SharedBytes(Arc::new(work::bytes(MIB)));
        said(produce(Scale { quick }, MIB, |number| Ok(sender.send((number, bytes.clone()))?)))
    };
    let producer = Process::spawn(produce, (sender, scale.quick))?;
    let flow = consume(|| {
        let (number, SharedBytes(bytes)) = receiver.recv()?;
        check("length of a message", MIB as u64, bytes.len() as u64)?;
        check("last byte of a message", ((MIB - 1) % 251) as u64, bytes[MIB - 1].into())?;
        Ok(number)
    })?;
    producer.join()?.map_err(anyhow::Error::msg)?;
    Ok(flow.gigabytes(MIB))
}

/// Bytes that several messages share on the sending side.
#[derive(Clone)]
struct SharedBytes(Arc<Vec<u8>>);

impl Serialize for SharedBytes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for SharedBytes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(Arc::new(serde_bytes::deserialize(deserializer)?)))
    }
}

/// In a child: an error in words, since only words travel.
fn said<T, E: Into<anyhow::Error>>(result: Result<T, E>) -> Result<T, String> {
    result.map_err(|error| format!("{:#}", error.into()))
}

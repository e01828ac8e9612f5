//! Soak operations on queues, pipes and shared slices, within and between processes.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use multiproc::queue::{Receiver, Sender, bounded};
use multiproc::{Connection, Error, Process, SharedSlice, pipe};
use rand::RngExt;
use rand::rngs::StdRng;
use rustix::process::Signal;

use super::job::{Expected, Item, Job, item, perform};
use super::pools;
use super::state::{SoakState, within_limit};
use crate::workload;

/// A queue, and what is in it.
pub(super) struct QueueModel {
    sender: Sender<Item>,
    receiver: Receiver<Item>,
    capacity: usize,
    /// Sender and number of each item.
    inside: VecDeque<(u64, u64)>,
    /// The last sender, and how many items it has sent.
    last: (u64, u64),
}

/// The maximum number.
const MOST: usize = 3;

pub(super) fn put(state: &mut SoakState, rng: &mut StdRng) -> Result<()> {
    let (count, way) = (rng.random_range(1..20), rng.random_range(0..3));
    let queue_model = any(state, rng)?;
    let count = count.min(queue_model.room());
    let items: Vec<_> = (0..count).map(|_| queue_model.next()).collect();
    match way {
        0 => queue_model.sender.send_all(items)?,
        1 => items.into_iter().try_for_each(|item| queue_model.sender.try_send(item))?,
        _ => items
            .into_iter()
            .try_for_each(|item| queue_model.sender.send_timeout(item, Duration::from_secs(5)))?,
    }
    let inside = queue_model.inside.len();
    ensure!(
        queue_model.sender.len() == inside,
        "{} items are said to be inside, and {inside} are",
        queue_model.sender.len()
    );
    Ok(())
}

pub(super) fn take(state: &mut SoakState, rng: &mut StdRng) -> Result<()> {
    let (count, together) = (rng.random_range(1..20), rng.random_bool(0.5));
    let queue_model = any(state, rng)?;
    if together && !queue_model.inside.is_empty() {
        let items = queue_model.receiver.recv_many(count)?;
        ensure!((1..=count).contains(&items.len()), "{} items come at once", items.len());
        return items.into_iter().try_for_each(|item| queue_model.expect(item?));
    }
    (0..count.min(queue_model.inside.len())).try_for_each(|_| {
        let item = queue_model.receiver.recv()?;
        queue_model.expect(item)
    })
}

pub(super) fn time_out(state: &mut SoakState, rng: &mut StdRng) -> Result<()> {
    let limit = Duration::from_micros(rng.random_range(0..10_000));
    let queue_model = any(state, rng)?;
    if queue_model.inside.is_empty() {
        let taken = within_limit(limit, || queue_model.receiver.recv_timeout(limit), Result::is_err)?;
        ensure!(taken.as_ref().is_err_and(Error::is_timeout), "an empty queue gives {taken:?}");
        let taken = queue_model.receiver.try_recv();
        ensure!(taken.as_ref().is_err_and(Error::is_empty), "an empty queue gives {taken:?}");
    }
    if queue_model.room() == 0 {
        let extra = item(1, 1);
        let put =
            within_limit(limit, || queue_model.sender.send_timeout(extra.clone(), limit), Result::is_err)?;
        ensure!(put.is_err_and(|refused| refused.error().is_timeout()), "a full queue takes more");
        let put = queue_model.sender.try_send(extra);
        ensure!(put.is_err_and(|refused| refused.error().is_full()), "a full queue takes more");
    }
    Ok(())
}

pub(super) fn others_put(state: &mut SoakState, rng: &mut StdRng) -> Result<()> {
    let counts = [rng.random_range(0..100), rng.random_range(0..100)];
    let workers = rng.random_bool(0.5);
    let own = new_sender_id(rng);
    if workers {
        pools::any(state, rng)?;
    }
    let queue_model = any(state, rng)?;
    let job = |index: usize| Job::Send(queue_model.sender.clone(), own + index as u64, counts[index]);
    let jobs = [job(0), job(1)];
    let total = queue_model.inside.len() + usize::try_from(counts.iter().sum::<u64>())?;
    let receiver = queue_model.receiver.clone();
    let come = move || -> Result<Vec<Item>> { (0..total).map(|_| Ok(receiver.recv()?)).collect() };
    let (items, expectations) = if workers {
        let mut inside = Vec::new();
        let mut ends = Vec::new();
        let Some(pool_model) = state.pools.first_mut() else { return Ok(()) };
        // A worker that was just killed may take one of the items with it: then the count is unknown.
        if pool_model.ledger.has_killed() {
            return Ok(());
        }
        let handles: Vec<_> = jobs.into_iter().map(|job| pool_model.pool.submit(perform, (job,))).collect();
        inside.extend(come()?);
        for handle in handles {
            ends.push(handle?.get());
        }
        (inside, ends)
    } else {
        let children = jobs.map(|job| Process::spawn(perform, (job,)));
        let items = come()?;
        (items, children.into_iter().map(|child| child.and_then(Process::join)).collect())
    };
    for (expected, count) in expectations.iter().zip(counts) {
        Expected::Value(count).check(expected)?;
    }
    let Some(queue_model) = state.queues.last_mut() else { return Ok(()) };
    expect_mixed(queue_model, items, own, counts)
}

/// Checks the items of two other senders, and those that were in the queue before.
fn expect_mixed(queue_model: &mut QueueModel, items: Vec<Item>, first: u64, counts: [u64; 2]) -> Result<()> {
    let mut next = [0; 2];
    for item in items {
        match item.0.wrapping_sub(first) {
            index @ 0..2 => expect_from(&item, &mut next[usize::try_from(index)?])?,
            _ => queue_model.expect(item)?,
        }
    }
    ensure!(next == counts, "{next:?} of {counts:?} come");
    Ok(())
}

pub(super) fn others_take(state: &mut SoakState, rng: &mut StdRng) -> Result<()> {
    let max = rng.random_range(0..30);
    let queue_model = any(state, rng)?;
    let count = max.min(queue_model.inside.len());
    let child = Process::spawn(perform, (Job::Take(queue_model.receiver.clone(), count as u64),))?;
    let sum = queue_model.inside.drain(..count).map(|(_, number)| number).sum();
    Expected::Value(sum).check(&child.join())
}

pub(super) fn killed_producer(state: &mut SoakState, rng: &mut StdRng) -> Result<()> {
    let (own, nap) = (new_sender_id(rng), Duration::from_micros(rng.random_range(0..5000)));
    let queue_model = any(state, rng)?;
    let child = Process::spawn(perform, (Job::Send(queue_model.sender.clone(), own, 1_000_000),))?;
    let mut next = 0;
    std::thread::sleep(nap);
    child.kill()?;
    let end = child.join();
    ensure!(
        end.as_ref().is_err_and(|error| error.signal() == Some(Signal::KILL.as_raw())),
        "it ends by {end:?}"
    );
    while let Some(item) = take_now(&queue_model.receiver)? {
        if item.0 == own { expect_from(&item, &mut next)? } else { queue_model.expect(item)? }
    }
    ensure!(queue_model.inside.is_empty(), "{:?} are lost", queue_model.inside);
    Ok(())
}

pub(super) fn killed_consumer(state: &mut SoakState, rng: &mut StdRng) -> Result<()> {
    let nap = Duration::from_micros(rng.random_range(0..3000));
    let queue_model = any(state, rng)?;
    let items: Vec<_> = (0..queue_model.room().min(100)).map(|_| queue_model.next()).collect();
    queue_model.sender.send_all(items)?;
    let child = Process::spawn(perform, (Job::Take(queue_model.receiver.clone(), u64::MAX),))?;
    std::thread::sleep(nap);
    child.kill()?;
    ensure!(child.join().is_err(), "it takes more than there is");
    // It has taken a prefix of the items.
    let rest: Vec<Item> = std::iter::from_fn(|| take_now(&queue_model.receiver).transpose())
        .collect::<multiproc::Result<_>>()?;
    let taken = queue_model.inside.len().checked_sub(rest.len()).context("more come than there were")?;
    queue_model.inside.drain(..taken);
    rest.into_iter().try_for_each(|item| queue_model.expect(item))
}

/// From a child through a queue to a worker.
pub(super) fn relay(state: &mut SoakState, rng: &mut StdRng) -> Result<()> {
    let (capacity, count) = (rng.random_range(1..100), rng.random_range(0..200));
    let pool_model = pools::any(state, rng)?;
    let (sender, receiver) = bounded(capacity)?;
    let child = Process::spawn(perform, (Job::Send(sender, 0, count),))?;
    let task = pool_model.pool.submit(perform, (Job::Take(receiver, count),))?.get();
    let sent = child.join();
    match task {
        // The receiver is dead, and the child may have seen that.
        Err(error) if pool_model.ledger.accounts_for(&error) => Expected::Or(count).check(&sent),
        taken => {
            Expected::Value((0..count).sum()).check(&taken)?;
            Expected::Value(count).check(&sent)
        }
    }
}

pub(super) fn hang_up(state: &mut SoakState, rng: &mut StdRng) -> Result<()> {
    any(state, rng)?;
    state.queues.pop().map_or(Ok(()), QueueModel::hang_up)
}

pub(super) fn talk(_: &mut SoakState, rng: &mut StdRng) -> Result<()> {
    let limit = Duration::from_micros(rng.random_range(0..5000));
    let (questions, killed_at) = (rng.random_range(1..20), rng.random_range(0..40));
    let (ours, theirs) = pipe()?;
    let child = Process::spawn(workload::answer, (theirs,))?;
    let is_ready = within_limit(limit, || ours.poll(limit), |ready| matches!(ready, Ok(false)))??;
    ensure!(!is_ready, "an answer comes before the question");
    for number in 0..questions {
        if number == killed_at {
            child.kill()?;
        }
        match workload::ask(&ours, number)? {
            Some(is_right) => ensure!(is_right, "a wrong answer comes to question {number}"),
            None => ensure!(number >= killed_at, "the other end is gone at question {number}"),
        }
    }
    drop(ours);
    match child.join() {
        Err(error) => ensure!(killed_at < questions && error.signal() == Some(9), "{error}"),
        Ok(ended) => {
            ensure!(killed_at >= questions, "it was killed, and ends well");
            ended?;
        }
    }
    Ok(())
}

pub(super) fn shared_slice(_: &mut SoakState, rng: &mut StdRng) -> Result<()> {
    let length = rng.random_range(0..20_000);
    let (ours, theirs) = pipe::<(), SharedSlice<u64>>()?;
    let maker = Process::spawn(make_shared_slice, (theirs, length))?;
    let numbers = ours.recv().context("nothing comes")?;
    maker.join()??;
    ensure!(numbers.iter().copied().eq(0..length), "other numbers come");
    let readers = [(); 2].map(|()| Process::spawn(perform, (Job::Sum(numbers.clone()),)));
    drop(numbers);
    readers
        .into_iter()
        .try_for_each(|reader| Expected::Value((0..length).sum()).check(&reader.and_then(Process::join)))
}

fn make_shared_slice(end: Connection<SharedSlice<u64>, ()>, length: u64) -> multiproc::Result<()> {
    let numbers: Vec<u64> = (0..length).collect();
    Ok(end.send(SharedSlice::from_slice(&numbers)?)?)
}

/// The next item, unless the queue is empty.
fn take_now(receiver: &Receiver<Item>) -> multiproc::Result<Option<Item>> {
    match receiver.try_recv() {
        Err(error) if error.is_empty() => Ok(None),
        taken => taken.map(Some),
    }
}

/// An item of another sender must be its next one.
fn expect_from(came: &Item, next: &mut u64) -> Result<()> {
    ensure!(*came == item(came.0, *next), "item {} of {} comes, not {next}", came.1, came.0);
    *next += 1;
    Ok(())
}

/// A new sender id, different from this thread's and from earlier ones.
fn new_sender_id(rng: &mut StdRng) -> u64 {
    u64::from(rng.random::<u32>()) + 1
}

/// An existing queue or a new one, moved to the end of the list.
fn any<'a>(state: &'a mut SoakState, rng: &mut StdRng) -> Result<&'a mut QueueModel> {
    let index = rng.random_range(0..MOST);
    let capacity = [1, 5, 300][rng.random_range(0..3)];
    if index < state.queues.len() {
        let queue_model = state.queues.remove(index);
        state.queues.push(queue_model);
    } else {
        state.queues.push(QueueModel::new(capacity)?);
    }
    state.queues.last_mut().context("there is none")
}

impl QueueModel {
    fn new(capacity: u32) -> Result<Self> {
        let (sender, receiver) = bounded(capacity)?;
        Ok(Self { sender, receiver, capacity: capacity as usize, inside: VecDeque::new(), last: (0, 0) })
    }

    fn room(&self) -> usize {
        self.capacity - self.inside.len()
    }

    /// The next item that this thread sends; it counts as inside.
    fn next(&mut self) -> Item {
        let (own, number) = self.last;
        self.last.1 += 1;
        self.inside.push_back((own, number));
        item(own, number)
    }

    /// Checks that a received item is the next one.
    fn expect(&mut self, came: Item) -> Result<()> {
        let Some((own, number)) = self.inside.pop_front() else {
            bail!("item {} of {} comes", came.1, came.0)
        };
        ensure!(came == item(own, number), "item {} of {} comes, not {number} of {own}", came.1, came.0);
        Ok(())
    }

    /// Drops the sender: the items inside still arrive, and then the end.
    pub(super) fn hang_up(mut self) -> Result<()> {
        let receiver = self.receiver.clone();
        let (sender, _) = bounded(1)?;
        drop(std::mem::replace(&mut self.sender, sender));
        receiver.into_iter().try_for_each(|item| self.expect(item?))?;
        ensure!(self.inside.is_empty(), "{:?} are lost", self.inside);
        Ok(())
    }
}

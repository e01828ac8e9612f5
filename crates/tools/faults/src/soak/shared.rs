//! Soak operations on what processes share: locks, arrays, servers, joinable and unbounded queues.
//!
//! Each has its own objects, and children of which it may kill one.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use multiproc::queue::{Sender, Unfinished, unbounded};
use multiproc::server::Limit;
use multiproc::sync::{Barrier, Event, LockError, Mutex, Semaphore};
use multiproc::{ArrayChunk, Error, ErrorKind, Fd, Process, Server, SharedArray, wait_any};
use rand::RngExt;
use rand::rngs::StdRng;

use super::job::{Expected, Item, Job, item, perform};
use super::state::SoakState;
use crate::locks::{Locks, PARTIES, ROUNDS};
use crate::mix::Acknowledged;

/// Longer than anything takes that is not lost.
const LONG: Duration = Duration::from_secs(20);

/// A child that has a result, or that is killed.
type Party = Process<Result<(), Error>>;

/// Starts parties, kills one of them or none, and waits for all.
fn run(
    rng: &mut StdRng,
    is_disturbed: bool,
    mut start: impl FnMut(u32) -> Result<Party, Error>,
) -> Result<()> {
    let (victim, nap) = (rng.random_range(0..PARTIES), Duration::from_micros(rng.random_range(0..20_000)));
    let parties: Vec<_> = (0..PARTIES).map(&mut start).collect::<Result<_, _>>()?;
    if is_disturbed {
        thread::sleep(nap);
        parties[victim as usize].kill()?;
    }
    for (number, party) in (0..).zip(parties) {
        match party.join() {
            Err(error) if is_disturbed && number == victim => {
                ensure!(error.signal() == Some(9), "the killed party fails: {error}");
            }
            ended => ended.and_then(|ended| ended).context("a party fails")?,
        }
    }
    Ok(())
}

pub(super) fn locks(_: &mut SoakState, rng: &mut StdRng) -> Result<()> {
    let is_disturbed = rng.random_bool(0.3);
    let locks = Locks::new(is_disturbed)?;
    run(rng, is_disturbed, |_| Process::spawn(Locks::work, (locks.clone(),)))?;
    Ok(locks.use_all()?)
}

/// A child that holds a mutex and permits most of the time.
pub(super) fn killed_holder(_: &mut SoakState, rng: &mut StdRng) -> Result<()> {
    let nap = Duration::from_micros(rng.random_range(0..5_000));
    let (mutex, semaphore) = (Mutex::new(0_u64)?, Semaphore::new(3)?);
    let hold = |mutex: Mutex<u64>, semaphore: Semaphore| -> Result<(), Error> {
        loop {
            let _permits = semaphore.acquire_many(2)?;
            *mutex.lock()? += 1;
        }
    };
    let child = Process::spawn(hold, (mutex.clone(), semaphore.clone()))?;
    thread::sleep(nap);
    child.kill()?;
    ensure!(child.join().is_err(), "it ends although it holds for ever");
    *mutex.lock_timeout(LONG).or_else(LockError::into_guard)? += 1;
    mutex.clear_poison();
    *mutex.lock_timeout(LONG).map_err(Error::from)? += 1;
    let permits: Vec<_> = (0..3).map(|_| semaphore.acquire_timeout(LONG)).collect::<Result<_, _>>()?;
    ensure!(permits.len() == 3 && semaphore.available() == 0, "there are other permits");
    Ok(())
}

/// All wait for an event, and then for each other.
pub(super) fn meet(_: &mut SoakState, _: &mut StdRng) -> Result<()> {
    let (event, barrier) = (Event::new()?, Barrier::new(PARTIES)?);
    let wait = |event: Event, barrier: Barrier| (event.wait_timeout(LONG), barrier.wait_timeout(LONG));
    let children: Vec<_> = (0..PARTIES)
        .map(|_| Process::spawn(wait, (event.clone(), barrier.clone())))
        .collect::<Result<_, _>>()?;
    event.set();
    let mut leaders = 0;
    for child in children {
        let (was_set, passed) = child.join()?;
        ensure!(was_set, "a process is not told of an event");
        leaders += u32::from(passed?);
    }
    ensure!(leaders == 1, "a barrier has {leaders} leaders");
    Ok(())
}

pub(super) fn array(_: &mut SoakState, rng: &mut StdRng) -> Result<()> {
    let (is_disturbed, size) = (rng.random_bool(0.3), rng.random_range(1..5_000));
    let mut array = SharedArray::<u64>::zeroed(size * PARTIES as usize)?;
    let mut chunks = array.chunks_mut(size)?;
    let fill = |mut chunk: ArrayChunk<u64>| chunk.take().map(|elements| elements.fill(1));
    run(rng, is_disturbed, |_| match chunks.next() {
        Some(chunk) => Process::spawn(fill, (chunk,)),
        None => Process::spawn(|| Ok(()), ()),
    })?;
    drop(chunks);
    ensure!(array.join_timeout(LONG)?, "a chunk is not back");
    let elements = array.into_shared()?;
    let missing = elements.iter().filter(|&&element| element != 1).count();
    ensure!(missing <= if is_disturbed { size } else { 0 }, "{missing} elements are not filled");
    Ok(())
}

/// A server that may be killed while others call it.
pub(super) fn server(_: &mut SoakState, rng: &mut StdRng) -> Result<()> {
    const CALLS: u64 = 50;
    let (is_killed, nap) = (rng.random_bool(0.3), Duration::from_micros(rng.random_range(0..3_000)));
    let server = Server::builder().restart(Limit::new(10, LONG)).spawn(|| 0_u64, ())?;
    let call = |server: Server<u64>| -> Result<u64, Error> {
        let mut replies = 0;
        for _ in 0..CALLS {
            match server.call(|total: &mut u64| *total += 1, ()) {
                Err(error) if error.kind() == ErrorKind::Died => {}
                reply => replies += reply.map(|()| 1)?,
            }
        }
        Ok(replies)
    };
    let callers: Vec<_> =
        (0..2).map(|_| Process::spawn(call, (server.clone(),))).collect::<Result<_, _>>()?;
    if is_killed && let Some(target) = crate::target::TargetProcess::open(server.pid()) {
        thread::sleep(nap);
        target.signal(rustix::process::Signal::KILL);
    }
    let mut replies = 0;
    for caller in callers {
        replies += caller.join()??;
    }
    let most = 2 * CALLS;
    // A restarted server has forgotten what it was told; a death fails a call of each caller at most.
    ensure!(replies <= most && replies >= most - if is_killed { 2 } else { 0 }, "{replies} replies");
    match server.call(|total: &mut u64| *total, ()) {
        Err(error) if is_killed && error.kind() == ErrorKind::Died => {}
        total => {
            let total = total?;
            ensure!(total == replies || (is_killed && total <= most), "{total} calls, {replies} replies");
        }
    }
    Ok(())
}

pub(super) fn joinable(_: &mut SoakState, rng: &mut StdRng) -> Result<()> {
    let is_disturbed = rng.random_bool(0.5);
    let unfinished = if rng.random_bool(0.5) { Unfinished::Redeliver } else { Unfinished::Report };
    let queue = Acknowledged::new(unfinished)?;
    let exchange = |queue: Acknowledged, party: u32| {
        (0..ROUNDS).try_for_each(|round| queue.exchange(party * ROUNDS + round))
    };
    run(rng, is_disturbed, |party| Process::spawn(exchange, (queue.clone(), party)))?;
    queue.receive_rest()?;
    queue.check(is_disturbed.into())
}

/// Much is sent before a child receives some of it.
pub(super) fn surplus(_: &mut SoakState, rng: &mut StdRng) -> Result<()> {
    let count = rng.random_range(0..400);
    let taken = rng.random_range(0..=count);
    let (sender, receiver) = unbounded::<Item>()?;
    (0..count).try_for_each(|number| sender.send(item(0, number)))?;
    ensure!(sender.len() as u64 == count, "{} of {count} items are inside", sender.len());
    let child = Process::spawn(perform, (Job::Take(receiver.clone(), taken),))?;
    Expected::Value((0..taken).sum()).check(&child.join())?;
    for number in taken..count {
        ensure!(receiver.recv()? == item(0, number), "another item comes than {number}");
    }
    ensure!(receiver.is_empty(), "{} more items come", receiver.len());
    Ok(())
}

/// Children end, and the items of one of them come, in whatever order.
pub(super) fn wait_for_any(_: &mut SoakState, rng: &mut StdRng) -> Result<()> {
    let count = rng.random_range(0..50);
    let mut children = Vec::new();
    for value in 0..3 {
        let job = Job::Value(rng.random_range(0..5_000), value);
        children.push((Process::spawn(perform, (job,))?, value));
    }
    let (sender, receiver) = unbounded::<Item>()?;
    let other: Sender<Item> = sender;
    children.push((Process::spawn(perform, (Job::Send(other, 0, count),))?, count));
    let mut received = 0;
    while !children.is_empty() || received < count {
        let mut these: Vec<&dyn multiproc::Waitable> = vec![];
        these.extend(children.iter().map(|(child, _)| child as &dyn multiproc::Waitable));
        if received < count {
            these.push(&receiver);
        }
        let ready = wait_any(&these)?;
        let first = *ready.first().context("a wait ends, and nothing is ready")?;
        if first < children.len() {
            let (child, value) = children.swap_remove(first);
            Expected::Value(value).check(&child.join())?;
        } else {
            ensure!(receiver.try_recv()? == item(0, received), "another item comes than {received}");
            received += 1;
        }
    }
    Ok(())
}

/// A socket that a child writes to, and closes.
pub(super) fn descriptor(_: &mut SoakState, rng: &mut StdRng) -> Result<()> {
    let length = rng.random_range(0..100_000);
    let (mut ours, theirs) = UnixStream::pair()?;
    let write = |mut socket: Fd<UnixStream>, length: usize| socket.write_all(&vec![7; length]).is_ok();
    let child = Process::spawn(write, (Fd::from(theirs), length))?;
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut ours, &mut bytes)?;
    ensure!(bytes == vec![7; length], "{} of {length} bytes come", bytes.len());
    ensure!(child.join()?, "a child cannot write");
    Ok(())
}

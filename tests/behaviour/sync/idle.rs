//! A process that waits takes almost no CPU time, whatever it waits for.

use std::thread;
use std::time::Duration;

use multiproc::queue::{Delivery, JoinableReceiver, JoinableSender, Unfinished, joinable};
use multiproc::sync::{Barrier, Condvar, Event, Mutex, Once, RwLock, Semaphore};
use multiproc::{Process, RemoteFn, Result, Server, SharedArray, pipe};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Stage, reached, started};
use crate::support::{Outcome, trials};

trials![a_process_that_waits_takes_almost_no_cpu_time];

type JoinableEnds = (JoinableSender<u32>, JoinableReceiver<u32>);

/// A name, and a child that waits and returns the CPU time of that.
type Waiting = (&'static str, Process<Result<Duration>>);

/// What a child does, with its handle, and a message before it begins.
fn waiting<H>(
    name: &'static str,
    handle: &H,
    wait: impl RemoteFn<(H, Stage), Output = Result<Duration>>,
) -> Result<Waiting>
where
    H: Clone + Serialize + DeserializeOwned,
{
    Ok((name, started(wait, handle)?.0))
}

fn cpu_time_of<R>(stage: &Stage, wait: impl FnOnce() -> R) -> Result<Duration> {
    let begun = tests::cpu_time();
    stage.send(())?;
    wait();
    Ok(tests::cpu_time().saturating_sub(begun))
}

/// A method that runs until the other end is dropped.
fn block((): &mut (), stage: Stage) {
    let _ = stage.send(());
    let _ = stage.recv();
}

fn a_process_that_waits_takes_almost_no_cpu_time() -> Outcome {
    let (mutex, lock, once) = (Mutex::new(0)?, RwLock::new(0)?, Once::new()?);
    let (semaphore, event, barrier) = (Semaphore::new(1)?, Event::new()?, Barrier::new(2)?);
    let condition = (Mutex::new(0)?, Condvar::new()?);
    let (sender, receiver): JoinableEnds = joinable(1, Unfinished::Redeliver)?;
    let (unjoined, kept): JoinableEnds = joinable(1, Unfinished::Redeliver)?;
    unjoined.send(0)?;
    let kept = kept.recv()?;
    let (server, (running, theirs)) = (Server::spawn(|| (), ())?, pipe()?);
    let slow = server.submit(block, (theirs,))?;
    reached(&running)?;
    let initialise = |once: Once, stage: Stage| {
        once.call_once(|| {
            let _ = stage.send(());
            let _ = stage.recv();
        })
    };
    let (initialiser, initialising) = started(initialise, &once)?;
    let held = (mutex.lock()?, lock.write()?, semaphore.acquire()?);
    let children = [
        waiting("mutex", &mutex, |mutex: Mutex<u32>, stage: Stage| {
            cpu_time_of(&stage, || mutex.lock().is_ok())
        })?,
        waiting("reader", &lock, |lock: RwLock<u32>, stage: Stage| {
            cpu_time_of(&stage, || lock.read().is_ok())
        })?,
        waiting("writer", &lock, |lock: RwLock<u32>, stage: Stage| {
            cpu_time_of(&stage, || lock.write().is_ok())
        })?,
        waiting("semaphore", &semaphore, |semaphore: Semaphore, stage: Stage| {
            cpu_time_of(&stage, || semaphore.acquire().is_ok())
        })?,
        waiting("event", &event, |event: Event, stage: Stage| cpu_time_of(&stage, || event.wait()))?,
        waiting("barrier", &barrier, |barrier: Barrier, stage: Stage| {
            cpu_time_of(&stage, || barrier.wait())
        })?,
        waiting("once", &once, |once: Once, stage: Stage| cpu_time_of(&stage, || once.call_once(|| ())))?,
        waiting("condvar", &condition, |(mutex, condvar): (Mutex<u32>, Condvar), stage: Stage| {
            let guard = mutex.lock()?;
            cpu_time_of(&stage, || condvar.wait_while(guard, |value| *value == 0).is_ok())
        })?,
        waiting("joinable receiver", &receiver, |receiver: JoinableReceiver<u32>, stage: Stage| {
            cpu_time_of(&stage, || receiver.recv().map(Delivery::done))
        })?,
        waiting("joinable sender", &unjoined, |sender: JoinableSender<u32>, stage: Stage| {
            cpu_time_of(&stage, || sender.join())
        })?,
        waiting("server", &server, |server: Server<()>, stage: Stage| {
            cpu_time_of(&stage, || server.call(|(): &mut ()| (), ()))
        })?,
        waiting("array", &event, |event: Event, stage: Stage| {
            let mut array = SharedArray::<u8>::zeroed(1)?;
            let [chunk, _] = array.split_at(1)?;
            let holder = thread::spawn(move || {
                event.wait();
                drop(chunk);
            });
            let time = cpu_time_of(&stage, || array.join());
            holder.join().unwrap();
            time
        })?,
    ];
    thread::sleep(Duration::from_secs(1)); // what is measured
    assert!(children.iter().all(|(_, child)| child.is_alive()), "one of them did not wait");
    drop((held, initialising, running));
    event.set();
    barrier.wait()?;
    *condition.0.lock()? = 1;
    condition.1.notify_all();
    sender.send(0)?;
    kept.done();
    for (name, child) in children {
        let time = child.join()??;
        assert!(time < Duration::from_millis(100), "{name}: {time:?} of CPU time in a second of waiting");
    }
    slow.get()?;
    Ok(initialiser.join()??)
}

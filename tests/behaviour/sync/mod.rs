//! **Locks and friends**: whatever dies while it holds something, no other process waits for it.

mod atomic;
mod barrier;
mod condvar;
mod event;
mod idle;
mod mutex;
mod namespaces;
mod once;
mod rw_lock;
mod semaphore;
mod state;

use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use multiproc::{Connection, Process, RemoteFn, Result, pipe};
use serde::Serialize;
use serde::de::DeserializeOwned;

use tests::corrupter::{Corrupter, Where, mappings};

use crate::support::{Outcome, TEST_TIMEOUT};

pub(crate) fn trials() -> Vec<Trial> {
    let trials = [
        atomic::trials(),
        barrier::trials(),
        condvar::trials(),
        event::trials(),
        idle::trials(),
        mutex::trials(),
        namespaces::trials(),
        once::trials(),
        rw_lock::trials(),
        semaphore::trials(),
        state::trials(),
    ];
    trials.into_iter().flatten().collect()
}

/// Within this time a thread is told of a death for which it waits. Twice the promise, for a busy machine,
/// and the watchdog's business beyond.
const NOTICED: Duration = Duration::from_secs(10);

/// The other end of a child's pipe: it tells that it has come so far, and waits for a message.
pub(crate) type Stage = Connection<(), ()>;

/// Runs `act` with a handle in a child, until it has sent its message.
pub(crate) fn started<H, F, R>(act: F, handle: &H) -> Result<(Process<R>, Stage)>
where
    H: Clone + Serialize + DeserializeOwned,
    F: RemoteFn<(H, Stage), Output = R>,
    R: Serialize + DeserializeOwned,
{
    let (ours, theirs) = pipe()?;
    let child = Process::spawn(act, (handle.clone(), theirs))?;
    reached(&ours)?;
    Ok((child, ours))
}

/// Waits until the child has come so far.
fn reached(stage: &Stage) -> Result<()> {
    assert!(stage.poll(TEST_TIMEOUT)?, "the child does not come so far");
    stage.recv()
}

/// Kills a child, and waits until it is reaped.
pub(crate) fn killed<R: Serialize + DeserializeOwned>(child: Process<R>) -> u32 {
    let pid = child.pid();
    child.kill().unwrap();
    assert_eq!(child.join().err().and_then(|error| error.signal()), Some(9));
    pid
}

/// Asserts that `act` does not end before `time`, nor long after it.
pub(crate) fn takes_at_least<R>(time: Duration, act: impl FnOnce() -> R) -> R {
    let begun = Instant::now();
    let result = ends_soon(act);
    assert!(begun.elapsed() >= time, "over after {:?}", begun.elapsed());
    result
}

/// Asserts that `act` ends before a death would stay unnoticed.
pub(crate) fn ends_soon<R>(act: impl FnOnce() -> R) -> R {
    let begun = Instant::now();
    let result = act();
    assert!(begun.elapsed() < NOTICED, "over after {:?}", begun.elapsed());
    result
}

/// Has a child write over the memory of a handle, while `act` is called again and again: it ends, with
/// whatever.
pub(crate) fn corrupt<H: Clone + Serialize + DeserializeOwned>(handle: &H, act: impl Fn(H)) -> Outcome {
    let write = |_handle: H, stage: Stage| {
        let _ = stage.send(());
        let mut corrupter = Corrupter::new(mappings(), 7);
        for _ in 0..15 {
            corrupter.write_for(Where::Heads(512), Duration::from_millis(10));
            corrupter.write_for(Where::Tails(4096), Duration::from_millis(10));
        }
    };
    let (child, _stage) = started(write, handle)?;
    while child.is_alive() {
        ends_soon(|| act(handle.clone()));
    }
    Ok(child.join()?)
}

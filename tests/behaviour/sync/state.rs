//! Handles of each kind in the state of a pool's workers, through a pipe, and through a queue.

use std::sync::atomic::Ordering::SeqCst;
use std::thread;

use multiproc::pool::State;
use multiproc::queue::{Receiver, bounded};
use multiproc::sync::{Atomic, Barrier, Condvar, Event, Mutex, Once, OnceCell, RwLock, Semaphore};
use multiproc::{ArrayChunk, Connection, Pool, Result, Server, SharedArray, StartMethod, pipe};
use serde::{Deserialize, Serialize};

use crate::support::{METHODS, Outcome, trials, with};

trials![
    each_kind_works_in_the_state_of_workers,
    each_kind_works_in_a_preloaded_state,
    each_kind_travels_through_a_pipe_and_a_queue,
    each_kind_is_send_and_sync,
];

#[derive(Clone, Serialize, Deserialize)]
struct Handles {
    arrived: Mutex<u32>,
    slice: Mutex<[u32]>,
    condvar: Condvar,
    lock: RwLock<u32>,
    semaphore: Semaphore,
    inside: Atomic<u32>,
    counts: Atomic<[u32]>,
    event: Event,
    barrier: Barrier,
    once: Once,
    cell: OnceCell<u32>,
}

const WORKERS: u32 = 3;

impl Handles {
    fn new() -> Result<Self> {
        Ok(Self {
            arrived: Mutex::new(0)?,
            slice: Mutex::zeroed(2)?,
            condvar: Condvar::new()?,
            lock: RwLock::new(0)?,
            semaphore: Semaphore::new(1)?,
            inside: Atomic::new(0)?,
            counts: Atomic::from_slice(&[0, 0])?,
            event: Event::new()?,
            barrier: Barrier::new(WORKERS)?,
            once: Once::new()?,
            cell: OnceCell::new()?,
        })
    }

    /// Ends only when all workers are here. Returns whether the worker is the leader, and the cell's value.
    fn use_all(&mut self) -> Result<(bool, u32)> {
        *self.arrived.lock()? += 1;
        self.condvar.notify_all();
        drop(self.condvar.wait_while(self.arrived.lock()?, |arrived| *arrived < WORKERS)?);
        self.counts[1].fetch_add(1, SeqCst);
        let mut slice = self.slice.lock()?;
        while self.counts[1].load(SeqCst) < WORKERS {
            thread::yield_now(); // another worker waits for the mutex meanwhile
        }
        slice.set(1, 5);
        drop(slice);
        *self.lock.write()? += 1;
        let permit = self.semaphore.acquire()?;
        assert_eq!(self.inside.fetch_add(1, SeqCst), 0, "it has the only permit");
        self.inside.fetch_sub(1, SeqCst);
        drop(permit);
        let count = || self.counts[0].fetch_add(1, SeqCst);
        self.once.call_once(|| assert_eq!(count(), 0))?;
        let leads = self.barrier.wait()?;
        if leads {
            self.event.set();
        }
        self.event.wait();
        Ok((leads, self.cell.get_or_init(std::process::id)?))
    }

    /// Has each worker use the handles of its state, and finds what they did.
    fn check(&self, pool: &Pool<State<Self>>) -> Outcome {
        let used = pool.broadcast(Self::use_all, ())?;
        let used = used.into_iter().map(|used| used?).collect::<Result<Vec<_>>>()?;
        self.check_used(&used, &pool.worker_pids())
    }

    /// Finds what the users did, of which each returned this.
    fn check_used(&self, used: &[(bool, u32)], pids: &[u32]) -> Outcome {
        assert_eq!(used.iter().filter(|(leads, _)| *leads).count(), 1);
        assert!(used.iter().all(|(_, value)| Some(*value) == self.cell.get()), "{used:?}");
        assert!(pids.contains(&used[0].1));
        assert_eq!((*self.arrived.lock()?, *self.lock.read()?), (3, 3));
        assert_eq!(self.slice.lock()?.to_vec(), [0, 5]);
        assert_eq!((self.counts[0].load(SeqCst), self.counts[1].load(SeqCst)), (1, 3));
        assert!(self.event.is_set() && self.once.is_completed());
        assert_eq!((self.semaphore.available(), self.barrier.waiting()), (1, 0));
        Ok(())
    }
}

fn each_kind_works_in_the_state_of_workers() -> Outcome {
    for method in [StartMethod::ForkServer, StartMethod::Spawn] {
        let handles = Handles::new()?;
        let builder = Pool::builder().workers(WORKERS as usize).start_method(method);
        handles.check(&builder.state(|handles: Handles| handles, (handles.clone(),)).build()?)?;
    }
    Ok(())
}

/// The workers are copies of the process that made the state, and has used the handles.
fn each_kind_works_in_a_preloaded_state() -> Outcome {
    let handles = Handles::new()?;
    let builder = Pool::builder().workers(WORKERS as usize).start_method(StartMethod::ForkServer);
    let make = |handles: Handles| {
        drop((handles.arrived.lock()?, handles.lock.write()?, handles.semaphore.acquire()?));
        Ok::<_, multiproc::Error>(handles)
    };
    handles.check(&builder.try_preload(make, (handles.clone(),)).build()?)
}

/// One user has the handles from a pipe, one from a queue, and one is this process.
fn each_kind_travels_through_a_pipe_and_a_queue() -> Outcome {
    for method in METHODS {
        let mut handles = Handles::new()?;
        let by_pipe = |pipe: Connection<(), Handles>| -> Result<(bool, u32)> { pipe.recv()?.use_all() };
        let by_queue = |queue: Receiver<Handles>| -> Result<(bool, u32)> { queue.recv()?.use_all() };
        let ((ours, theirs), (sender, receiver)) = (pipe()?, bounded(1)?);
        let children = [with(method).spawn(by_pipe, (theirs,))?, with(method).spawn(by_queue, (receiver,))?];
        let pids = [children[0].pid(), children[1].pid(), std::process::id()];
        ours.send(handles.clone())?;
        sender.send(handles.clone())?;
        let mut used = vec![handles.use_all()?];
        for child in children {
            used.push(child.join()??);
        }
        handles.check_used(&used, &pids)?;
    }
    Ok(())
}

/// The compiler checks it.
fn each_kind_is_send_and_sync() -> Outcome {
    const fn assert_send_and_sync<T: Send + Sync>() {}
    const {
        assert_send_and_sync::<Handles>();
        assert_send_and_sync::<(SharedArray<u32>, ArrayChunk<u32>, Server<u32>)>();
    }
    Ok(())
}

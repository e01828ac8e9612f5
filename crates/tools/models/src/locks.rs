//! Models of `multiproc::sync`, inside of which they are compiled.

use loom::cell::Cell;
use loom::sync::Arc;
use loom::thread::{self, JoinHandle};

use super::barrier::Barrier;
use super::event::Event;
use super::once::OnceCell;
use super::permits::Request;
use super::rw_lock::RwLock;
use super::shared::Shared;
use crate::model;
use crate::sys::Mutation::{AcquireToRelaxed, NoFence, NoWake, ReleaseToRelaxed};
use crate::sys::atomic::{AtomicU32, Relaxed};
use crate::sys::poll::Deadline;
use crate::sys::thread_id::ThreadId;

/// Runs a function with a handle in a thread.
pub(super) fn spawn<H: Clone + 'static, R: 'static>(
    handle: &H,
    act: impl FnOnce(&H) -> R + 'static,
) -> JoinHandle<R> {
    let handle = handle.clone();
    thread::spawn(move || act(&handle))
}

model!(
    an_entry_is_read_whole_though_its_slot_is_reused, reuse, 3,
    detects [ReleaseToRelaxed, AcquireToRelaxed]
);

/// One thread puts an entry into the slot of an older one, while another reads the slot without the lock.
fn reuse() {
    let shared = Shared::create::<()>(1, 0).unwrap();
    let known = [1, 2].map(|number: u32| (ThreadId::from_bits(number.into()), number, u64::from(number)));
    let insert = |shared: &Shared, (holder, kind, sequence): (ThreadId, u32, u64)| {
        let _ = shared.insert(holder, kind, sequence, |_| true);
    };
    insert(&shared, known[0]);
    let writer = spawn(&shared, move |shared| insert(shared, known[1]));
    let reader = spawn(&shared, move |shared| {
        for entry in shared.entries() {
            assert!(known.contains(&(entry.holder, entry.kind, entry.sequence)), "{entry:?}");
        }
    });
    writer.join().unwrap();
    reader.join().unwrap();
}

model!(
    permits_are_held_by_as_many_as_there_are, permits, 2,
    detects [ReleaseToRelaxed, AcquireToRelaxed, NoWake, NoFence]
);

/// Two threads take the only permit, and change what it guards.
fn permits() {
    let shared = (Shared::create::<()>(2, 0).unwrap(), Arc::new(Cell::new(0_u32)));
    let pass = |(shared, number): &(Shared, Arc<Cell<u32>>)| {
        let request = Request { count: 1, holder: ThreadId::current(), is_reentrant: false };
        let entry = shared.acquire(1, request, Deadline::Never, |_| {}).unwrap().unwrap();
        number.set(number.get() + 1);
        shared.release(&entry);
    };
    let other = spawn(&shared, pass);
    pass(&shared);
    other.join().unwrap();
    assert_eq!((shared.1.get(), shared.0.free_permits(1)), (2, 1));
}

model!(a_writer_excludes_readers, readers, 2, detects [ReleaseToRelaxed, AcquireToRelaxed, NoWake, NoFence]);

/// One thread reads what another one writes.
fn readers() {
    let lock = (RwLock::new(0_u64).unwrap(), Arc::new(Cell::new(0_u64)));
    let writer = spawn(&lock, |(lock, copy)| {
        let mut number = lock.write().unwrap();
        *number += 1;
        copy.set(*number);
    });
    let number = lock.0.read().unwrap();
    assert_eq!(*number, lock.1.get());
    drop(number);
    writer.join().unwrap();
    assert_eq!(*lock.0.read().unwrap(), 1);
}

model!(
    an_event_shows_what_was_done_before_it, event, 3,
    detects [ReleaseToRelaxed, AcquireToRelaxed, NoWake, NoFence]
);

/// Clearing the event at once does not keep its waiter.
fn event() {
    let event = (Event::new().unwrap(), Arc::new(Cell::new(0_u32)));
    let waiter = spawn(&event, |(event, number)| {
        event.wait();
        number.get()
    });
    event.1.set(7);
    event.0.set();
    assert_eq!(waiter.join().unwrap(), 7);
}

model!(
    an_event_that_is_set_again_shows_what_was_done_before_it, event_again, 3,
    detects [ReleaseToRelaxed, AcquireToRelaxed, NoWake, NoFence]
);

/// One thread makes a change, and sets an event that is set. Another one clears it, looks, and waits if it sees no
/// change.
fn event_again() {
    let shared = (Event::new().unwrap(), Arc::new(AtomicU32::new(0)));
    shared.0.set();
    let setter = spawn(&shared, |(event, number)| {
        number.store(7, Relaxed);
        event.set();
    });
    let (event, number) = &shared;
    event.clear();
    if number.load(Relaxed) == 0 {
        event.wait();
    }
    assert_eq!(number.load(Relaxed), 7);
    setter.join().unwrap();
}

model!(a_barrier_separates_two_rounds, barrier, 2, detects [ReleaseToRelaxed, AcquireToRelaxed, NoWake, NoFence]);

/// Each party sees what the other one did before the barrier.
fn barrier() {
    let shared = (Barrier::new(2).unwrap(), Arc::new([Cell::new(0_u32), Cell::new(0)]));
    let meet = |(barrier, numbers): &(Barrier, Arc<[Cell<u32>; 2]>), own: usize| {
        numbers[own].set(7);
        let is_leader = barrier.wait().unwrap();
        assert_eq!(numbers[1 - own].get(), 7);
        is_leader
    };
    let other = spawn(&shared, move |shared| meet(shared, 1));
    let is_leader = meet(&shared, 0);
    assert_ne!(other.join().unwrap(), is_leader);
}

model!(a_barrier_breaks_for_all_or_none, broken, 2, detects [NoWake, NoFence]);

/// A third thread breaks the barrier, maybe while it opens.
fn broken() {
    let barrier = Barrier::new(2).unwrap();
    let breaker = spawn(&barrier, Barrier::abort);
    let other = spawn(&barrier, Barrier::wait);
    match (barrier.wait(), other.join().unwrap()) {
        (Ok(one), Ok(other)) => assert_ne!(one, other),
        (one, other) => assert!(one.is_err() && other.is_err()),
    }
    breaker.join().unwrap();
}

model!(a_cell_is_filled_before_it_is_full, cell, 3, detects [ReleaseToRelaxed, AcquireToRelaxed, NoWake]);

/// Two threads make the value, and one that has it sees what was done for it.
fn cell() {
    let shared = (OnceCell::new().unwrap(), Arc::new(Cell::new(0_u32)));
    let make = |(cell, made): &(OnceCell<u64>, Arc<Cell<u32>>)| {
        let make = || {
            made.set(made.get() + 1);
            7
        };
        assert_eq!((cell.get_or_init(make).unwrap(), made.get()), (7, 1));
    };
    let others = [(); 2].map(|()| spawn(&shared, make));
    assert!([None, Some(7)].contains(&shared.0.get()));
    for other in others {
        other.join().unwrap();
    }
}

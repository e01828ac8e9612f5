//! Models of locks of which a thread is killed: another thread gets the lock, and an error if
//! the data may be in doubt.

use loom::cell::Cell;
use loom::sync::Arc;
use loom::thread::JoinHandle;

use super::barrier::Barrier;
use super::models::spawn;
use super::mutex::Mutex;
use super::once::OnceCell;
use super::permits::Request;
use super::poison::LockError;
use super::rw_lock::RwLock;
use super::shared::Shared;
use crate::model;
use crate::sys::Mutation::{AcquireToRelaxed, NoDeath, ReleaseToRelaxed};
use crate::sys::failpoint::{Failpoint, spawn_killed};
use crate::sys::poll::Deadline;
use crate::sys::thread_id::ThreadId;

/// Waits until the thread is dead, and says so.
fn end(killed: JoinHandle<Option<ThreadId>>) {
    killed.join().unwrap().expect("it is killed in every interleaving").end();
}

model!(
    a_mutex_of_a_dead_thread_is_poisoned, dead_with_mutex, 3,
    detects [NoDeath, ReleaseToRelaxed, AcquireToRelaxed]
);
model!(
    a_mutex_of_a_thread_killed_in_its_release_is_poisoned, dead_in_release, 3,
    detects [NoDeath, ReleaseToRelaxed, AcquireToRelaxed]
);

fn dead_with_mutex() {
    killed_holder(Failpoint::LockTaken, 0);
}

fn dead_in_release() {
    killed_holder(Failpoint::WrittenBack, 1);
}

/// Three threads add one, and one of them is killed. Those that come later find the mutex poisoned, and of
/// its change all or nothing. Only one thread holds the mutex at a time.
fn killed_holder(point: Failpoint, left: u64) {
    let shared = (Mutex::new(0_u64).unwrap(), Arc::new(Cell::new(0_u32)));
    let killed = spawn_killed(&shared.0, point, move |count| {
        *count.lock().or_else(LockError::into_guard).unwrap() += 1;
    });
    let add = |(count, holders): &(Mutex<u64>, Arc<Cell<u32>>)| {
        let (mut guard, is_poisoned) = match count.lock() {
            Ok(guard) => (guard, false),
            Err(error) => (error.into_guard().unwrap(), true),
        };
        let before = *guard;
        *guard += 1;
        holders.set(holders.get() + 1);
        (before, is_poisoned)
    };
    let other = spawn(&shared, add);
    end(killed);
    let own = add(&shared);
    let mut found = [own, other.join().unwrap()];
    found.sort_unstable();
    let is_known = match found {
        [(0, false), (second, true)] => second == 1 + left,
        [(first, true), (second, true)] => first == left && second == 1 + left,
        _ => false,
    };
    assert!(is_known, "{found:?}");
    assert_eq!(shared.1.get(), 2);
}

model!(permits_of_a_dead_thread_come_back, dead_with_permits, 3, detects[NoDeath]);
model!(permits_come_back_from_a_thread_killed_while_it_waits, dead_before_sleep, 2, detects[NoDeath]);
model!(permits_come_back_from_a_thread_killed_with_the_table, dead_with_table, 3, detects[NoDeath]);

fn dead_with_permits() {
    killed_in_turn(Failpoint::PermitsTaken);
}

fn dead_before_sleep() {
    killed_in_turn(Failpoint::SyncSleeps);
}

fn dead_with_table() {
    killed_in_turn(Failpoint::LockTaken);
}

/// Two threads take the only permit, of which one is killed.
fn killed_in_turn(point: Failpoint) {
    let shared = Shared::create::<()>(2, 0).unwrap();
    let pass = |shared: &Shared| {
        let request = Request { count: 1, holder: ThreadId::current(), is_reentrant: false };
        if let Some(entry) = shared.acquire(1, request, Deadline::Never, |_| {}).unwrap() {
            shared.release(&entry);
        }
    };
    let killed = spawn_killed(&shared, point, pass);
    let other = spawn(&shared, pass);
    if let Some(dead) = killed.join().unwrap() {
        dead.end();
    }
    other.join().unwrap();
    pass(&shared);
    assert_eq!(shared.free_permits(1), 1);
}

model!(a_lock_of_a_dead_writer_is_poisoned, dead_writer, 2, detects[NoDeath]);

fn dead_writer() {
    let lock = RwLock::new(0_u64).unwrap();
    let killed = spawn_killed(&lock, Failpoint::PermitsTaken, |lock| *lock.write().unwrap() = 7);
    let reader = spawn(&lock, |lock| *lock.read().or_else(LockError::into_guard).unwrap());
    end(killed);
    assert_eq!(reader.join().unwrap(), 0);
    assert!(lock.read().is_err(), "the death is not reported");
}

model!(a_barrier_breaks_when_a_party_dies, dead_party, 3, detects[NoDeath]);

/// Two of three parties come, of which one is killed.
fn dead_party() {
    let barrier = Barrier::new(3).unwrap();
    let killed = spawn_killed(&barrier, Failpoint::SyncSleeps, |barrier| {
        let _ = barrier.wait();
    });
    let other = spawn(&barrier, Barrier::wait);
    end(killed);
    assert!(other.join().unwrap().is_err() && barrier.wait().is_err());
}

model!(a_barrier_breaks_when_its_last_party_dies_before_it_opens, dead_opener, 3, detects[NoDeath]);

/// No party lives that has arrived.
fn dead_opener() {
    let barrier = Barrier::new(1).unwrap();
    let killed = spawn_killed(&barrier, Failpoint::BarrierArrived, |barrier| {
        let _ = barrier.wait();
    });
    let dead = killed.join().unwrap().expect("it is killed in every interleaving");
    let late = spawn(&barrier, Barrier::wait);
    dead.end();
    assert!(late.join().unwrap().is_err() && barrier.is_broken());
}

model!(a_cell_is_filled_though_its_maker_is_killed, dead_maker, 3, detects[NoDeath]);

fn dead_maker() {
    let cell = OnceCell::new().unwrap();
    let killed = spawn_killed(&cell, Failpoint::CellFilled, |cell: &OnceCell<u64>| {
        let _ = cell.set(7);
    });
    let other = spawn(&cell, |cell| cell.get_or_init(|| 8).unwrap());
    assert!([None, Some(8)].contains(&cell.get()));
    if let Some(dead) = killed.join().unwrap() {
        dead.end();
    }
    assert_eq!(other.join().unwrap(), 8);
}

//! Handles as another process may have sent them.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::sys::stat::fstat;
use proptest::collection::vec;
use proptest::prelude::*;

use super::condvar::NOTIFIED;
use super::deliveries::{Deliveries, Next};
use super::permits::GRANTED;
use super::shared::SLOT;
use super::*;
use crate::error::Result;
use crate::ipc::wire::{Transferable, decode, encode_with_descriptors};
use crate::sys::memfd;
use crate::sys::poll::Deadline;
use crate::sys::thread_id::ThreadId;
use crate::testing::{any_bytes, cases, descriptors};

/// Encodes `value` and decodes it as something else.
fn transfer<T: serde::de::DeserializeOwned>(value: &impl Transferable) -> Result<T> {
    let mut bytes = Vec::new();
    let fds = encode_with_descriptors(value, &mut bytes, "it")?;
    let copies = fds.iter().map(|fd| fd.as_fd().try_clone_to_owned().unwrap());
    decode(&bytes, copies.collect::<Vec<_>>(), "it")
}

#[test]
fn a_handle_is_taken_only_for_what_it_is() {
    let number = Mutex::new(7_u32).unwrap();
    assert_eq!(*transfer::<Mutex<u32>>(&number).unwrap().lock().unwrap(), 7);
    assert_eq!(transfer::<Mutex<[u32]>>(&number).unwrap().lock().unwrap().to_vec(), [7]);
    for error in [
        transfer::<Mutex<u64>>(&number).unwrap_err(),
        transfer::<Mutex<u32>>(&Mutex::from_slice(&[1_u32, 2]).unwrap()).unwrap_err(),
        transfer::<Event>(&number).unwrap_err(),
        transfer::<Semaphore>(&number).unwrap_err(),
        transfer::<Atomic<u64>>(&number).unwrap_err(),
    ] {
        assert!(error.to_string().contains("its memory has another layout"), "{error}");
    }
}

#[test]
fn a_handle_travels_only_where_a_descriptor_can() {
    let mut bytes = Vec::new();
    let event = Event::new().unwrap();
    assert!(crate::ipc::wire::encode(&(1_u8, event), &mut bytes, "an item").unwrap_err().is_codec());
}

/// Handles of other processes: their words can be anything, but their memory is as large as they say.
#[test]
fn handles_that_lack_words_do_not_panic() {
    let small = Event::new().unwrap();
    // An event has no slots, so it is a barrier without parties, which has nothing to wait for.
    let barrier = transfer::<Barrier>(&small).unwrap();
    assert_eq!((barrier.parties(), barrier.waiting()), (0, 0));
    let _ = barrier.wait_timeout(Duration::from_millis(1));
    let condvar = transfer::<Condvar>(&small).unwrap();
    let mutex = Mutex::new(()).unwrap();
    assert!(condvar.wait(mutex.lock().unwrap()).is_err());
    assert!(transfer::<Semaphore>(&small).unwrap().try_acquire().is_err());
}

/// Another process may have written any thread that lives into the lock's word.
#[test]
fn an_item_is_acknowledged_or_given_up_though_the_lock_is_held() {
    for redelivers in [true, false] {
        let queue = Deliveries::create(4, redelivers).unwrap();
        let taken = [1, 100_000, 1].map(|length| {
            queue.send(&vec![7; length], Deadline::Never, || false).unwrap();
            match queue.receive(Deadline::now(), || false).unwrap() {
                Next::Item(taken, _) => taken,
                _ => panic!("there is no item"),
            }
        });
        let guard = queue.shared.lock_slots(Deadline::now()).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                queue.acknowledge(&taken[0]);
                queue.acknowledge(&taken[1]);
                queue.give_up(&taken[2]);
            });
        });
        drop(guard);
        assert_eq!(queue.len(), usize::from(redelivers));
        assert!(queue.join(Deadline::now(), || true).is_err(), "it is neither there nor reported");
    }
}

/// Another process may have overwritten its length, and the memory of 1 GiB would have to be found to read it.
#[test]
fn an_item_that_was_not_written_is_an_error_and_takes_no_memory() {
    let queue = Deliveries::create(1, true).unwrap();
    queue.send(b"item", Deadline::now(), || false).unwrap();
    queue.shared.store_slice(0, &(1_u64 << 30).to_ne_bytes());
    let blocks = || fstat(queue.shared.memory()).unwrap().st_blocks;
    let before = blocks();
    assert!(queue.receive(Deadline::now(), || false).is_err_and(|error| error.is_codec()));
    assert!(blocks() <= before && queue.len() == 0);
    queue.send(b"next", Deadline::now(), || false).unwrap();
    assert!(matches!(queue.receive(Deadline::now(), || false), Ok(Next::Item(_, bytes)) if bytes == b"next"));
}

/// A file can be large and have no memory, which the first read of each page would find.
#[test]
fn a_handle_whose_memory_is_a_hole_is_refused() {
    let permits = Semaphore::new(60_000).unwrap();
    assert!(transfer::<Semaphore>(&permits).is_ok());
    memfd::release(permits.shared.memory(), 4096, 1 << 20);
    let error = transfer::<Semaphore>(&permits).unwrap_err();
    assert!(error.to_string().contains("its memory is not there"), "{error}");
    let queue = Deliveries::create(1_000, true).unwrap();
    assert!(transfer::<Deliveries>(&queue).is_ok(), "the memory of items comes with them");
}

/// As the one above: a wait that has a deadline ends then, before and after it has become a waiter.
#[test]
fn a_timed_wait_ends_though_the_lock_is_held() {
    let (mutex, condvar) = (Mutex::new(0_u8).unwrap(), Condvar::new().unwrap());
    let wait = |millis| {
        let guard = mutex.lock().unwrap();
        condvar.wait_timeout(guard, Duration::from_millis(millis)).unwrap().1
    };
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| wait(300));
        while condvar.shared.used_count() == 0 && !waits.is_finished() {
            std::thread::yield_now();
        }
        let held = condvar.shared.lock_slots(Deadline::now()).unwrap();
        assert!(waits.join().unwrap());
        assert!(scope.spawn(|| wait(1)).join().unwrap());
        drop(held);
    });
    assert_eq!(condvar.shared.used_count(), 0);
    condvar.notify_one();
}

/// As if its holder were stopped.
#[test]
fn a_party_that_cannot_arrive_in_time_breaks_the_barrier() {
    let barrier = Barrier::new(1).unwrap();
    let held = barrier.shared.lock_slots(Deadline::Never).unwrap();
    std::thread::scope(|scope| {
        let late = scope.spawn(|| barrier.wait_timeout(Duration::from_millis(1)));
        assert!(late.join().unwrap().unwrap_err().is_timeout());
    });
    assert!(barrier.is_broken());
    drop(held);
}

/// Where a living thread waits before it.
#[test]
fn a_dead_waiter_is_removed_with_a_dead_holder() {
    let semaphore = Semaphore::new(1).unwrap();
    let shared = &semaphore.shared;
    let (living, dead) = (ThreadId::current(), std::thread::spawn(ThreadId::current).join().unwrap());
    let guard = shared.lock_slots(Deadline::now()).unwrap();
    for (holder, kind) in [(dead, 1 | GRANTED), (living, 1), (dead, 1), (living, 1)] {
        shared.insert(holder, kind, shared.next_sequence(), |_| false).unwrap();
    }
    drop(guard);
    shared.remove_dead(None, true, Deadline::Never, &|_| {}).unwrap();
    assert_eq!(shared.used_count(), 2);
}

/// Asking takes a few reads. Two processes have taken one permit each time, in turn.
#[test]
fn each_holder_is_asked_once_whether_it_lives() {
    let semaphore = Semaphore::new(1_000).unwrap();
    let shared = &semaphore.shared;
    let (thread, process) = ThreadId::current_and_process();
    for index in 0..1_000 {
        let holder = if index % 2 == 0 { thread } else { process };
        shared.insert_at(index, holder, 1 | GRANTED, index as u64);
    }
    let Some(before) = reads_of_this_thread() else { return };
    shared.remove_dead(None, true, Deadline::Never, &|_| {}).unwrap();
    let reads = reads_of_this_thread().unwrap() - before;
    assert!(reads < 100, "{reads}");
}

/// How often it has read so far, if the kernel counts that.
fn reads_of_this_thread() -> Option<u64> {
    let counts = std::fs::read_to_string("/proc/thread-self/io").ok()?;
    counts.lines().find_map(|line| line.strip_prefix("syscr: "))?.parse().ok()
}

#[test]
fn waiters_that_were_killed_after_their_notification_leave_their_places() {
    let (mutex, condvar) = (Mutex::new(0_u8).unwrap(), Condvar::new().unwrap());
    let shared = &condvar.shared;
    let dead = std::thread::spawn(ThreadId::current).join().unwrap();
    while !dead.has_ended() {
        std::thread::yield_now(); // `join` may return a moment before the kernel has removed the thread
    }
    for index in 0..shared.slots {
        shared.insert_at(index, dead, NOTIFIED, shared.next_sequence());
    }
    let (_guard, is_over) = condvar.wait_timeout(mutex.lock().unwrap(), Duration::from_millis(1)).unwrap();
    assert!(is_over);
}

/// As if another process had written there that this thread holds the lock.
#[test]
fn a_notification_arrives_though_the_lock_cannot_be_taken() {
    let (mutex, condvar) = (Mutex::new(0_u8).unwrap(), Condvar::new().unwrap());
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| drop(condvar.wait(mutex.lock().unwrap()).unwrap()));
        while condvar.shared.used_count() == 0 {
            std::thread::yield_now();
        }
        let held = condvar.shared.lock_slots(Deadline::Never).unwrap();
        condvar.notify_one();
        waits.join().unwrap();
        drop(held);
    });
}

proptest! {
    #![proptest_config(cases(200))]

    #[test]
    fn any_bytes_and_descriptors_are_handles_or_an_error(bytes in any_bytes(60), choice in vec(any::<u8>(), 0..4)) {
        let sent = || descriptors(&choice);
        let _ = decode::<(Mutex<u64>, u8)>(&bytes, sent(), "it");
        let _ = decode::<(Mutex<[u16]>, u8)>(&bytes, sent(), "it");
        let _ = decode::<(Event, u8)>(&bytes, sent(), "it");
        let _ = decode::<(Semaphore, RwLock<u8>)>(&bytes, sent(), "it");
        let _ = decode::<(Barrier, Condvar)>(&bytes, sent(), "it");
        let _ = decode::<(OnceCell<u8>, Atomic<[bool]>)>(&bytes, sent(), "it");
    }
}

/// Another process may have written waiters into all slots but one.
#[test]
fn a_permit_is_granted_at_once_behind_as_many_waiters_as_there_are_slots() {
    let semaphore = Semaphore::new(65_536).unwrap();
    let shared = &semaphore.shared;
    let living = ThreadId::current_and_process().1;
    for index in 1..shared.slots {
        shared.insert_at(index, living, 0, 1);
    }
    let begun = Instant::now();
    assert_eq!(semaphore.try_acquire().unwrap().count(), 1);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

/// Else a lack of memory would be a signal at the first use of a slot.
#[test]
fn the_slots_of_a_joinable_queue_are_allocated() {
    let queue = Deliveries::create(65_536, true).unwrap();
    let memory = queue.shared.memory();
    let allocated = 512 * fstat(memory.as_fd()).unwrap().st_blocks;
    assert!(allocated.cast_unsigned() >= (SLOT * queue.capacity()) as u64, "{allocated} bytes");
}

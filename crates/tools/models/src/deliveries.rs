//! Models of a joinable queue: an item is dealt with, comes again, or is counted as lost; a `join` waits for it.

use loom::cell::Cell;
use loom::sync::Arc;
use loom::thread;

use super::deliveries::{Deliveries, Next, Taken};
use crate::model;
use crate::sys::Mutation::{AcquireToRelaxed, NoDeath, NoExchange, NoFence, NoWake, ReleaseToRelaxed};
use crate::sys::failpoint::{Failpoint, die_at, spawn_killed};
use crate::sys::poll::Deadline;
use crate::sys::thread_id::ThreadId;

fn send(queue: &Deliveries, item: u64) {
    queue.send(&item.to_ne_bytes(), Deadline::Never, || false).unwrap();
}

fn receive(queue: &Deliveries, deadline: Deadline) -> Option<(Taken, u64)> {
    match queue.receive(deadline, || false).unwrap() {
        Next::Item(taken, bytes) => Some((taken, u64::from_ne_bytes(bytes.try_into().unwrap()))),
        _ => None,
    }
}

model!(
    a_join_sees_what_was_done_with_an_item, joined, 2,
    detects [ReleaseToRelaxed, AcquireToRelaxed, NoWake, NoFence]
);

/// The receiver sees what was done before the item was sent, and the thread that joins what was done with it.
fn joined() {
    let shared = Arc::new((Deliveries::create(2, true).unwrap(), [Cell::new(0_u32), Cell::new(0)]));
    let receiver = {
        let shared = Arc::clone(&shared);
        thread::spawn(move || {
            let (queue, [before, done]) = &*shared;
            let (taken, item) = receive(queue, Deadline::Never).unwrap();
            assert_eq!((before.get(), item, taken.attempt()), (5, 7, 1));
            done.set(6);
            queue.acknowledge(&taken);
        })
    };
    let (queue, [before, done]) = &*shared;
    before.set(5);
    send(queue, 7);
    assert!(queue.join(Deadline::Never, || false).unwrap());
    assert_eq!((done.get(), queue.len()), (6, 0));
    receiver.join().unwrap();
}

model!(a_join_misses_no_item_that_comes_while_it_counts, counted, 3, detects[AcquireToRelaxed]);

/// One item is done when another is in the queue, so the queue is never empty.
fn counted() {
    let queue = Deliveries::create(2, true).unwrap();
    send(&queue, 1);
    let (taken, _) = receive(&queue, Deadline::now()).unwrap();
    let other = {
        let queue = queue.clone();
        thread::spawn(move || {
            send(&queue, 2);
            queue.acknowledge(&taken);
        })
    };
    assert!(!queue.join(Deadline::now(), || false).unwrap(), "an item is missed");
    other.join().unwrap();
}

model!(an_item_that_is_given_up_comes_again, given_up, 2, detects[NoWake]);

/// One thread gives the item up, if it gets it first; the other one waits for it.
fn given_up() {
    let queue = Deliveries::create(2, true).unwrap();
    send(&queue, 7);
    let other = {
        let queue = queue.clone();
        thread::spawn(move || {
            if let Some((taken, _)) = receive(&queue, Deadline::now()) {
                queue.give_up(&taken);
            }
        })
    };
    let (taken, item) = receive(&queue, Deadline::Never).unwrap();
    assert!(item == 7 && taken.attempt() <= 2);
    queue.acknowledge(&taken);
    other.join().unwrap();
    assert_eq!(queue.len(), 0);
}

model!(two_items_have_one_receiver_each, two_items, 1, detects[NoWake]);

/// Two threads receive the two items that a third one sends.
fn two_items() {
    let queue = Deliveries::create(2, true).unwrap();
    let receivers = [(); 2].map(|()| {
        let queue = queue.clone();
        thread::spawn(move || {
            let (taken, item) = receive(&queue, Deadline::Never).unwrap();
            queue.acknowledge(&taken);
            item
        })
    });
    send(&queue, 1);
    send(&queue, 2);
    let mut items = receivers.map(|receiver| receiver.join().unwrap());
    items.sort_unstable();
    assert_eq!((items, queue.len()), ([1, 2], 0));
}

/// What has become of an item whose receiver was killed at this failpoint, once another thread has seen that.
fn killed_at(point: Failpoint, redelivers: bool) -> (Deliveries, Option<u32>) {
    let queue = Deliveries::create(2, redelivers).unwrap();
    send(&queue, 7);
    let killed = {
        let queue = queue.clone();
        thread::spawn(move || {
            die_at(point);
            let (taken, _) = receive(&queue, Deadline::Never).unwrap();
            if point != Failpoint::DeliveryTaken {
                queue.acknowledge(&taken);
            }
            ThreadId::current()
        })
    };
    killed.join().unwrap().end();
    queue.recover(Deadline::Never).unwrap();
    let again = receive(&queue, Deadline::now()).map(|(taken, item)| {
        assert_eq!(item, 7);
        queue.acknowledge(&taken);
        taken.attempt()
    });
    assert_eq!(queue.len(), 0);
    (queue, again)
}

model!(an_item_whose_receiver_is_killed_comes_again, killed_holding, 3, detects[NoDeath]);

fn killed_holding() {
    let (queue, again) = killed_at(Failpoint::DeliveryTaken, true);
    assert_eq!(again, Some(2));
    assert!(queue.join(Deadline::now(), || false).unwrap());
    let (queue, again) = killed_at(Failpoint::DeliveryTaken, false);
    assert_eq!(again, None);
    assert!(queue.join(Deadline::now(), || false).is_err(), "the loss is not reported");
    assert!(queue.join(Deadline::now(), || false).unwrap(), "it is reported twice");
}

model!(an_item_that_is_acknowledged_does_not_come_again, killed_acknowledging, 3, detects[NoExchange]);

fn killed_acknowledging() {
    let (queue, again) = killed_at(Failpoint::DeliveryFreed, true);
    assert_eq!(again, None);
    assert!(queue.join(Deadline::now(), || false).unwrap());
}

model!(an_item_of_a_dead_receiver_goes_to_one_that_waits, killed_before_waiter, 3, detects[NoDeath]);
model!(an_item_that_changes_hands_goes_to_a_receiver_that_waits, killed_handing_over, 3, detects[NoDeath]);
model!(a_receiver_waits_for_no_dead_holder_of_the_table, killed_with_table, 3, detects[NoDeath]);

fn killed_before_waiter() {
    killed_while_other_waits(Failpoint::DeliveryTaken);
}

fn killed_handing_over() {
    killed_while_other_waits(Failpoint::DeliveryHandedOver);
}

fn killed_with_table() {
    killed_while_other_waits(Failpoint::LockTaken);
}

/// One thread receives an item, if it is there, and is killed. Another one waits for the item.
fn killed_while_other_waits(point: Failpoint) {
    let queue = Deliveries::create(2, true).unwrap();
    send(&queue, 7);
    let killed = spawn_killed(&queue, point, |queue| {
        receive(queue, Deadline::now());
    });
    let other = {
        let queue = queue.clone();
        thread::spawn(move || {
            let (taken, item) = receive(&queue, Deadline::Never).unwrap();
            assert!(item == 7 && (1..=2).contains(&taken.attempt()));
            queue.acknowledge(&taken);
        })
    };
    if let Some(dead) = killed.join().unwrap() {
        dead.end();
    }
    other.join().unwrap();
    assert!(queue.join(Deadline::Never, || false).unwrap());
    assert_eq!(queue.len(), 0);
}

//! Models of an unbounded channel: senders write where there is memory; receivers release what they have read.

use std::ops::RangeInclusive;

use loom::thread;

use crate::channel::{Layout, ReceiverCore, SenderCore};
use crate::messages::{channel, receive, send};
use crate::model;
use crate::sys::Mutation::{
    Acquire32ToRelaxed, AcquireToRelaxed, NoDeath, NoFence, NoWake, Release32ToRelaxed, ReleaseToRelaxed,
};
use crate::sys::failpoint::{Failpoint, spawn_killed};
use crate::sys::socket::Sent;

/// The messages that are in a full ring. A sender needs the memory of the first one, and writes there with
/// its second message.
const FULL: RangeInclusive<u8> = 4..=6;

fn full() -> (SenderCore, ReceiverCore) {
    let (sender, receiver) = channel(Layout::sparse(0));
    for messages in [1..=3, FULL] {
        for message in messages.clone() {
            assert_eq!(send(&sender, message), Sent::Done);
        }
        if messages != FULL {
            receive_all(&receiver, messages);
        }
    }
    (sender, receiver)
}

/// Sends two messages if the ring has room for them by now; returns the last message in the ring.
fn send_more(sender: &SenderCore) -> u8 {
    (7..=8).take_while(|&message| send(sender, message) == Sent::Done).last().unwrap_or(6)
}

fn receive_all(receiver: &ReceiverCore, messages: RangeInclusive<u8>) {
    for expected in messages {
        assert_eq!(receive(receiver), Some(expected));
    }
}

model!(
    memory_that_receivers_release_is_not_written_meanwhile, wrap_around, 3,
    detects [ReleaseToRelaxed, AcquireToRelaxed, Release32ToRelaxed, Acquire32ToRelaxed]
);

fn wrap_around() {
    let (sender, receiver) = full();
    let producer = thread::spawn(move || send_more(&sender));
    receive_all(&receiver, 4..=5);
    let last = producer.join().unwrap();
    receive_all(&receiver, 6..=last);
}

model!(
    a_message_arrives_where_there_was_no_memory, first_memory, 3,
    detects [ReleaseToRelaxed, AcquireToRelaxed, NoWake, NoFence]
);

/// The sender allocates memory for each message, and the receiver waits for each.
fn first_memory() {
    let (sender, receiver) = channel(Layout::sparse(0));
    let producer =
        thread::spawn(move || (1..=2).for_each(|message| assert_eq!(send(&sender, message), Sent::Done)));
    receive_all(&receiver, 1..=2);
    producer.join().unwrap();
}

model!(a_receiver_killed_in_its_release_leaves_it_to_the_next_one, killed_in_release, 3, detects[NoDeath]);

/// It has taken a message and released its memory, and no sender knows.
fn killed_in_release() {
    let (sender, receiver) = full();
    let killed = spawn_killed(&receiver, Failpoint::MemoryReleased, |receiver| receive_all(receiver, 4..=4));
    let producer = thread::spawn(move || send_more(&sender));
    killed.join().unwrap().expect("it releases memory").end();
    receive_all(&receiver, 5..=5);
    let last = producer.join().unwrap();
    receive_all(&receiver, 6..=last);
}

model!(
    a_sender_killed_in_its_allocation_leaves_it_to_the_next_one,
    killed_in_allocation,
    3,
    detects[NoDeath]
);

fn killed_in_allocation() {
    let (sender, receiver) = channel(Layout::sparse(0));
    let killed = spawn_killed(&sender, Failpoint::MemoryAllocated, |sender| {
        send(sender, 1);
    });
    let producer = thread::spawn(move || assert_eq!(send(&sender, 2), Sent::Done));
    if let Some(dead) = killed.join().unwrap() {
        dead.end();
    }
    assert!([1, 2].contains(&receive(&receiver).unwrap()));
    producer.join().unwrap();
}

//! Models of a channel's end: it is closed, or a process that uses it is killed.

use loom::thread;

use crate::messages::{LAYOUT, channel, receive, send};
use crate::model;
use crate::sys::Mutation::{AcquireToRelaxed, NoDeath, ReleaseToRelaxed};
use crate::sys::failpoint::{Failpoint, spawn_killed};
use crate::sys::socket::Sent;

model!(
    a_closed_channel_gives_what_was_sent_and_ends, closed, 2,
    detects [ReleaseToRelaxed, AcquireToRelaxed]
);

/// Two threads send and receive while a third one closes the channel. A message counts as sent if and only if
/// the receiver gets it.
fn closed() {
    let (sender, receiver) = channel(LAYOUT);
    let closer = {
        let sender = sender.clone();
        thread::spawn(move || sender.end().close())
    };
    let producer = thread::spawn(move || [1, 2].map(|message| send(&sender, message) == Sent::Done));
    let mut received = Vec::new();
    while let Some(message) = receive(&receiver) {
        received.push(message);
    }
    let sent = producer.join().unwrap();
    let expected: &[u8] = match sent {
        [true, true] => &[1, 2],
        [true, false] => &[1],
        [false, false] => &[],
        [false, true] => panic!("a message is sent after the end"),
    };
    assert_eq!(received, expected);
    closer.join().unwrap();
}

model!(a_message_that_is_published_comes_though_its_sender_is_killed, killed_behind, 1, detects[NoDeath]);
model!(a_message_that_is_not_published_never_comes, killed_before, 2, detects[NoDeath]);
model!(a_message_half_written_never_comes, killed_within, 1, detects[NoDeath]);

fn killed_behind() {
    killed_sender(Failpoint::Published, true);
}

fn killed_before() {
    killed_sender(Failpoint::Publishing, false);
}

fn killed_within() {
    killed_sender(Failpoint::MidFrame, false);
}

/// Two threads send a message, and one of them is killed. The receiver waits for each message that comes.
fn killed_sender(point: Failpoint, is_published: bool) {
    let (sender, receiver) = channel(LAYOUT);
    let killed = spawn_killed(&sender, point, |sender| {
        send(sender, 1);
    });
    let other = thread::spawn(move || assert_eq!(send(&sender, 2), Sent::Done));
    let consumer = thread::spawn(move || {
        let first = receive(&receiver).unwrap();
        let second = is_published.then(|| receive(&receiver).unwrap());
        assert!([(2, None), (1, Some(2)), (2, Some(1))].contains(&(first, second)));
        assert_eq!(receiver.end().len(), 0);
    });
    killed.join().unwrap().expect("it sends").end();
    for thread in [other, consumer] {
        thread.join().unwrap();
    }
}

model!(a_message_of_which_the_receiver_is_killed_goes_to_another_one, killed_receiver, 2, detects[NoDeath]);

/// Two threads receive, and one of them is killed when it has read a message and not taken it.
fn killed_receiver() {
    let (sender, receiver) = channel(LAYOUT);
    let killed = spawn_killed(&receiver, Failpoint::Publishing, |receiver| {
        receive(receiver);
    });
    let other = {
        let receiver = receiver.clone();
        thread::spawn(move || receive(&receiver))
    };
    for message in [1, 2] {
        assert_eq!(send(&sender, message), Sent::Done);
    }
    killed.join().unwrap().expect("it reads a message").end();
    assert_eq!(other.join().unwrap(), Some(1));
    assert_eq!(receive(&receiver), Some(2));
}

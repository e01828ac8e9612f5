//! Models of a channel: messages arrive whole, once and in order under every interleaving.

use loom::thread;

use crate::channel::{Layout, Message, ReceiveOutcome, ReceiverCore, SenderCore, sockets};
use crate::ipc::wire::SharedMemory;
use crate::model;
use crate::sys::Mutation::{AcquireToRelaxed, NoFence, NoWake, ReleaseToRelaxed};
use crate::sys::eventfd;
use crate::sys::poll::Deadline;
use crate::sys::socket::Sent;

/// Room for two messages.
pub(crate) const LAYOUT: Layout = Layout::new(0, 64, 8);

pub(crate) fn channel(layout: Layout) -> (SenderCore, ReceiverCore) {
    let (from, to) = sockets().unwrap();
    layout.create(&SharedMemory::of_channel(layout), from, to).unwrap()
}

pub(crate) fn send(sender: &SenderCore, message: u8) -> Sent {
    let bytes = [message; 16];
    let mut sent = 0;
    let outcome = sender.send([Message::without_fds(&bytes)], Deadline::Never, &mut sent).unwrap();
    assert_eq!(sent, usize::from(outcome == Sent::Done));
    outcome
}

/// The next message, or `None` at the end.
pub(crate) fn receive(receiver: &ReceiverCore) -> Option<u8> {
    let mut message = None;
    let take = |bytes: &[u8]| {
        assert!(bytes.len() == 16 && bytes.iter().all(|&byte| byte == bytes[0]), "torn: {bytes:?}");
        message = Some(bytes[0]);
    };
    match receiver.receive(1, Deadline::Never, take).unwrap() {
        ReceiveOutcome::PassedToClosure => message,
        ReceiveOutcome::Disconnected => None,
        other => panic!("{other:?}"),
    }
}

model!(
    frames_arrive_whole_and_in_order, one_to_one, 2,
    detects [ReleaseToRelaxed, AcquireToRelaxed, NoFence, NoWake]
);

/// Sends more frames than the ring holds, so that it wraps around.
fn one_to_one() {
    let (sender, receiver) = channel(LAYOUT);
    let producer = thread::spawn(move || {
        for message in 1..=3 {
            assert_eq!(send(&sender, message), Sent::Done);
        }
    });
    for expected in 1..=3 {
        assert_eq!(receive(&receiver), Some(expected));
    }
    producer.join().unwrap();
}

model!(
    frames_of_several_senders_arrive_once_each, two_to_one, 2,
    detects [ReleaseToRelaxed, AcquireToRelaxed, NoWake]
);

fn two_to_one() {
    let (sender, receiver) = channel(LAYOUT);
    let producers = [1, 2].map(|message| {
        let sender = sender.clone();
        thread::spawn(move || assert_eq!(send(&sender, message), Sent::Done))
    });
    assert_eq!(receive(&receiver).unwrap() + receive(&receiver).unwrap(), 3);
    for producer in producers {
        producer.join().unwrap();
    }
}

model!(frames_go_to_one_receiver_each, one_to_two, 2, detects [ReleaseToRelaxed, AcquireToRelaxed, NoWake]);

fn one_to_two() {
    let (sender, receiver) = channel(LAYOUT);
    let consumers = [(); 2].map(|()| {
        let receiver = receiver.clone();
        thread::spawn(move || receive(&receiver).unwrap())
    });
    for message in [1, 2] {
        assert_eq!(send(&sender, message), Sent::Done);
    }
    let sum: u8 = consumers.into_iter().map(|consumer| consumer.join().unwrap()).sum();
    assert_eq!(sum, 3);
}

model!(a_message_makes_the_descriptor_readable, readiness, 3, detects [NoFence, NoWake]);

/// As `wait_any` and an executor do, the receiver asks whether there is a message, makes the descriptor say
/// so, and polls that. (It is one message: of an exchange and a later store by another thread, loom does not
/// know the order, and so lets a load return the exchange's value after the store's.)
fn readiness() {
    let (sender, receiver) = channel(LAYOUT);
    let producer = thread::spawn(move || assert_eq!(send(&sender, 1), Sent::Done));
    let is_ready = || receiver.wait(Deadline::now()).unwrap();
    while !is_ready() {
        receiver.update_readiness().unwrap();
        eventfd::poll(receiver.poll_fds()[0]);
    }
    assert_eq!(receive(&receiver), Some(1));
    producer.join().unwrap();
}

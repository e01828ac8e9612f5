//! Models of a channel's ring: frames arrive whole, once and in order under every interleaving.

use loom::cell::Cell;
use loom::sync::Arc;
use loom::thread;

use crate::channel::endpoint::{Endpoint, EndpointFds, Side, WaitOutcome};
use crate::ipc::ring::{Memory, Ring};
use crate::ipc::wire::{SharedFd, SharedMemory};
use crate::model;
use crate::sys::EventFd;
use crate::sys::Mutation::{AcquireToRelaxed, NoFence, NoWake, ReleaseToRelaxed};
use crate::sys::poll::Deadline;

/// Room for two frames of eight bytes.
pub(crate) const RING: Ring = Ring::new(0, 32);

/// Memory in which loom reports a byte that is read while another thread may write it.
pub(crate) struct Bytes(Vec<Cell<u8>>);

/// Bytes for the ring, and an endpoint's memory and descriptors.
#[derive(Clone)]
struct SharedMapping {
    bytes: Arc<Bytes>,
    memory: SharedMemory,
    fds: EndpointFds,
}

impl Bytes {
    pub(crate) fn new() -> Self {
        Self((0..32).map(|_| Cell::new(0)).collect())
    }
}

// Loom checks each access to a cell.
impl Memory for Bytes {
    fn write(&self, offset: usize, bytes: &[u8]) {
        for (cell, &byte) in self.0[offset..].iter().zip(bytes) {
            cell.set(byte);
        }
    }

    fn read<R>(&self, offset: usize, length: usize, read: impl FnOnce(&[u8]) -> R) -> R {
        let bytes: Vec<u8> = self.0[offset..offset + length].iter().map(Cell::get).collect();
        read(&bytes)
    }
}

impl SharedMapping {
    fn new() -> Self {
        let descriptor = || SharedFd(Arc::new(EventFd::new()));
        let fds = EndpointFds { socket: descriptor(), eventfds: [descriptor(), descriptor()], namespace: 0 };
        Self { bytes: Arc::new(Bytes::new()), memory: SharedMemory::new(), fds }
    }

    fn side(&self, side: Side) -> Endpoint {
        Endpoint::new(self.memory.clone(), 0, side, self.fds.clone())
    }

    /// Sends as `channel` does.
    fn send(&self, message: u8) {
        let endpoint = self.side(Side::Producers);
        let _guard = endpoint.lock(Deadline::Never).unwrap().unwrap();
        let mut tail = endpoint.position();
        loop {
            let head = endpoint.refresh_peer();
            if RING.put(&*self.bytes, &mut tail, head.bytes, 1, &[&[message; 8]]) {
                break;
            }
            assert_eq!(endpoint.wait(head, Deadline::Never, || ()).unwrap(), WaitOutcome::Ready);
        }
        assert!(endpoint.publish(tail));
    }

    /// Receives as `channel` does.
    fn receive(&self) -> u8 {
        let endpoint = self.side(Side::Consumers);
        let _guard = endpoint.lock(Deadline::Never).unwrap().unwrap();
        let mut head = endpoint.position();
        if endpoint.refresh_peer() == head {
            assert_eq!(endpoint.wait(head, Deadline::Never, || ()).unwrap(), WaitOutcome::Ready);
        }
        let tail = endpoint.refresh_peer();
        assert!(RING.can_hold(head, tail) && tail != head);
        let message = RING.take(&*self.bytes, &mut head, |_, bytes| {
            assert!(bytes.len() == 8 && bytes.iter().all(|&byte| byte == bytes[0]), "torn: {bytes:?}");
            bytes[0]
        });
        assert!(endpoint.publish(head));
        message.expect("a frame")
    }
}

model!(
    frames_arrive_whole_and_in_order, one_to_one, 2,
    detects [ReleaseToRelaxed, AcquireToRelaxed, NoFence, NoWake]
);

/// Sends more frames than the ring holds, so that it wraps around.
fn one_to_one() {
    let shared = SharedMapping::new();
    let producer = {
        let shared = shared.clone();
        thread::spawn(move || (1..=3).for_each(|message| shared.send(message)))
    };
    for expected in 1..=3 {
        assert_eq!(shared.receive(), expected);
    }
    producer.join().unwrap();
}

model!(
    frames_of_several_senders_arrive_once_each, two_to_one, 2,
    detects [ReleaseToRelaxed, AcquireToRelaxed, NoWake]
);

fn two_to_one() {
    let shared = SharedMapping::new();
    let send = |message| {
        let shared = shared.clone();
        thread::spawn(move || shared.send(message))
    };
    let producers = [send(1), send(2)];
    let sum = shared.receive() + shared.receive();
    assert_eq!(sum, 3);
    for producer in producers {
        producer.join().unwrap();
    }
}

model!(frames_go_to_one_receiver_each, one_to_two, 2, detects [ReleaseToRelaxed, AcquireToRelaxed, NoWake]);

fn one_to_two() {
    let shared = SharedMapping::new();
    let receive = || {
        let shared = shared.clone();
        thread::spawn(move || shared.receive())
    };
    let consumers = [receive(), receive()];
    shared.send(1);
    shared.send(2);
    let sum: u8 = consumers.into_iter().map(|consumer| consumer.join().unwrap()).sum();
    assert_eq!(sum, 3);
}

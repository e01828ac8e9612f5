//! Frames arrive whole and in order, wherever processes overtake one another.

use loom::cell::Cell;
use loom::sync::{Arc, Mutex};
use loom::thread;

use crate::alarm::Alarm;
use crate::model;
use crate::ring::{Mark, Memory, Ring};
use crate::sys::Lack::{Fence, Publishing, Seeing, Waking};
use crate::sys::Rung;
use crate::sys::atomic::{AtomicU32, AtomicU64};

/// Room for two frames of eight bytes.
pub(crate) const RING: Ring = Ring::new(0, 32);

/// Memory in which a byte that is read while another thread may write it is an error.
pub(crate) struct Bytes(Vec<Cell<u8>>);

/// Bytes for the ring, and how far both sides have come.
struct Shared {
    bytes: Bytes,
    tail: AtomicU64,
    head: AtomicU64,
    /// The locks of both sides, an alarm for who waits for frames, and what wakes him.
    producers: Mutex<()>,
    consumers: Mutex<()>,
    alarm: AtomicU32,
    bell: Rung,
}

impl Bytes {
    pub(crate) fn new() -> Self {
        Self((0..32).map(|_| Cell::new(0)).collect())
    }
}

// SAFETY is the model's: loom looks at each access to a cell.
impl Memory for Bytes {
    fn write(&self, offset: usize, bytes: &[u8]) {
        for (cell, &byte) in self.0[offset..].iter().zip(bytes) {
            cell.set(byte);
        }
    }

    fn read<R>(&self, offset: usize, length: usize, look: impl FnOnce(&[u8]) -> R) -> R {
        let bytes: Vec<u8> = self.0[offset..offset + length].iter().map(Cell::get).collect();
        look(&bytes)
    }
}

impl Shared {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            bytes: Bytes::new(),
            tail: AtomicU64::new(0),
            head: AtomicU64::new(0),
            producers: Mutex::new(()),
            consumers: Mutex::new(()),
            alarm: AtomicU32::new(0),
            bell: Rung::new(),
        })
    }

    /// As a channel does it, without waiting for room.
    fn send(&self, message: u8) {
        let _guard = self.producers.lock().unwrap();
        let mut tail = Mark::seen(&self.tail);
        while !RING.put(&self.bytes, &mut tail, Mark::seen(&self.head).bytes, 1, &[&[message; 8]]) {
            thread::yield_now();
        }
        tail.publish(&self.tail);
        if let Some(armed) = Alarm(&self.alarm).after_change() {
            self.bell.ring();
            Alarm(&self.alarm).disarm(armed);
        }
    }

    fn receive(&self) -> u8 {
        let _guard = self.consumers.lock().unwrap();
        let mut head = Mark::seen(&self.head);
        while Mark::seen(&self.tail) == head {
            let armed = Alarm(&self.alarm).arm();
            if Mark::seen(&self.tail) == head {
                self.bell.poll_and_clear();
            }
            Alarm(&self.alarm).disarm(armed);
        }
        let message = RING.take(&self.bytes, &mut head, |_, bytes| {
            assert!(bytes.len() == 8 && bytes.iter().all(|&byte| byte == bytes[0]), "torn: {bytes:?}");
            bytes[0]
        });
        head.publish(&self.head);
        message.expect("a frame")
    }
}

model!(frames_arrive_whole_and_in_order, one_to_one, 3, finds [Publishing, Seeing, Fence, Waking]);

/// More frames than find room, so that the ring is gone through more than once.
fn one_to_one() {
    let shared = Shared::new();
    let producer = {
        let shared = Arc::clone(&shared);
        thread::spawn(move || (1..=3).for_each(|message| shared.send(message)))
    };
    for expected in 1..=3 {
        assert_eq!(shared.receive(), expected);
    }
    producer.join().unwrap();
}

model!(frames_of_several_senders_arrive_once_each, two_to_one, 3, finds [Publishing, Seeing, Waking]);

fn two_to_one() {
    let shared = Shared::new();
    let send = |message| {
        let shared = Arc::clone(&shared);
        thread::spawn(move || shared.send(message))
    };
    let producers = [send(1), send(2)];
    let sum = shared.receive() + shared.receive();
    assert_eq!(sum, 3);
    for producer in producers {
        producer.join().unwrap();
    }
}

model!(frames_go_to_one_receiver_each, one_to_two, 3, finds [Publishing, Seeing, Waking]);

fn one_to_two() {
    let shared = Shared::new();
    let receive = || {
        let shared = Arc::clone(&shared);
        thread::spawn(move || shared.receive())
    };
    let consumers = [receive(), receive()];
    shared.send(1);
    shared.send(2);
    let sum: u8 = consumers.into_iter().map(|consumer| consumer.join().unwrap()).sum();
    assert_eq!(sum, 3);
}

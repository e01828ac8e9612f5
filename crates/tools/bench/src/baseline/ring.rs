//! One producer, one consumer, and a ring of bytes between them.

use std::cell::Cell;
use std::hint;
use std::ptr;
use std::sync::atomic::{
    AtomicUsize,
    Ordering::{Acquire, Release},
};
use std::thread;

use anyhow::Result;
use bench::measure::Scale;
use bench::program::Measured;
use bench::stream::{StreamResult, consume, mixed, produce, stamp, stamped, unmixed};
use bench::work::{self, MIB};

use super::memory::{fork, shared, shared_value};

/// Numbers, published to the consumer in batches of this size.
pub(super) fn words(scale: Scale, batch: u64) -> Result<Measured> {
    let ring = Ring::create(64 * 1024)?;
    let child = fork(|| {
        let sent = produce(scale, 8, |number| {
            ring.put(&mixed(number).to_le_bytes());
            // The end is near the last numbers, so everything from there on goes at once.
            if number.is_multiple_of(batch) || number == u64::MAX {
                ring.publish();
            }
            Ok(())
        });
        ring.publish();
        assert!(sent.is_ok());
    })?;
    let flow = consume(|| {
        let mut message = [0; 8];
        ring.take(&mut message);
        Ok(unmixed(u64::from_le_bytes(message)))
    })?;
    child.join()?;
    Ok(flow.millions())
}

/// Messages of a length that both sides know. Small ones are made visible sixteen at a time.
pub(super) fn bytes(scale: Scale, length: usize) -> Result<StreamResult> {
    let ring = Ring::create((4 * length).next_power_of_two().max(64 * 1024))?;
    let child = fork(|| {
        let mut message = work::bytes(length);
        let sent = produce(scale, length, |number| {
            stamp(&mut message, number);
            ring.put(&(length as u64).to_le_bytes());
            ring.put(&message);
            if length >= MIB || number.is_multiple_of(16) || number == u64::MAX {
                ring.publish();
            }
            Ok(())
        });
        ring.publish();
        assert!(sent.is_ok());
    })?;
    let mut message = vec![0; length];
    let flow = consume(|| {
        let mut prefix = [0; 8];
        ring.take(&mut prefix);
        work::check("length of a message", length as u64, u64::from_le_bytes(prefix))?;
        ring.take(&mut message);
        stamped(&message, length)
    })?;
    child.join()?;
    Ok(flow)
}

/// The position of each side, in bytes since the creation.
#[repr(align(128))]
struct Position(AtomicUsize);

struct Positions {
    written: Position,
    read: Position,
}

/// Each side's view of it. After the fork there are two of these.
struct Ring {
    positions: &'static Positions,
    bytes: *mut u8,
    size: usize,
    /// The position of this side, published or not.
    mine: Cell<usize>,
    /// The last loaded position of the other side.
    other: Cell<usize>,
}

impl Ring {
    /// `size` is a power of two.
    fn create(size: usize) -> Result<Self> {
        let (positions, bytes) = (shared_value()?, shared(size)?);
        Ok(Self { positions, bytes, size, mine: Cell::new(0), other: Cell::new(0) })
    }

    fn put(&self, message: &[u8]) {
        let at = self.mine.get();
        let full = |read| at + message.len() - read > self.size;
        if full(self.other.get()) {
            self.publish(); // the consumer can only make room of what it sees
            self.wait_while(&self.positions.read, full);
        }
        let (first, rest) = message.split_at(message.len().min(self.size - at % self.size));
        // SAFETY: the room is within the ring, and the consumer is done with it.
        unsafe { ptr::copy_nonoverlapping(first.as_ptr(), self.bytes.add(at % self.size), first.len()) };
        // SAFETY: as above, from the beginning of the ring on.
        unsafe { ptr::copy_nonoverlapping(rest.as_ptr(), self.bytes, rest.len()) };
        self.mine.set(at + message.len());
    }

    fn publish(&self) {
        self.positions.written.0.store(self.mine.get(), Release);
    }

    fn take(&self, message: &mut [u8]) {
        let at = self.mine.get();
        let length = message.len();
        let empty = |written: usize| written < at + length;
        if empty(self.other.get()) {
            self.positions.read.0.store(at, Release);
            self.wait_while(&self.positions.written, empty);
        }
        let (first, rest) = message.split_at_mut(length.min(self.size - at % self.size));
        // SAFETY: these bytes are published, and the producer leaves them alone until they are read.
        unsafe { ptr::copy_nonoverlapping(self.bytes.add(at % self.size), first.as_mut_ptr(), first.len()) };
        // SAFETY: as above, from the beginning of the ring on.
        unsafe { ptr::copy_nonoverlapping(self.bytes, rest.as_mut_ptr(), rest.len()) };
        self.mine.set(at + length);
        // A large message is room that the producer may be waiting for.
        if length > self.size / 8 || (at ^ (at + length)) & (self.size / 4) != 0 {
            self.positions.read.0.store(at + length, Release);
        }
    }

    fn wait_while(&self, position: &Position, not_yet: impl Fn(usize) -> bool) {
        let mut rounds = 0_u32;
        loop {
            let now = position.0.load(Acquire);
            self.other.set(now);
            if !not_yet(now) {
                return;
            }
            rounds += 1;
            // The other one may have no CPU.
            if rounds.is_multiple_of(10_000) { thread::yield_now() } else { hint::spin_loop() }
        }
    }
}

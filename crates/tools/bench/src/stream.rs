//! Streams of messages that number themselves, so that one that is lost, doubled, torn or out of order is
//! noticed.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::measure::Scale;
use crate::program::Measured;
use crate::work::{check, real};

/// The end mark: this number follows the messages, and then their count.
const END: u64 = u64::MAX;

/// How many messages travel together in a batch.
pub const BATCH: u64 = 1_000;

/// Sends numbered messages for this time, and then the end mark.
pub fn produce(scale: Scale, bytes: usize, mut send: impl FnMut(u64) -> Result<()>) -> Result<()> {
    let count = flow(scale, bytes, &mut send)?;
    send(END)?;
    send(count)
}

/// Sends numbered messages for this time, and returns their number. Reads the clock once every 64 KiB.
pub fn flow(scale: Scale, bytes: usize, mut send: impl FnMut(u64) -> Result<()>) -> Result<u64> {
    let start = Instant::now();
    let between = (64 * 1024 / bytes).max(1) as u64;
    let mut number = 0;
    while start.elapsed() < scale.stream() {
        for number in number..number + between {
            send(number)?;
        }
        number += between;
    }
    Ok(number)
}

/// Receives what [`produce`] sends. The time is from the first message to the end mark.
pub fn consume(mut receive: impl FnMut() -> Result<u64>) -> Result<StreamResult> {
    let first = receive()?;
    let start = Instant::now();
    let mut number = first;
    let mut count = 0;
    while number != END {
        check("number of a message", count, number)?;
        count += 1;
        number = receive()?;
    }
    let time = start.elapsed();
    check("number of messages", receive()?, count)?;
    Ok(StreamResult { messages: usize::try_from(count)?, time })
}

/// The received messages, and the time.
#[derive(Clone, Copy, Debug)]
pub struct StreamResult {
    pub messages: usize,
    pub time: Duration,
}

impl StreamResult {
    /// Millions of messages a second.
    pub fn millions(self) -> Measured {
        let value = real(self.messages) / self.time.as_secs_f64() / 1e6;
        Measured::new(value).with(format!("{} messages", self.messages))
    }

    /// Gigabytes a second.
    pub fn gigabytes(self, bytes: usize) -> Measured {
        let measured = self.millions();
        Measured { value: measured.value * real(bytes) / 1e3, ..measured }
    }
}

/// A number as a message of 8 bytes all of which count.
pub fn mixed(number: u64) -> u64 {
    number.wrapping_mul(FACTOR)
}

/// The number that such a message carries.
pub fn unmixed(message: u64) -> u64 {
    message.wrapping_mul(INVERSE)
}

const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
const INVERSE: u64 = inverse(FACTOR);

/// Of an odd number, modulo 2⁶⁴: each step doubles the bits that are right.
const fn inverse(odd: u64) -> u64 {
    let mut inverse = odd;
    let mut step = 0;
    while step < 6 {
        inverse = inverse.wrapping_mul(2_u64.wrapping_sub(odd.wrapping_mul(inverse)));
        step += 1;
    }
    inverse
}

/// Writes a number to both ends of a message.
pub fn stamp(message: &mut [u8], number: u64) {
    let bytes = number.to_le_bytes();
    message[..8].copy_from_slice(&bytes);
    let end = message.len() - 8;
    message[end..].copy_from_slice(&bytes);
}

/// The number that stands at both ends of a message of the right length.
pub fn stamped(message: &[u8], length: usize) -> Result<u64> {
    check("length of a message", length as u64, message.len() as u64)?;
    let first = u64::from_le_bytes(*message.first_chunk().context("a message has no room for a number")?);
    let last = u64::from_le_bytes(*message.last_chunk().context("a message has no room for a number")?);
    check("number at the end of a message", first, last)?;
    Ok(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::Wrong;

    fn take(messages: &[u64]) -> Result<StreamResult> {
        let mut messages = messages.iter().copied();
        consume(|| messages.next().context("no more"))
    }

    #[test]
    fn what_is_lost_doubled_or_out_of_order_is_noticed() {
        assert_eq!(take(&[0, 1, 2, END, 3]).unwrap().messages, 3);
        for wrong in [&[0, 2, END, 3][..], &[0, 1, 1, 2, END, 3], &[1, 0, END, 2], &[0, 1, END, 3]] {
            assert!(take(wrong).unwrap_err().is::<Wrong>(), "{wrong:?}");
        }
    }

    #[test]
    fn what_is_produced_can_be_consumed() {
        let mut sent = Vec::new();
        produce(Scale { quick: true }, 1 << 20, |number| {
            sent.push(mixed(number));
            std::thread::sleep(Duration::from_millis(10));
            Ok(())
        })
        .unwrap();
        let mut sent = sent.into_iter().map(unmixed);
        assert!(consume(|| sent.next().context("no more")).unwrap().messages > 1);
    }

    #[test]
    fn a_torn_message_is_noticed() {
        let mut message = vec![0; 64];
        stamp(&mut message, 7);
        assert_eq!(stamped(&message, 64).unwrap(), 7);
        assert!(stamped(&message, 65).is_err());
        message[60] = 1;
        assert!(stamped(&message, 64).is_err());
    }
}

//! What a pool and its workers say to each other.
//!
//! An [`Order`] goes to a worker with a frame for each item; a [`Word`] comes back, mostly with a frame for each result.

use serde::{Deserialize, Serialize};

use crate::task::TaskId;

/// What stands in front of a chunk's frames on the way to a worker.
#[derive(Serialize, Deserialize)]
pub(crate) struct Order {
    /// Counts the chunks that this worker has got, from 1.
    pub(crate) serial: u32,
    pub(crate) count: u32,
    pub(crate) task: TaskId,
}

/// What a worker says.
#[derive(Serialize, Deserialize)]
pub(crate) enum Word {
    /// The initializer has run; send work.
    Ready,
    /// The chunk's descriptors have arrived and its items are begun: no other worker will get them.
    Began { serial: u32 },
    /// Results of items `first..first + count` of chunk `serial` follow, a frame each. At the `end` the worker is
    /// free again; it has spent `nanos` nanoseconds, and items that have no result by then it did not begin.
    Report { serial: u32, first: u32, count: u32, end: bool, nanos: u64 },
}

/// A frame with a result begins with one of these.
pub(crate) const VALUE: u8 = 0;
pub(crate) const ERROR: u8 = 1;

/// In front of each frame's bytes stands their number.
pub(crate) const HEAD: usize = 8;

/// Writes the number of a frame's bytes into the head that was left at `start`.
pub(crate) fn finish_frame(bytes: &mut [u8], start: usize) {
    let length = (bytes.len() - start - HEAD) as u64;
    bytes[start..start + HEAD].copy_from_slice(&length.to_le_bytes());
}

/// Begins a frame; [`finish_frame`] ends it.
pub(crate) fn begin_frame(bytes: &mut Vec<u8>) -> usize {
    bytes.extend_from_slice(&[0; HEAD]);
    bytes.len() - HEAD
}

/// The frames in some bytes, as far as they are whole.
pub(crate) struct Frames<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Frames<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_first_chunk()?;
        let (frame, rest) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*head)).ok()?)?;
        self.0 = rest;
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(parts: &[&[u8]]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for part in parts {
            let start = begin_frame(&mut bytes);
            bytes.extend_from_slice(part);
            finish_frame(&mut bytes, start);
        }
        bytes
    }

    #[test]
    fn frames_come_back_as_they_were() {
        let parts: [&[u8]; 3] = [b"one", b"", b"three"];
        assert_eq!(Frames(&framed(&parts)).collect::<Vec<_>>(), parts);
    }

    #[test]
    fn a_torn_frame_is_none() {
        let bytes = framed(&[b"one", b"three"]);
        for length in 0..bytes.len() {
            assert_eq!(Frames(&bytes[..length]).count(), usize::from(length >= 8 + 3));
        }
        assert_eq!(Frames(&[0xff; 40]).count(), 0);
    }
}

//! The reader's side of the ring of log records, in one thread.

use std::sync::Arc;
use std::time::Duration;

use super::progress::LogProgress;
use super::ring::Counts;
use crate::ipc::ring::Position;

pub(super) struct LogReader {
    progress: Arc<LogProgress>,
    /// The end of what was read. The word in shared memory, which a faulty process may overwrite, is for the
    /// writers.
    head: Position,
    /// The number of lost records that were passed on.
    lost: u32,
}

impl LogReader {
    pub(super) fn new(progress: Arc<LogProgress>) -> Self {
        Self { progress, head: Position::START, lost: Counts::START.lost }
    }

    /// Passes each record that was written before this call to `take`, and then the number of lost ones to
    /// `take_lost`. Returns whether there was anything.
    pub(super) fn read(&mut self, mut take: impl FnMut(&[u8]), take_lost: impl FnOnce(u32)) -> bool {
        self.progress.begin_pass();
        let tail = self.progress.ring.tail();
        let has_records = tail.frames_since(self.head) > 0;
        if !has_records {
            // In case a position was overwritten: writers would see no room, and the reader would look for the next
            // record where it is not.
            self.head = tail;
            self.progress.ring.release(self.head);
        }
        while tail.frames_since(self.head) > 0 {
            if let Some(record) = self.next_before(tail) {
                take(&record);
            }
            self.progress.advance(self.counts());
        }
        let lost = self.progress.ring.counts().lost.wrapping_sub(self.lost);
        if lost > 0 {
            take_lost(lost);
            self.lost = self.lost.wrapping_add(lost);
            self.progress.advance(self.counts());
        }
        self.progress.end_pass();
        has_records || lost > 0
    }

    /// Takes the next record. `None` if another process has overwritten the ring: its records are lost.
    fn next_before(&mut self, tail: Position) -> Option<Vec<u8>> {
        let mut next = self.head;
        let record = self.progress.ring.take(&mut next, tail);
        let record = record.filter(|_| next.frames != tail.frames || next.bytes == tail.bytes);
        self.head = if record.is_some() { next } else { tail };
        self.progress.ring.release(self.head); // before the logger runs, which may be slow
        record
    }

    /// What was passed on.
    fn counts(&self) -> Counts {
        Counts { records: self.head.frames, lost: self.lost }
    }

    /// Blocks until there is something to read, for `time` at most.
    pub(super) fn wait(&self, time: Duration) {
        let event = self.progress.ring.event();
        let ticket = event.prepare_wait();
        if self.progress.ring.counts() == self.counts() {
            event.wait(ticket, Some(time));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::ring::LogRing;

    /// Otherwise it would read zeros in place of each further record.
    #[test]
    fn records_come_after_a_position_was_overwritten() {
        for ahead in [8, 800, 40_000, 2_000_000_000] {
            for is_read_before in [false, true] {
                let ring = LogRing::create().unwrap();
                let mut reader = LogReader::new(Arc::new(LogProgress::new(ring.clone())));
                ring.skip(ahead);
                if is_read_before {
                    reader.read(|_| panic!("there is none"), |_| ());
                }
                ring.put(b"the first may be lost");
                reader.read(|_| (), |_| ());
                reader.read(|_| (), |_| ()); // with nothing to read
                let mut seen = Vec::new();
                for record in [b"one", b"two"] {
                    ring.put(record);
                    reader.read(|bytes| seen.push(bytes.to_vec()), |_| ());
                }
                assert_eq!(seen, [b"one", b"two"], "{ahead} {is_read_before}");
            }
        }
    }
}

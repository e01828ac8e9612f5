//! Moving items to a worker: into its rings, or out of line.

use super::WorkerHandle;
use crate::error::{Error, Result};
use crate::ipc::packet::Sent;
use crate::ipc::wire;
use crate::pool::call::TaskHeader;
use crate::pool::chunk::{Body, Chunk};
use crate::pool::worker_rings::TASK_HEADER;
use crate::trace::Submission;

/// The result of a dispatch.
pub(crate) enum Dispatched {
    /// The worker has taken all or part of the chunk.
    Accepted,
    /// The worker has no room, or is dying.
    Full,
    /// The kernel has no room or no descriptor at the moment.
    WouldBlock,
    /// The chunk cannot be sent at all.
    Failed(Error),
}

impl WorkerHandle {
    /// Moves up to `most` items of a chunk to the worker.
    pub(crate) fn dispatch(&mut self, chunk: &mut Chunk, most: u32) -> Dispatched {
        let (start, written) = (self.rings.position(), self.rings.written());
        let submission = Submission::begin(chunk.first);
        let header = TaskHeader { trace: submission.tag(), ..chunk.header() };
        let lacks_segments = self.rings.lacks(&chunk.segments);
        if lacks_segments && self.in_flight.count() > 0 {
            return Dispatched::Full; // it has just said that it lost some
        }
        if (lacks_segments || self.header != Some(header) || chunk.segments != self.named)
            && let Err(unsent) = self.begin_header(header, chunk, lacks_segments)
        {
            return unsent;
        }
        let before = self.in_flight.count();
        let outcome = match &mut chunk.body {
            // If one of the segments is lost, that fails one item.
            Body::Frames { .. } if lacks_segments => self.dispatch_frames(chunk, 1, start),
            Body::Frames { .. } | Body::Values { .. } => self.dispatch_frames(chunk, most, start),
            Body::OutOfLine(message) => {
                let sent = self.rings.send_out_of_line(message);
                self.check_sent(sent, Error::is_shortage_of_descriptors)
                    .map_or_else(|unsent| unsent, |()| self.submit(chunk, 1, start))
            }
        };
        if matches!(outcome, Dispatched::Accepted) {
            self.header = Some(chunk.header()); // that of an item that follows without a gap
            if lacks_segments {
                self.in_flight.pin();
                self.rings.expect_segments_read();
            }
            self.note_submitted(submission, before);
        } else {
            self.rings.truncate(start, self.rings.written().wrapping_sub(written));
            self.header = None;
        }
        outcome
    }

    /// Notes for a trace the items that are in flight since there were `before`.
    fn note_submitted(&mut self, submission: Submission, before: u32) {
        let first = self.rings.results_taken().wrapping_add(before);
        self.submissions.submitted(submission, self.pid(), first, self.in_flight.count() - before);
    }

    /// Whether a dispatch has woken it since the last call.
    pub(crate) fn was_woken(&mut self) -> bool {
        std::mem::take(&mut self.woken)
    }

    /// Writes a header, and sends the segments that it names and the worker lacks.
    fn begin_header(
        &mut self,
        header: TaskHeader,
        chunk: &mut Chunk,
        lacks_segments: bool,
    ) -> Result<(), Dispatched> {
        if lacks_segments {
            // First, since a refusal would leave segments without an item at an idle worker.
            if let Body::OutOfLine(message) = &mut chunk.body
                && let Err(error) = message.spill()
            {
                self.check_sent(Err(error), Error::is_shortage_of_descriptors)?;
            }
            // Whatever the kernel refuses would be the failure of all items of the chunk.
            let sent = self.rings.send_segments(&chunk.segments);
            self.check_sent(sent, |error| error.os_error().is_some())?;
        }
        let mut bytes = Vec::new();
        // Of numbers: cannot fail.
        let _ = wire::encode_internal(&(header, chunk.segments.names()), &mut bytes, "a header");
        if !self.rings.write_header(TASK_HEADER, &bytes, chunk.first_frame_len()) {
            return Err(self.rings_are_full());
        }
        self.named = chunk.segments.identity();
        Ok(())
    }

    /// What becomes of a dispatch if its message was not sent. It is tried again for a time if the error
    /// `may_pass`.
    fn check_sent(
        &mut self,
        sent: Result<Sent>,
        may_pass: impl FnOnce(&Error) -> bool,
    ) -> Result<(), Dispatched> {
        match sent {
            Ok(Sent::Done) => {
                self.shortage.record_success();
                Ok(())
            }
            Ok(Sent::TimedOut) => Err(Dispatched::WouldBlock),
            Ok(Sent::Disconnected) => {
                self.phase.hang_up(); // its exit status tells more than its socket
                Err(Dispatched::Full)
            }
            Err(error) if may_pass(&error) && self.shortage.record_failure() => Err(Dispatched::WouldBlock),
            Err(error) => Err(Dispatched::Failed(error)),
        }
    }

    fn dispatch_frames(&mut self, chunk: &mut Chunk, most: u32, start: u32) -> Dispatched {
        let (frames, count) = chunk.front(most);
        let before = self.rings.written();
        let left = match chunk.body {
            Body::Values { size, .. } => self.rings.write_values(frames, size).len(),
            _ => self.rings.write(frames, count).len(),
        };
        let written = self.rings.written().wrapping_sub(before);
        if written == 0 {
            return self.rings_are_full();
        }
        self.takes_no_more = left > 0;
        let length = frames.len() - left;
        let outcome = self.submit(chunk, written, start);
        if matches!(outcome, Dispatched::Accepted) {
            chunk.advance(written, length);
        }
        outcome
    }

    /// The worker gets nothing until a result makes room, so it must have an item: without one, no result would come.
    fn rings_are_full(&mut self) -> Dispatched {
        debug_assert!(self.in_flight.count() > 0, "an item fits into empty rings");
        self.takes_no_more = true;
        Dispatched::Full
    }

    fn submit(&mut self, chunk: &mut Chunk, count: u32, start: u32) -> Dispatched {
        match self.rings.submit(count) {
            Ok(woken) => self.woken |= woken,
            Err(error) => {
                self.fail_worker(error);
                return Dispatched::Full;
            }
        }
        self.stall_detector.on_submit(self.in_flight.count() == 0);
        self.in_flight.add(chunk, count, start);
        Dispatched::Accepted
    }
}

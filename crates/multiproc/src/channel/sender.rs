//! The sending end of a channel.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use super::{ChannelEnd, Layout, Message, PLAIN, SPILL_THRESHOLD, SPILLED, SenderCore, WITH_FDS};
use crate::channel::batch::Batch;
use crate::channel::endpoint::{EndpointFds, SCRATCH, Side, WaitOutcome};
use crate::error::{Error, Result};
use crate::ipc::frame::split_frame;
use crate::ipc::memfd_cache;
use crate::ipc::ring::Position;
use crate::ipc::wire::SharedMemory;
use crate::sys::atomic::Relaxed;
use crate::sys::failpoint::{self, Failpoint};
use crate::sys::poll::Deadline;
use crate::sys::socket::{self, MAX_DESCRIPTORS, Sent};

/// The position at which a sender has waited for room in vain: the next large message is spilled at once.
const WAITED_AT: usize = SCRATCH[0];
/// After this many bytes a sender refreshes the receivers' position: an empty ring restarts in its cache-hot
/// part.
const REFRESH_EVERY: u32 = 16 * 1024;
/// The wait for room before a message that would fit into the ring is spilled.
const SPILL_DELAY: Duration = Duration::from_millis(1);
/// A sender that found the ring full coalesces until room for this many frames, or for a quarter of those in
/// the ring, is free. The receivers stay busy during that time.
const COALESCE_FRAMES: u32 = 256;

impl SenderCore {
    pub(crate) fn open(layout: Layout, memory: SharedMemory, fds: EndpointFds) -> Result<Self> {
        layout.open(memory, Side::Producers, fds).map(Self)
    }

    /// Sends messages, each whole or not at all. Blocks while there is no room, until the deadline. Adds to
    /// `sent` the number of messages sent, which can be above zero also when the call times out or fails.
    #[inline]
    pub(crate) fn send<'a>(
        &self,
        messages: impl IntoIterator<Item = Message<'a>>,
        deadline: Deadline,
        sent: &mut usize,
    ) -> Result<Sent> {
        let Some(_guard) = self.0.endpoint.lock(deadline)? else { return Ok(Sent::TimedOut) };
        let tail = self.0.endpoint.position();
        if self.peer_hung_up(tail)? {
            return Ok(Sent::Disconnected);
        }
        self.put_all(tail, messages, deadline, sent)
    }

    /// As [`send`](Self::send), for a batch.
    pub(crate) fn send_batch(&self, batch: &Batch, deadline: Deadline, sent: &mut usize) -> Result<Sent> {
        let Some((mut frames, count, last)) = batch.split_last() else {
            return self.send(None, deadline, sent);
        };
        let ChannelEnd { endpoint, ring, layout, .. } = &*self.0;
        let Some(_guard) = endpoint.lock(deadline)? else { return Ok(Sent::TimedOut) };
        let mut tail = endpoint.position();
        if self.peer_hung_up(tail)? {
            return Ok(Sent::Disconnected);
        }
        let head = endpoint.refresh_peer();
        let is_allocated = self.0.is_allocated(tail, frames.len());
        if is_allocated && tail.frames_since(head).saturating_add(count) <= layout.capacity {
            frames = ring.put_frames(endpoint.memory(), &mut tail, self.0.taken(head), frames, count);
        }
        let rest = std::iter::from_fn(|| {
            let (_, bytes, rest) = split_frame(frames)?;
            frames = rest;
            Some(bytes)
        });
        self.put_all(tail, rest.map(Message::without_fds).chain([last]), deadline, sent)
    }

    /// Puts messages into the ring after those that end at `tail`, and publishes all of them.
    #[inline]
    fn put_all<'a>(
        &self,
        mut tail: Position,
        messages: impl IntoIterator<Item = Message<'a>>,
        deadline: Deadline,
        sent: &mut usize,
    ) -> Result<Sent> {
        for message in messages {
            if message.descriptors.is_empty() && self.put(&mut tail, PLAIN, &[message.bytes]) {
                continue;
            }
            if !self.publish(tail, sent) {
                return Ok(Sent::Disconnected);
            }
            match self.put_slow(&mut tail, message, deadline)? {
                Sent::Done => {}
                other => return Ok(other),
            }
        }
        Ok(if self.publish(tail, sent) { Sent::Done } else { Sent::Disconnected })
    }

    /// Puts a frame into the ring if there is room for it.
    #[inline]
    pub(super) fn put(&self, tail: &mut Position, kind: u32, parts: &[&[u8]]) -> bool {
        let ChannelEnd { endpoint, ring, layout, .. } = &*self.0;
        let before = *tail;
        if !self.0.is_allocated(before, parts.iter().map(|part| part.len()).sum()) {
            return false;
        }
        let mut put = |head: Position| {
            tail.frames_since(head) < layout.capacity
                && ring.put(endpoint.memory(), tail, self.0.taken(head), kind, parts)
        };
        if !put(endpoint.cached_peer()) && !put(endpoint.refresh_peer()) {
            return false;
        }
        if before.bytes / REFRESH_EVERY != tail.bytes / REFRESH_EVERY {
            endpoint.refresh_peer();
        }
        true
    }

    #[inline]
    fn publish(&self, tail: Position, sent: &mut usize) -> bool {
        let count = tail.frames_since(self.0.endpoint.position());
        if count == 0 {
            return true;
        }
        let is_published = self.0.endpoint.publish(tail);
        *sent += if is_published { count as usize } else { 0 };
        is_published
    }

    /// Puts a message into the ring that has descriptors, or for which there was no room. All messages before
    /// it are published.
    #[cold]
    fn put_slow(&self, tail: &mut Position, message: Message<'_>, deadline: Deadline) -> Result<Sent> {
        let endpoint = &self.0.endpoint;
        if self.0.layout.is_sparse() {
            return self.put_unbounded(tail, message);
        }
        loop {
            let head = endpoint.refresh_peer();
            if !self.0.ring.can_hold(head, *tail) {
                return Err(Error::decode("the receivers' position", "it is beyond the senders' position"));
            }
            let is_full = tail.frames_since(head) >= self.0.layout.capacity;
            let has_waited = endpoint.scratch(WAITED_AT).load(Relaxed) == head.bytes | 1;
            let spills = message.bytes.len() > SPILL_THRESHOLD && (has_waited || deadline.is_over());
            let before = *tail;
            let outcome = if is_full { Ok(None) } else { self.put_or_spill(tail, message, spills, deadline) };
            if !matches!(outcome, Ok(Some(Sent::Done))) {
                *tail = before;
            }
            if let Some(sent) = outcome? {
                return Ok(sent);
            }
            // A message that is to be spilled, and was not put, found no room even for its small frame.
            let spills_next = !is_full && !spills && message.bytes.len() > SPILL_THRESHOLD;
            let until = if spills_next { deadline.or_within(SPILL_DELAY) } else { deadline };
            endpoint.coalesce(head, COALESCE_FRAMES.min(tail.frames_since(head) / 4));
            match endpoint.wait(head, until, || ())? {
                WaitOutcome::Ready => {}
                WaitOutcome::Disconnected => return Ok(Sent::Disconnected),
                WaitOutcome::TimedOut if spills_next => {
                    endpoint.scratch(WAITED_AT).store(head.bytes | 1, Relaxed);
                }
                WaitOutcome::TimedOut => return Ok(Sent::TimedOut),
            }
        }
    }

    /// As [`put_slow`](Self::put_slow), but does not wait for room.
    fn put_unbounded(&self, tail: &mut Position, message: Message<'_>) -> Result<Sent> {
        let length = if self.is_too_large(message.bytes) { size_of::<u64>() } else { message.bytes.len() };
        self.0.allocate(*tail, length + size_of::<u64>())?;
        let before = *tail;
        let outcome = self.put_or_spill(tail, message, false, Deadline::now());
        if !matches!(outcome, Ok(Some(Sent::Done))) {
            *tail = before;
        }
        outcome.map(|sent| sent.unwrap_or(Sent::TimedOut))
    }

    /// Whether a message never lies in the ring.
    fn is_too_large(&self, bytes: &[u8]) -> bool {
        bytes.len() > self.0.ring.largest() - size_of::<u64>()
    }

    /// Puts a message into the ring; or into a memfd, if it `spills` or is too large for the ring. `None`
    /// when it has to wait for room.
    fn put_or_spill(
        &self,
        tail: &mut Position,
        message: Message<'_>,
        spills: bool,
        deadline: Deadline,
    ) -> Result<Option<Sent>> {
        let Message { bytes, descriptors } = message;
        if descriptors.is_empty() && self.put(tail, PLAIN, &[bytes]) {
            return Ok(Some(Sent::Done));
        }
        // One more travels if it is spilled.
        let most = MAX_DESCRIPTORS - usize::from(bytes.len() > SPILL_THRESHOLD);
        if descriptors.len() > most {
            let count = descriptors.len();
            return Err(Error::invalid(format!(
                "a message of {} bytes holds {count} descriptors; at most {most} can travel at once",
                bytes.len()
            )));
        }
        let sequence = self.0.endpoint.next_sequence();
        let mut descriptors: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
        if !descriptors.is_empty() && self.put(tail, WITH_FDS, &[&sequence.to_ne_bytes(), bytes]) {
            return self.send_ancillary(sequence, &descriptors, deadline).map(Some);
        }
        let spills = spills || self.is_too_large(bytes);
        let length = (bytes.len() as u64).to_ne_bytes();
        if !spills || !self.put(tail, SPILLED, &[&sequence.to_ne_bytes(), &length]) {
            return Ok(None);
        }
        let memfd = memfd_cache::write(bytes)?.fd;
        descriptors.push(memfd.as_fd());
        self.send_ancillary(sequence, &descriptors, deadline).map(Some)
    }

    pub(super) fn send_ancillary(
        &self,
        sequence: u64,
        descriptors: &[BorrowedFd<'_>],
        deadline: Deadline,
    ) -> Result<Sent> {
        let socket = self.0.endpoint.fds().socket.as_fd();
        let sent = socket::send(socket, &[&sequence.to_ne_bytes()], descriptors, deadline);
        failpoint::hit(Failpoint::AncillarySent);
        sent
    }
}

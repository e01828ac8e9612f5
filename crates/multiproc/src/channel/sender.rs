//! The end that messages are put into.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use super::{End, Layout, Message, PLAIN, SPILL_THRESHOLD, SPILLED, SenderCore, WITH_FDS};
use crate::channel::batch::Batch;
use crate::channel::endpoint::{EndpointFds, SCRATCH, Side, WaitOutcome};
use crate::error::{Error, Result};
use crate::ipc::frame::split_frame;
use crate::ipc::ring::Position;
use crate::ipc::wire::SharedMemory;
use crate::sys::atomic::Relaxed;
use crate::sys::failpoint::{self, Failpoint};
use crate::sys::mapping;
use crate::sys::poll::Deadline;
use crate::sys::socket::{self, MAX_DESCRIPTORS, Sent};

/// What the senders note: where waiting for room was in vain, when to look next whether any receiver is left, and how far
/// the receivers had come when that was last looked at.
const FULL_TRIES: usize = SCRATCH[0];
const PEER_CHECK_AT: usize = SCRATCH[1];
const PEER_HAD_TAKEN: usize = SCRATCH[2];
/// So many messages go off at most without a look whether any receiver is left.
const PEER_CHECK_EVERY: u32 = 64;
/// So often, counted in bytes, a sender looks whether the ring has become empty, to stay in its warm part.
const SPIN_AHEAD: u32 = 16 * 1024;
/// How long to wait for room in the ring before a message is spilled that could lie in it.
const SPILL_DELAY: Duration = Duration::from_millis(1);
/// Where the ring is full, room for so many frames, or for a quarter of those in it, is worth a delay: receivers have
/// enough to do meanwhile.
const LOCK_TIMEOUT: u32 = 256;

impl SenderCore {
    /// An end of what [`Layout::create`] has made.
    pub(crate) fn open(plan: Layout, pages: SharedMemory, links: EndpointFds) -> Result<Self> {
        plan.open(pages, Side::Producers, links).map(Self)
    }

    /// To be called once for a channel: nothing has been taken yet.
    pub(super) fn begin(&self) {
        self.0.endpoint.scratch(PEER_HAD_TAKEN).store(Position::START.frames, Relaxed);
    }

    /// Sends messages, each whole or not at all; blocks while there is no room, until the deadline. Adds to `sent` how
    /// many went off, which can be some even where the answer is no, or an error.
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

    /// Sends a batch: as [`send`](Self::send) does.
    pub(crate) fn send_batch(&self, batch: &Batch, deadline: Deadline, sent: &mut usize) -> Result<Sent> {
        let Some((mut frames, count, last)) = batch.split_last() else {
            return self.send(None, deadline, sent);
        };
        let End { endpoint, ring, plan } = &*self.0;
        let Some(_guard) = endpoint.lock(deadline)? else { return Ok(Sent::TimedOut) };
        let mut tail = endpoint.position();
        if self.peer_hung_up(tail)? {
            return Ok(Sent::Disconnected);
        }
        let head = endpoint.refresh_peer();
        if tail.frames_since(head).saturating_add(count) <= plan.capacity {
            frames = ring.put_frames(endpoint.pages(), &mut tail, head.bytes, frames, count);
        }
        let rest = std::iter::from_fn(|| {
            let (_, bytes, rest) = split_frame(frames)?;
            frames = rest;
            Some(bytes)
        });
        self.put_all(tail, rest.chain([last]).map(Message::plain), deadline, sent)
    }

    /// Puts messages into the ring behind those that end at `tail`, and publishes them all.
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
            match self.put_spilled(&mut tail, message, deadline)? {
                Sent::Done => {}
                other => return Ok(other),
            }
        }
        Ok(if self.publish(tail, sent) { Sent::Done } else { Sent::Disconnected })
    }

    /// Puts a frame into the ring if there is room for it.
    #[inline]
    pub(super) fn put(&self, tail: &mut Position, kind: u32, parts: &[&[u8]]) -> bool {
        let End { endpoint, ring, plan } = &*self.0;
        let before = *tail;
        let mut put = |head: Position| {
            tail.frames_since(head) < plan.capacity
                && ring.put(endpoint.pages(), tail, head.bytes, kind, parts)
        };
        if !put(endpoint.cached_peer()) && !put(endpoint.refresh_peer()) {
            return false;
        }
        if before.bytes / SPIN_AHEAD != tail.bytes / SPIN_AHEAD {
            endpoint.refresh_peer();
        }
        true
    }

    #[inline]
    fn publish(&self, tail: Position, sent: &mut usize) -> bool {
        let more = tail.frames_since(self.0.endpoint.position());
        if more == 0 {
            return true;
        }
        let heard = self.0.endpoint.publish(tail);
        *sent += if heard { more as usize } else { 0 };
        heard
    }

    /// Puts a message into the ring for which there was no room, or which has descriptors. All before it are published.
    #[cold]
    fn put_spilled(&self, tail: &mut Position, message: Message<'_>, deadline: Deadline) -> Result<Sent> {
        let endpoint = &self.0.endpoint;
        loop {
            let head = endpoint.refresh_peer();
            if !self.0.ring.can_hold(head, *tail) {
                return Err(Error::decode("how far the receivers have come", "it is beyond what was sent"));
            }
            let is_full = tail.frames_since(head) >= self.0.plan.capacity;
            let was_in_vain = endpoint.scratch(FULL_TRIES).load(Relaxed) == head.bytes | 1;
            let spills = message.bytes.len() > SPILL_THRESHOLD && (was_in_vain || deadline.is_over());
            let before = *tail;
            let placed = if is_full { Ok(None) } else { self.place(tail, message, spills, deadline) };
            if !matches!(placed, Ok(Some(Sent::Done))) {
                *tail = before;
            }
            if let Some(sent) = placed? {
                return Ok(sent);
            }
            // One that is to be spilled, and is not, finds no room even for the note that says where it is.
            let will_park = !is_full && !spills && message.bytes.len() > SPILL_THRESHOLD;
            let until = if will_park { deadline.or_within(SPILL_DELAY) } else { deadline };
            endpoint.coalesce(head, LOCK_TIMEOUT.min(tail.frames_since(head) / 4));
            match endpoint.wait(head, until, || ())? {
                WaitOutcome::Ready => {}
                WaitOutcome::Disconnected => return Ok(Sent::Disconnected),
                WaitOutcome::TimedOut if will_park => {
                    endpoint.scratch(FULL_TRIES).store(head.bytes | 1, Relaxed)
                }
                WaitOutcome::TimedOut => return Ok(Sent::TimedOut),
            }
        }
    }

    /// Puts a message where it can be: into the ring, or into memory of its own, if it is better spilled than late or too
    /// large for the ring. `None` when it has to wait for room.
    fn place(
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
        let number = self.0.endpoint.next_sequence();
        let mut descriptors: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
        if !descriptors.is_empty() && self.put(tail, WITH_FDS, &[&number.to_ne_bytes(), bytes]) {
            return self.send_ancillary(number, &descriptors, deadline).map(Some);
        }
        let spills = spills || bytes.len() > self.0.ring.largest() - size_of::<u64>();
        let length = (bytes.len() as u64).to_ne_bytes();
        if !spills || !self.put(tail, SPILLED, &[&number.to_ne_bytes(), &length]) {
            return Ok(None);
        }
        let memory = mapping::memfd_write(bytes)?;
        descriptors.push(memory.as_fd());
        self.send_ancillary(number, &descriptors, deadline).map(Some)
    }

    pub(super) fn send_ancillary(
        &self,
        number: u64,
        descriptors: &[BorrowedFd<'_>],
        deadline: Deadline,
    ) -> Result<Sent> {
        if descriptors.len() > MAX_DESCRIPTORS {
            return Err(Error::invalid(format!(
                "a message with {} descriptors is too many",
                descriptors.len()
            )));
        }
        let socket = self.0.endpoint.fds().socket.as_fd();
        let sent = socket::send(socket, &[&number.to_ne_bytes()], descriptors, deadline);
        failpoint::hit(Failpoint::AncillarySent);
        sent
    }

    /// Whether no receiver is left. To ask the system takes a call, which is spared while messages are being taken: each
    /// that was taken is worth two that go off without a look, up to a limit. (Besides, it is asked when one has to wait
    /// for room, and when a receiver is to be woken.)
    #[inline]
    fn peer_hung_up(&self, tail: Position) -> Result<bool> {
        let left = self.0.endpoint.scratch(PEER_CHECK_AT).load(Relaxed).wrapping_sub(tail.frames);
        if (1..=PEER_CHECK_EVERY).contains(&left) && self.0.receivers().load(Relaxed) > 0 {
            return Ok(false);
        }
        self.check_peer(tail)
    }

    #[cold]
    fn check_peer(&self, tail: Position) -> Result<bool> {
        let endpoint = &self.0.endpoint;
        let taken = endpoint.refresh_peer().frames;
        let lately = taken.wrapping_sub(endpoint.scratch(PEER_HAD_TAKEN).load(Relaxed));
        endpoint.scratch(PEER_HAD_TAKEN).store(taken, Relaxed);
        endpoint
            .scratch(PEER_CHECK_AT)
            .store(tail.frames.wrapping_add(lately.saturating_mul(2).min(PEER_CHECK_EVERY)), Relaxed);
        Ok((lately == 0 || self.0.receivers().load(Relaxed) == 0) && endpoint.peer_hung_up()?)
    }

    /// How many messages are inside.
    pub(crate) fn len(&self) -> u32 {
        self.0.endpoint.len()
    }
}

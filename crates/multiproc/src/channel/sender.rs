//! The end that messages are put into.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use super::{ACCOMPANIED, End, Message, PARKED, PLAIN, Plan, SMALL, Sending};
use crate::channel::batch::Batch;
use crate::channel::endpoint::{Links, NOTES, Side, Waited};
use crate::error::{Error, Result};
use crate::ipc::frame::split_frame;
use crate::ipc::ring::Mark;
use crate::ipc::wire::Pages;
use crate::sys::atomic::Relaxed;
use crate::sys::failpoint::{self, Failpoint};
use crate::sys::mapping;
use crate::sys::poll::Deadline;
use crate::sys::socket::{self, MAX_DESCRIPTORS, Sent};

/// What the senders note: where waiting for room was in vain, when to look next whether any receiver is left, and how far
/// the receivers had come when that was last looked at.
const IN_VAIN: usize = NOTES[0];
const LOOK_AT: usize = NOTES[1];
const HAD_TAKEN: usize = NOTES[2];
/// So many messages go off at most without a look whether any receiver is left.
const LOOK_AROUND: u32 = 64;
/// So often, counted in bytes, a sender looks whether the ring has become empty, to stay in its warm part.
const LOOK_AHEAD: u32 = 16 * 1024;
/// How long to wait for room in the ring before a message is parked that could lie in it.
const RATHER_NOT_PARK: Duration = Duration::from_millis(1);
/// Where the ring is full, room for so many frames, or for a quarter of those in it, is worth a delay: receivers have
/// enough to do meanwhile.
const ENOUGH: u32 = 256;

impl Sending {
    /// An end of what [`Plan::create`] has made.
    pub(crate) fn open(plan: Plan, pages: Pages, links: Links) -> Result<Self> {
        plan.open(pages, Side::Producers, links).map(Self)
    }

    /// To be called once for a channel: nothing has been taken yet.
    pub(super) fn begin(&self) {
        self.0.lane.note(HAD_TAKEN).store(Mark::START.frames, Relaxed);
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
        let Some(_guard) = self.0.lane.enter(deadline)? else { return Ok(Sent::NotYet) };
        let tail = self.0.lane.mark();
        if self.is_abandoned(tail)? {
            return Ok(Sent::Gone);
        }
        self.put_all(tail, messages, deadline, sent)
    }

    /// Sends a batch: as [`send`](Self::send) does.
    pub(crate) fn send_batch(&self, batch: &Batch, deadline: Deadline, sent: &mut usize) -> Result<Sent> {
        let Some((mut frames, count, last)) = batch.split_last() else {
            return self.send(None, deadline, sent);
        };
        let End { lane, ring, plan } = &*self.0;
        let Some(_guard) = lane.enter(deadline)? else { return Ok(Sent::NotYet) };
        let mut tail = lane.mark();
        if self.is_abandoned(tail)? {
            return Ok(Sent::Gone);
        }
        let head = lane.look_and_remember();
        if tail.frames_since(head).saturating_add(count) <= plan.capacity {
            frames = ring.put_frames(lane.pages(), &mut tail, head.bytes, frames, count);
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
        mut tail: Mark,
        messages: impl IntoIterator<Item = Message<'a>>,
        deadline: Deadline,
        sent: &mut usize,
    ) -> Result<Sent> {
        for message in messages {
            if message.descriptors.is_empty() && self.put(&mut tail, PLAIN, &[message.bytes]) {
                continue;
            }
            if !self.publish(tail, sent) {
                return Ok(Sent::Gone);
            }
            match self.put_later(&mut tail, message, deadline)? {
                Sent::Yes => {}
                other => return Ok(other),
            }
        }
        Ok(if self.publish(tail, sent) { Sent::Yes } else { Sent::Gone })
    }

    /// Puts a frame into the ring if there is room for it.
    #[inline]
    pub(super) fn put(&self, tail: &mut Mark, kind: u32, parts: &[&[u8]]) -> bool {
        let End { lane, ring, plan } = &*self.0;
        let before = *tail;
        let mut put = |head: Mark| {
            tail.frames_since(head) < plan.capacity && ring.put(lane.pages(), tail, head.bytes, kind, parts)
        };
        if !put(lane.seen()) && !put(lane.look_and_remember()) {
            return false;
        }
        if before.bytes / LOOK_AHEAD != tail.bytes / LOOK_AHEAD {
            lane.look_and_remember();
        }
        true
    }

    #[inline]
    fn publish(&self, tail: Mark, sent: &mut usize) -> bool {
        let more = tail.frames_since(self.0.lane.mark());
        if more == 0 {
            return true;
        }
        let heard = self.0.lane.publish(tail);
        *sent += if heard { more as usize } else { 0 };
        heard
    }

    /// Puts a message into the ring for which there was no room, or which has descriptors. All before it are published.
    #[cold]
    fn put_later(&self, tail: &mut Mark, message: Message<'_>, deadline: Deadline) -> Result<Sent> {
        let lane = &self.0.lane;
        loop {
            let head = lane.look_and_remember();
            if !self.0.ring.can_hold(head, *tail) {
                return Err(Error::decode("how far the receivers have come", "it is beyond what was sent"));
            }
            let is_full = tail.frames_since(head) >= self.0.plan.capacity;
            let was_in_vain = lane.note(IN_VAIN).load(Relaxed) == head.bytes | 1;
            let parks = message.bytes.len() > SMALL && (was_in_vain || deadline.is_over());
            let before = *tail;
            let placed = if is_full { Ok(None) } else { self.place(tail, message, parks, deadline) };
            if !matches!(placed, Ok(Some(Sent::Yes))) {
                *tail = before;
            }
            if let Some(sent) = placed? {
                return Ok(sent);
            }
            // One that is to be parked, and is not, finds no room even for the note that says where it is.
            let will_park = !is_full && !parks && message.bytes.len() > SMALL;
            let until = if will_park { deadline.or_within(RATHER_NOT_PARK) } else { deadline };
            lane.give_head_start(head, ENOUGH.min(tail.frames_since(head) / 4));
            match lane.wait(head, until, || ())? {
                Waited::Ready => {}
                Waited::Gone => return Ok(Sent::Gone),
                Waited::NotYet if will_park => lane.note(IN_VAIN).store(head.bytes | 1, Relaxed),
                Waited::NotYet => return Ok(Sent::NotYet),
            }
        }
    }

    /// Puts a message where it can be: into the ring, or into memory of its own, if it is better parked than late or too
    /// large for the ring. `None` when it has to wait for room.
    fn place(
        &self,
        tail: &mut Mark,
        message: Message<'_>,
        parks: bool,
        deadline: Deadline,
    ) -> Result<Option<Sent>> {
        let Message { bytes, descriptors } = message;
        if descriptors.is_empty() && self.put(tail, PLAIN, &[bytes]) {
            return Ok(Some(Sent::Yes));
        }
        let number = self.0.lane.next_companion();
        let mut descriptors: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
        if !descriptors.is_empty() && self.put(tail, ACCOMPANIED, &[&number.to_ne_bytes(), bytes]) {
            return self.accompany(number, &descriptors, deadline).map(Some);
        }
        let parks = parks || bytes.len() > self.0.ring.largest() - size_of::<u64>();
        let length = (bytes.len() as u64).to_ne_bytes();
        if !parks || !self.put(tail, PARKED, &[&number.to_ne_bytes(), &length]) {
            return Ok(None);
        }
        let memory = mapping::store(bytes)?;
        descriptors.push(memory.as_fd());
        self.accompany(number, &descriptors, deadline).map(Some)
    }

    pub(super) fn accompany(
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
        let socket = self.0.lane.links().socket.as_fd();
        let sent = socket::send(socket, &[&number.to_ne_bytes()], descriptors, deadline);
        failpoint::hit(Failpoint::AncillarySent);
        sent
    }

    /// Whether no receiver is left. To ask the system takes a call, which is spared while messages are being taken: each
    /// that was taken is worth two that go off without a look, up to a limit. (Besides, it is asked when one has to wait
    /// for room, and when a receiver is to be woken.)
    #[inline]
    fn is_abandoned(&self, tail: Mark) -> Result<bool> {
        let left = self.0.lane.note(LOOK_AT).load(Relaxed).wrapping_sub(tail.frames);
        if (1..=LOOK_AROUND).contains(&left) && self.0.receivers().load(Relaxed) > 0 {
            return Ok(false);
        }
        self.look_around(tail)
    }

    #[cold]
    fn look_around(&self, tail: Mark) -> Result<bool> {
        let lane = &self.0.lane;
        let taken = lane.look_and_remember().frames;
        let lately = taken.wrapping_sub(lane.note(HAD_TAKEN).load(Relaxed));
        lane.note(HAD_TAKEN).store(taken, Relaxed);
        lane.note(LOOK_AT)
            .store(tail.frames.wrapping_add(lately.saturating_mul(2).min(LOOK_AROUND)), Relaxed);
        Ok((lately == 0 || self.0.receivers().load(Relaxed) == 0) && lane.is_abandoned()?)
    }

    /// How many messages are inside.
    pub(crate) fn inside(&self) -> u32 {
        self.0.lane.inside()
    }
}

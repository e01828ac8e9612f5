//! Messages from any number of processes to any number of processes, through a ring in shared memory: what a queue is,
//! and each direction of a pipe.
//!
//! A frame in the ring is a message, or says where one is. Descriptors travel in a packet of their own, the *companion*
//! of a frame; so does the memory in which a message is parked for which the ring has no room. The companion is sent
//! before its frame is published, and thrown away after the frame has been taken. Each has a number, which is in both;
//! so whoever takes the frame finds its companion, also behind those of the dead.
//!
//! No code of a user's runs under a lock: messages are encoded before, and decoded after.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::lane::{AREAS, Lane, Links, NOTES, Side, Waited};
use crate::ring::{Mark, Ring};
use crate::sys::atomic::{AtomicU32, Relaxed};
use crate::sys::eventfd;
use crate::sys::memory;
use crate::sys::poll::Deadline;
use crate::sys::socket::{self, MAX_DESCRIPTORS, Sent};
use crate::wire::{Handle, Pages};

/// A message up to this size (bytes) waits for room in the ring; a larger one is parked in memory of its own when there
/// is none, so that its sender need not wait.
pub(crate) const SMALL: usize = 32 * 1024;

/// Where in shared memory a channel lies, and how much it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    start: usize,
    size: u32,
    capacity: u32,
}

/// The end that messages are put into. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Sending(Arc<End>);

/// The end that messages are taken from. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Receiving(Arc<End>);

struct End {
    lane: Lane,
    ring: Ring,
    plan: Plan,
}

/// What is to be sent.
#[derive(Clone, Copy)]
pub(crate) struct Message<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) descriptors: &'a [Handle],
}

/// What came.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// Messages that have been shown.
    Shown,
    /// A message that did not lie in the ring, or came with descriptors.
    Whole(Vec<u8>, Vec<OwnedFd>),
    /// The deadline came first.
    NotYet,
    /// The last sender is gone, and everything it had sent has been received.
    Gone,
}

/// What a frame is: the message; its companion's number and the message; or its companion's number, whose last
/// descriptor is for the memory that holds the message, and how long that is.
const PLAIN: u32 = 0;
const ACCOMPANIED: u32 = 1;
const PARKED: u32 = 2;

/// Behind the lane's areas: how many receiving ends there are, save those of the killed, or on their way.
const RECEIVERS: usize = AREAS;
const HEADER: usize = AREAS + 128;

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

/// A pair of sockets for a channel, or for two in opposite directions.
pub(crate) fn sockets() -> Result<(Handle, Handle)> {
    let (a, b) = socket::pair()?;
    for end in [&a, &b] {
        socket::reserve(end.as_fd(), 4 * 1024 * 1024)?; // for companions; the system grants as much as it likes
    }
    Ok((a.into(), b.into()))
}

impl Plan {
    /// A channel from the byte `start` on, with a ring of `size` bytes, for up to `capacity` messages.
    pub(crate) const fn new(start: usize, size: u32, capacity: u32) -> Self {
        Self { start, size, capacity }
    }

    /// Where it ends.
    pub(crate) const fn end(self) -> usize {
        self.start + HEADER + self.size as usize
    }

    /// Makes a channel in zeroed memory, between the ends of a pair of sockets.
    pub(crate) fn create(self, pages: &Pages, from: Handle, to: Handle) -> Result<(Sending, Receiving)> {
        Lane::create(pages, self.start)?;
        let bells = [eventfd::create()?.into(), eventfd::create()?.into()];
        let sending = Sending::open(self, pages.clone(), Links { socket: from, bells: bells.clone() })?;
        Ok((sending, Receiving::open(self, pages.clone(), Links { socket: to, bells })?))
    }

    pub(crate) fn capacity(self) -> u32 {
        self.capacity
    }

    fn open(self, pages: Pages, side: Side, links: Links) -> Result<Arc<End>> {
        if pages.size().get() < self.end() {
            return Err(Error::decode("shared memory", "it is smaller than agreed"));
        }
        let ring = Ring::new(self.start + HEADER, self.size);
        Ok(Arc::new(End { lane: Lane::new(pages, self.start, side, links), ring, plan: self }))
    }
}

impl Sending {
    /// An end of what [`Plan::create`] has made.
    pub(crate) fn open(plan: Plan, pages: Pages, links: Links) -> Result<Self> {
        plan.open(pages, Side::Producers, links).map(Self)
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
        let mut tail = self.0.lane.mark();
        if self.is_abandoned(tail)? {
            return Ok(Sent::Gone);
        }
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
    fn put(&self, tail: &mut Mark, kind: u32, parts: &[&[u8]]) -> bool {
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
            let is_full = tail.frames_since(head) >= self.0.plan.capacity;
            let before = *tail;
            let placed = if is_full { Ok(None) } else { self.place(tail, message, head, deadline) };
            if !matches!(placed, Ok(Some(Sent::Yes))) {
                *tail = before;
            }
            if let Some(sent) = placed? {
                return Ok(sent);
            }
            let may_park = !is_full && message.bytes.len() > SMALL;
            let until = if may_park { deadline.or_within(RATHER_NOT_PARK) } else { deadline };
            match lane.wait(|| lane.look() != head, until)? {
                Waited::Ready => {}
                Waited::Gone => return Ok(Sent::Gone),
                Waited::NotYet if may_park => lane.note(IN_VAIN).store(head.bytes | 1, Relaxed),
                Waited::NotYet => return Ok(Sent::NotYet),
            }
        }
    }

    /// Puts a message where it can be: into the ring, or into memory of its own. `None` when it has to wait for room.
    fn place(
        &self,
        tail: &mut Mark,
        message: Message<'_>,
        head: Mark,
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
        let was_in_vain = self.0.lane.note(IN_VAIN).load(Relaxed) == head.bytes | 1;
        let park = bytes.len() > self.0.ring.largest() - size_of::<u64>()
            || bytes.len() > SMALL && (was_in_vain || deadline.is_over());
        let length = (bytes.len() as u64).to_ne_bytes();
        if !park || !self.put(tail, PARKED, &[&number.to_ne_bytes(), &length]) {
            return Ok(None);
        }
        let memory = memory::store(bytes)?;
        descriptors.push(memory.as_fd());
        self.accompany(number, &descriptors, deadline).map(Some)
    }

    fn accompany(&self, number: u64, descriptors: &[BorrowedFd<'_>], deadline: Deadline) -> Result<Sent> {
        if descriptors.len() > MAX_DESCRIPTORS {
            return Err(Error::invalid(format!(
                "a message with {} descriptors is too many",
                descriptors.len()
            )));
        }
        socket::send(self.0.lane.links().socket.as_fd(), &[&number.to_ne_bytes()], descriptors, deadline)
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

impl Receiving {
    /// An end of what [`Plan::create`] has made.
    pub(crate) fn open(plan: Plan, pages: Pages, links: Links) -> Result<Self> {
        let end = plan.open(pages, Side::Consumers, links)?;
        end.receivers().fetch_add(1, Relaxed);
        Ok(Self(end))
    }

    /// Receives up to `max` messages; blocks while there is none, until the deadline. Each is shown under the lock, or
    /// given whole, and then alone.
    #[inline]
    pub(crate) fn receive(
        &self,
        max: u32,
        deadline: Deadline,
        mut show: impl FnMut(&[u8]),
    ) -> Result<Incoming> {
        let End { lane, ring, .. } = &*self.0;
        let Some(_guard) = lane.enter(deadline)? else { return Ok(Incoming::NotYet) };
        let mut head = lane.mark();
        let first = head;
        let tail = match lane.seen() {
            seen if seen.frames_since(head) >= max => seen,
            _ => lane.look_and_remember(),
        };
        let tail = if tail == head {
            match lane.wait(|| lane.look() != head, deadline)? {
                Waited::Ready => lane.look_and_remember(),
                Waited::NotYet => return Ok(Incoming::NotYet),
                Waited::Gone => return Ok(Incoming::Gone),
            }
        } else {
            tail
        };
        for _ in 0..tail.frames_since(head).min(max) {
            let mut next = head;
            let taken = ring.take(lane.pages(), &mut next, |kind, bytes| match kind {
                PLAIN => {
                    show(bytes);
                    None
                }
                _ => Some((kind, bytes.to_vec())),
            });
            match taken {
                Some(None) => head = next,
                Some(Some(_)) if head != first => break, // its own turn comes
                Some(Some((kind, frame))) => return self.fetch(next, kind, &frame),
                None => {
                    lane.publish(tail); // or it would be so for ever
                    return Err(Error::decode("a message", "there is no frame where it should be"));
                }
            }
        }
        lane.publish(head);
        Ok(Incoming::Shown)
    }

    /// Takes a frame that has a companion, up to `next`. When the system refuses what it takes, nothing is taken.
    #[cold]
    fn fetch(&self, next: Mark, kind: u32, frame: &[u8]) -> Result<Incoming> {
        let whole = self.find(kind, frame);
        if let Err(error) = &whole
            && !error.is_codec()
        {
            return whole;
        }
        self.0.lane.publish(next);
        if whole.is_ok() {
            socket::discard(self.socket());
        }
        whole
    }

    /// The message whose frame this is. Its companion stays where it is, in case we die before the frame is taken.
    fn find(&self, kind: u32, frame: &[u8]) -> Result<Incoming> {
        let (number, rest) =
            frame.split_first_chunk().ok_or_else(|| Error::decode("a message", "its frame is too short"))?;
        let mut descriptors = self.companion(u64::from_ne_bytes(*number))?;
        if kind != PARKED {
            return Ok(Incoming::Whole(rest.to_vec(), descriptors));
        }
        let length = rest.first_chunk().and_then(|bytes| usize::try_from(u64::from_ne_bytes(*bytes)).ok());
        let (Some(length), Some(memory)) = (length, descriptors.pop()) else {
            return Err(Error::decode("a message", "its memory did not come with it"));
        };
        Ok(Incoming::Whole(memory::load(memory, length, &[])?, descriptors))
    }

    /// Duplicates of the descriptors of the companion with this number, which then is the next packet.
    fn companion(&self, number: u64) -> Result<Vec<OwnedFd>> {
        let mut packet = [0; size_of::<u64>()];
        while let Some((_, descriptors)) = socket::peek(self.socket(), &mut packet)? {
            match u64::from_ne_bytes(packet) {
                its_number if its_number == number => return Ok(descriptors),
                its_number if its_number > number => break,
                _ => socket::discard(self.socket()), // its frame never came, or has been taken
            }
        }
        Err(Error::decode("a message", "its descriptors did not come with it"))
    }

    fn socket(&self) -> BorrowedFd<'_> {
        self.0.lane.links().socket.as_fd()
    }

    /// Waits until [`receive`](Self::receive) would not block; says whether that came before the deadline.
    pub(crate) fn wait(&self, deadline: Deadline) -> Result<bool> {
        let lane = &self.0.lane;
        let Some(_guard) = lane.enter(deadline)? else { return Ok(false) };
        let head = lane.mark();
        Ok(lane.look() != head || lane.wait(|| lane.look() != head, deadline)? != Waited::NotYet)
    }
}

impl Receiving {
    /// Makes [`bell`](Self::bell) readable exactly while there are messages. Does nothing while somebody is receiving,
    /// who has to call it after.
    pub(crate) fn show(&self) -> Result<()> {
        let lane = &self.0.lane;
        let Some(_guard) = lane.enter(Deadline::now())? else { return Ok(()) };
        lane.show(|| lane.look() != lane.mark());
        Ok(())
    }

    /// What wakes one who receives.
    pub(crate) fn bell(&self) -> &Handle {
        self.0.lane.bell()
    }
}

macro_rules! parts {
    ($($end:ident),*) => {$(
        /// What another process needs to open this end.
        impl $end {
            pub(crate) fn pages(&self) -> &Pages {
                self.0.lane.pages()
            }

            pub(crate) fn links(&self) -> &Links {
                self.0.lane.links()
            }

            pub(crate) fn plan(&self) -> Plan {
                self.0.plan
            }
        }
    )*};
}

parts!(Sending, Receiving);

impl<'a> Message<'a> {
    /// A message without descriptors.
    pub(crate) fn plain(bytes: &'a [u8]) -> Self {
        Self { bytes, descriptors: &[] }
    }
}

impl IntoIterator for Message<'_> {
    type Item = Self;
    type IntoIter = std::option::IntoIter<Self>;

    fn into_iter(self) -> Self::IntoIter {
        Some(self).into_iter()
    }
}

impl End {
    fn receivers(&self) -> &AtomicU32 {
        self.lane.pages().word32(self.plan.start + RECEIVERS)
    }
}

impl Drop for End {
    fn drop(&mut self) {
        if self.lane.side() == Side::Consumers {
            self.receivers().fetch_sub(1, Relaxed);
        }
    }
}

impl fmt::Debug for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "End({:?})", self.lane.side())
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;

    fn channel() -> (Sending, Receiving) {
        let plan = Plan::new(0, 64 * 1024, 10);
        let pages = Pages::create(NonZeroUsize::new(plan.end()).unwrap()).unwrap();
        let (from, to) = sockets().unwrap();
        plan.create(&pages, from, to).unwrap()
    }

    fn send(sending: &Sending, bytes: &[u8]) {
        let sent = sending.send(Message::plain(bytes), Deadline::now(), &mut 0).unwrap();
        assert_eq!(sent, Sent::Yes);
    }

    fn receive(receiving: &Receiving) -> Result<Vec<u8>> {
        let mut shown = Vec::new();
        match receiving.receive(1, Deadline::now(), |bytes| shown.extend_from_slice(bytes))? {
            Incoming::Shown => Ok(shown),
            Incoming::Whole(bytes, _) => Ok(bytes),
            other => panic!("{other:?}"),
        }
    }

    /// One was killed after he had sent a companion, and before he had published its frame; another after he had
    /// published that a frame was taken, and before he had thrown its companion away.
    #[test]
    fn companions_of_the_dead_are_passed_over() {
        let (sending, receiving) = channel();
        for round in 0..3 {
            let number = sending.0.lane.next_companion();
            let memory = memory::store(b"never published").unwrap();
            let sent = sending.accompany(number, &[memory.as_fd()], Deadline::now()).unwrap();
            assert_eq!(sent, Sent::Yes);
            send(&sending, &vec![round; 100_000]);
            let mut head = receiving.0.lane.mark();
            let frame = receiving.0.ring.take(receiving.pages(), &mut head, |_, bytes| bytes.to_vec());
            let Incoming::Whole(bytes, _) = receiving.find(PARKED, &frame.unwrap()).unwrap() else {
                panic!()
            };
            assert!(bytes == vec![round; 100_000]);
            receiving.0.lane.publish(head);
            send(&sending, &vec![round + 1; 200_000]);
            assert!(receive(&receiving).unwrap() == vec![round + 1; 200_000]);
        }
        assert!(socket::peek(receiving.socket(), &mut [0; 8]).unwrap().is_none());
    }

    #[test]
    fn frames_of_nonsense_are_errors_and_do_not_stay() {
        let (sending, receiving) = channel();
        let mut tail = sending.0.lane.mark();
        let frames: [(u32, &[u8]); 5] =
            [(ACCOMPANIED, &[]), (PARKED, &[1; 7]), (PARKED, &[1; 8]), (PARKED, &[9; 16]), (7, &[0; 8])];
        for (kind, bytes) in frames {
            assert!(sending.put(&mut tail, kind, &[bytes]));
            sending.0.lane.publish(tail);
            assert!(receive(&receiving).unwrap_err().is_codec(), "{kind} {bytes:?}");
            send(&sending, b"sense");
            assert_eq!(receive(&receiving).unwrap(), b"sense");
            tail = sending.0.lane.mark();
        }
        tail.bytes += 1600; // beyond what was written: nothing is there but zeros, or old bytes
        tail.frames += 3;
        sending.0.lane.publish(tail);
        while receiving.0.lane.inside() > 0 {
            let _ = receive(&receiving);
        }
    }
}

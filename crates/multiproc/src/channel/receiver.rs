//! The end that messages are taken from.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::{End, Incoming, PARKED, PLAIN, Plan, Receiving};
use crate::channel::endpoint::{Links, MOST_IN_A_SOCKET, Side, Waited};
use crate::error::{Error, Result};
use crate::ipc::ring::Mark;
use crate::ipc::wire::{Handle, Pages};
use crate::sys::atomic::Relaxed;
use crate::sys::failpoint::{self, Failpoint};
use crate::sys::mapping;
use crate::sys::poll::Deadline;
use crate::sys::socket;

/// So many frames at once are worth a moment's delay of the first one.
const ENOUGH: u32 = 16;

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
        let End { lane, ring, plan } = &*self.0;
        lane.give_way(deadline);
        let Some(_guard) = lane.enter(deadline)? else { return Ok(Incoming::NotYet) };
        let mut head = lane.mark();
        let first = head;
        let tail = match lane.seen() {
            seen if seen.frames_since(head) >= max && ring.can_hold(head, seen) => seen,
            _ => {
                lane.give_head_start(head, ENOUGH.min(plan.capacity / 4));
                lane.look_and_remember()
            }
        };
        let tail = if tail == head {
            match lane.wait(head, deadline, || ring.prefetch(lane.pages(), head))? {
                Waited::Ready => lane.look_and_remember(),
                Waited::NotYet => return Ok(Incoming::NotYet),
                Waited::Gone => return Ok(Incoming::Gone),
            }
        } else {
            tail
        };
        if !ring.can_hold(head, tail) {
            return Err(self.start_anew(tail));
        }
        for _ in 0..tail.frames_since(head).min(max) {
            let mut next = head;
            let taken = ring.take_before(lane.pages(), &mut next, tail.bytes, |kind, bytes| match kind {
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
                None => return Err(self.start_anew(tail)),
            }
        }
        lane.publish(head);
        Ok(Incoming::Shown)
    }

    /// Where there is no frame, though there should be one, all that is there is passed over: else it would be so for ever.
    #[cold]
    fn start_anew(&self, tail: Mark) -> Error {
        self.0.lane.publish(tail);
        Error::decode("a message", "there is no frame where it should be")
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
        failpoint::hit(Failpoint::AncillaryLeft);
        if whole.is_ok() {
            socket::discard(self.socket());
            if let Some(number) = frame.first_chunk() {
                self.0.lane.companion_done(u64::from_ne_bytes(*number));
            }
        }
        whole // one that is of no use is thrown away when the ring is empty
    }

    /// The message whose frame this is. Its companion stays where it is, in case we die before the frame is taken.
    pub(super) fn find(&self, kind: u32, frame: &[u8]) -> Result<Incoming> {
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
        Ok(Incoming::Whole(mapping::load(&memory, length, &[])?, descriptors))
    }

    /// Duplicates of the descriptors of the companion with this number, which then is the next packet.
    fn companion(&self, number: u64) -> Result<Vec<OwnedFd>> {
        let mut packet = [0; size_of::<u64>()];
        for _ in 0..MOST_IN_A_SOCKET {
            let Some((length, descriptors)) = socket::peek(self.socket(), &mut packet)? else { break };
            match u64::from_ne_bytes(packet) {
                _ if length != packet.len() => socket::discard(self.socket()), // no sender of ours sends such a thing
                its_number if its_number == number => return Ok(descriptors),
                its_number if its_number > number => break,
                _ => socket::discard(self.socket()), // its frame never came, or has been taken
            }
        }
        Err(Error::decode("a message", "its descriptors did not come with it"))
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.0.lane.links().socket.as_fd()
    }

    /// Waits until [`receive`](Self::receive) would not block; says whether that came before the deadline.
    pub(crate) fn wait(&self, deadline: Deadline) -> Result<bool> {
        let lane = &self.0.lane;
        lane.give_way(deadline);
        let Some(_guard) = lane.enter(deadline)? else { return Ok(false) };
        let head = lane.mark();
        Ok(lane.look() != head || lane.wait(head, deadline, || ())? != Waited::NotYet)
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

//! The end that messages are taken from.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::{End, Layout, PLAIN, Received, ReceiverCore, SPILLED};
use crate::channel::endpoint::{EndpointFds, SOCKET_LIMIT, Side, WaitOutcome};
use crate::error::{Error, Result};
use crate::ipc::ring::Position;
use crate::ipc::wire::{SharedFd, SharedMemory};
use crate::sys::atomic::Relaxed;
use crate::sys::failpoint::{self, Failpoint};
use crate::sys::mapping;
use crate::sys::poll::Deadline;
use crate::sys::socket;

/// So many frames at once are worth a moment's delay of the first one.
const LOCK_TIMEOUT: u32 = 16;

impl ReceiverCore {
    /// An end of what [`Layout::create`] has made.
    pub(crate) fn open(plan: Layout, pages: SharedMemory, links: EndpointFds) -> Result<Self> {
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
    ) -> Result<Received> {
        let End { endpoint, ring, plan } = &*self.0;
        endpoint.yield_to_woken(deadline);
        let Some(_guard) = endpoint.lock(deadline)? else { return Ok(Received::TimedOut) };
        let mut head = endpoint.position();
        let first = head;
        let tail = match endpoint.cached_peer() {
            seen if seen.frames_since(head) >= max && ring.can_hold(head, seen) => seen,
            _ => {
                endpoint.coalesce(head, LOCK_TIMEOUT.min(plan.capacity / 4));
                endpoint.refresh_peer()
            }
        };
        let tail = if tail == head {
            match endpoint.wait(head, deadline, || ring.prefetch(endpoint.pages(), head))? {
                WaitOutcome::Ready => endpoint.refresh_peer(),
                WaitOutcome::TimedOut => return Ok(Received::TimedOut),
                WaitOutcome::Disconnected => return Ok(Received::Disconnected),
            }
        } else {
            tail
        };
        if !ring.can_hold(head, tail) {
            return Err(self.restart_ring(tail));
        }
        for _ in 0..tail.frames_since(head).min(max) {
            let mut next = head;
            let taken = ring.take_before(endpoint.pages(), &mut next, tail.bytes, |kind, bytes| match kind {
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
                None => return Err(self.restart_ring(tail)),
            }
        }
        endpoint.publish(head);
        Ok(Received::InPlace)
    }

    /// Where there is no frame, though there should be one, all that is there is passed over: else it would be so for ever.
    #[cold]
    fn restart_ring(&self, tail: Position) -> Error {
        self.0.endpoint.publish(tail);
        Error::decode("a message", "there is no frame where it should be")
    }

    /// Takes a frame that has a ancillary packet, up to `next`. When the system refuses what it takes, nothing is taken.
    #[cold]
    fn fetch(&self, next: Position, kind: u32, frame: &[u8]) -> Result<Received> {
        let whole = self.find(kind, frame);
        if let Err(error) = &whole
            && !error.is_codec()
        {
            return whole;
        }
        self.0.endpoint.publish(next);
        failpoint::hit(Failpoint::AncillaryLeft);
        if whole.is_ok() {
            socket::discard(self.socket());
            if let Some(number) = frame.first_chunk() {
                self.0.endpoint.mark_consumed(u64::from_ne_bytes(*number));
            }
        }
        whole // one that is of no use is thrown away when the ring is empty
    }

    /// The message whose frame this is. Its ancillary packet stays where it is, in case we die before the frame is taken.
    pub(super) fn find(&self, kind: u32, frame: &[u8]) -> Result<Received> {
        let (number, rest) =
            frame.split_first_chunk().ok_or_else(|| Error::decode("a message", "its frame is too short"))?;
        let mut descriptors = self.receive_ancillary(u64::from_ne_bytes(*number))?;
        if kind != SPILLED {
            return Ok(Received::Whole(rest.to_vec(), descriptors));
        }
        let length = rest.first_chunk().and_then(|bytes| usize::try_from(u64::from_ne_bytes(*bytes)).ok());
        let (Some(length), Some(memory)) = (length, descriptors.pop()) else {
            return Err(Error::decode("a message", "its memory did not come with it"));
        };
        Ok(Received::Whole(mapping::read(&memory, length, &[])?, descriptors))
    }

    /// Duplicates of the descriptors of the ancillary packet with this number, which then is the next packet.
    fn receive_ancillary(&self, number: u64) -> Result<Vec<OwnedFd>> {
        let mut packet = [0; size_of::<u64>()];
        for _ in 0..SOCKET_LIMIT {
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
        self.0.endpoint.fds().socket.as_fd()
    }

    /// Waits until [`receive`](Self::receive) would not block; says whether that came before the deadline.
    pub(crate) fn wait(&self, deadline: Deadline) -> Result<bool> {
        let endpoint = &self.0.endpoint;
        endpoint.yield_to_woken(deadline);
        let Some(_guard) = endpoint.lock(deadline)? else { return Ok(false) };
        let head = endpoint.position();
        Ok(endpoint.peer_position() != head || endpoint.wait(head, deadline, || ())? != WaitOutcome::TimedOut)
    }
}

impl ReceiverCore {
    /// Makes `eventfd`(Self::event count) readable exactly while there are messages. Does nothing while somebody is receiving,
    /// who has to call it after.
    pub(crate) fn update_readiness(&self) -> Result<()> {
        let endpoint = &self.0.endpoint;
        let Some(_guard) = endpoint.lock(Deadline::now())? else { return Ok(()) };
        endpoint.update_readiness(|| endpoint.peer_position() != endpoint.position());
        Ok(())
    }

    /// What wakes one who receives.
    pub(crate) fn eventfd(&self) -> &SharedFd {
        self.0.endpoint.eventfd()
    }
}

//! The receiving end of a channel.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::{ChannelEnd, Layout, PLAIN, ReceiveOutcome, ReceiverCore, SPILLED};
use crate::channel::endpoint::{EndpointFds, MAX_ANCILLARY_PACKETS, NextPacket, Side, WaitOutcome};
use crate::error::{Error, Result};
use crate::ipc::ring::Position;
use crate::ipc::wire::SharedMemory;
use crate::sys::atomic::Relaxed;
use crate::sys::failpoint::{self, Failpoint};
use crate::sys::memfd;
use crate::sys::poll::Deadline;
use crate::sys::socket;

/// A batch of this many bytes takes no more messages: their number and lengths come from another process, and the lock
/// is held meanwhile.
pub(super) const BATCH_BYTES: u32 = 1024 * 1024;

/// A receiver coalesces until at most this many frames are there.
const COALESCE_FRAMES: u32 = 16;

impl ReceiverCore {
    pub(crate) fn open(layout: Layout, memory: SharedMemory, fds: EndpointFds) -> Result<Self> {
        let end = layout.open(memory, Side::Consumers, fds)?;
        end.receivers().fetch_add(1, Relaxed);
        Ok(Self(end))
    }

    /// Receives up to `max` messages, and no further one after [`BATCH_BYTES`]. Blocks while there is none, until the
    /// deadline. `take` is given each message under the lock; a message that is [returned](ReceiveOutcome::Owned)
    /// comes alone.
    #[inline]
    pub(crate) fn receive(
        &self,
        max: u32,
        deadline: Deadline,
        take: impl FnMut(&[u8]),
    ) -> Result<ReceiveOutcome> {
        self.receive_noting(max, deadline, take, |_| ())
    }

    /// As [`receive`](Self::receive); gives a message that comes [whole](ReceiveOutcome::Owned) to `note`,
    /// before it is taken: if this process is killed in between, another one takes the message.
    #[inline]
    pub(crate) fn receive_noting(
        &self,
        max: u32,
        deadline: Deadline,
        mut take: impl FnMut(&[u8]),
        note: impl FnOnce(&[u8]),
    ) -> Result<ReceiveOutcome> {
        let ChannelEnd { endpoint, ring, layout, .. } = &*self.0;
        endpoint.yield_to_woken(deadline);
        let Some(_guard) = endpoint.lock(deadline)? else { return Ok(ReceiveOutcome::TimedOut) };
        let mut head = endpoint.position();
        let first = head;
        let tail = match endpoint.cached_peer() {
            cached if cached.frames_since(head) >= max && ring.can_hold(head, cached) => cached,
            _ => {
                endpoint.coalesce(head, COALESCE_FRAMES.min(layout.capacity / 4));
                endpoint.refresh_peer()
            }
        };
        let tail = if tail == head {
            match endpoint.wait(head, deadline, || ring.prefetch(endpoint.memory(), head))? {
                WaitOutcome::Ready => endpoint.refresh_peer(),
                WaitOutcome::TimedOut => return Ok(ReceiveOutcome::TimedOut),
                WaitOutcome::Disconnected => return Ok(ReceiveOutcome::Disconnected),
            }
        } else {
            tail
        };
        if !ring.can_hold(head, tail) {
            return Err(self.skip_to(tail));
        }
        for _ in 0..tail.frames_since(head).min(max).min(layout.capacity) {
            if head.bytes.wrapping_sub(first.bytes) >= BATCH_BYTES {
                break;
            }
            let mut next = head;
            let taken =
                ring.take_before(endpoint.memory(), &mut next, tail.bytes, |kind, bytes| match kind {
                    PLAIN => {
                        take(bytes);
                        None
                    }
                    _ => Some((kind, bytes.to_vec())),
                });
            match taken {
                Some(None) => head = next,
                Some(Some(_)) if head != first => break, // the next call takes it
                Some(Some((kind, frame))) => return self.take_with_ancillary(next, kind, &frame, note),
                None => return Err(self.skip_to(tail)),
            }
        }
        endpoint.publish(head);
        self.0.release(head);
        Ok(ReceiveOutcome::PassedToClosure)
    }

    /// Skips all bytes up to `tail`, which hold no frame where one should be; else each later call would
    /// fail, too.
    #[cold]
    fn skip_to(&self, tail: Position) -> Error {
        self.0.endpoint.publish(tail);
        self.0.release(tail);
        Error::decode("a message", "there is no frame where it should be")
    }

    /// Takes a frame that has an ancillary packet and ends at `next`. When the kernel refuses to receive the
    /// packet, the frame stays.
    #[cold]
    fn take_with_ancillary(
        &self,
        next: Position,
        kind: u32,
        frame: &[u8],
        note: impl FnOnce(&[u8]),
    ) -> Result<ReceiveOutcome> {
        let message = self.read_message(kind, frame);
        if let Ok(ReceiveOutcome::Owned(bytes, _)) = &message {
            note(bytes);
        }
        if let Err(error) = &message
            && !error.is_codec()
        {
            return message;
        }
        self.0.endpoint.publish(next);
        self.0.release(next);
        failpoint::hit(Failpoint::AncillaryLeft);
        if message.is_ok() {
            socket::discard(self.socket());
            if let Some(sequence) = frame.first_chunk() {
                self.0.endpoint.mark_consumed(u64::from_ne_bytes(*sequence));
            }
        }
        message // the packet of one that does not decode is discarded when the ring is empty
    }

    /// The message of this frame. Its packet stays in the socket, in case this process dies before the frame
    /// is taken.
    pub(super) fn read_message(&self, kind: u32, frame: &[u8]) -> Result<ReceiveOutcome> {
        let (sequence, rest) =
            frame.split_first_chunk().ok_or_else(|| Error::decode("a message", "its frame is too short"))?;
        let mut descriptors = self.peek_ancillary(u64::from_ne_bytes(*sequence))?;
        if kind != SPILLED {
            return Ok(ReceiveOutcome::Owned(rest.to_vec(), descriptors));
        }
        let length = rest.first_chunk().and_then(|bytes| usize::try_from(u64::from_ne_bytes(*bytes)).ok());
        let (Some(length), Some(memfd)) = (length, descriptors.pop()) else {
            return Err(Error::decode("a message", "its memory did not come with it"));
        };
        Ok(ReceiveOutcome::Owned(memfd::read(&memfd, length, &[])?, descriptors))
    }

    /// Duplicates of the descriptors of the packet with this number, which then is the next one in the
    /// socket.
    fn peek_ancillary(&self, sequence: u64) -> Result<Vec<OwnedFd>> {
        let mut packet = [0; size_of::<u64>()];
        for _ in 0..MAX_ANCILLARY_PACKETS {
            let Some((length, descriptors)) = socket::peek(self.socket(), &mut packet)? else { break };
            match u64::from_ne_bytes(packet) {
                _ if length != packet.len() => socket::discard(self.socket()), // not from this library
                found if found == sequence => return Ok(descriptors),
                found if found > sequence => break,
                _ => socket::discard(self.socket()), // its frame never came, or has been taken
            }
        }
        Err(Error::decode("a message", "its descriptors did not come with it"))
    }

    /// Frees the receivers' lock, for the channel's only receiver, while it does not receive: a process has overwritten
    /// the lock, or an earlier receiver has died as its holder.
    pub(crate) fn reset_lock(&self) {
        self.0.endpoint.reset_lock();
    }

    /// Discards the packets that an earlier receiver has left, which was killed when it had taken their frames.
    /// Until the next receiver finds the ring empty, or takes another frame with a packet, they hold their
    /// descriptors open. Blocks while another thread holds the lock.
    pub(crate) fn discard_orphans(&self) -> Result<()> {
        if let Some(_guard) = self.0.endpoint.lock(Deadline::Never)? {
            self.0.endpoint.discard(|| self.next_packet());
        }
        Ok(())
    }

    fn next_packet(&self) -> NextPacket {
        let ChannelEnd { endpoint, ring, .. } = &*self.0;
        let (mut head, tail) = (endpoint.position(), endpoint.peer_position());
        if !ring.can_hold(head, tail) {
            return NextPacket::Unknown;
        }
        while head != tail {
            let number = |kind, frame: &[u8]| (kind != PLAIN).then(|| frame.first_chunk().copied());
            match ring.take_before(endpoint.memory(), &mut head, tail.bytes, number) {
                Some(None) => {}
                Some(Some(Some(number))) => return NextPacket::Number(u64::from_ne_bytes(number)),
                Some(Some(None)) | None => return NextPacket::Unknown,
            }
        }
        NextPacket::None
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.0.endpoint.fds().socket.as_fd()
    }

    /// Waits until [`receive`](Self::receive) would not block; `false` when the deadline comes first.
    pub(crate) fn wait(&self, deadline: Deadline) -> Result<bool> {
        let endpoint = &self.0.endpoint;
        endpoint.yield_to_woken(deadline);
        let Some(_guard) = endpoint.lock(deadline)? else { return Ok(false) };
        let head = endpoint.position();
        Ok(endpoint.peer_position() != head || endpoint.wait(head, deadline, || ())? != WaitOutcome::TimedOut)
    }

    /// The eventfd that [`update_readiness`](Self::update_readiness) makes readable, and the socket that is hung
    /// up when no sender is left.
    pub(crate) fn poll_fds(&self) -> [BorrowedFd<'_>; 2] {
        [self.0.endpoint.eventfd().as_fd(), self.socket()]
    }

    /// Makes the receivers' eventfd readable exactly while there are messages. Does nothing, and returns `false`, while
    /// another thread is receiving, which calls this afterwards.
    pub(crate) fn update_readiness(&self) -> Result<bool> {
        let endpoint = &self.0.endpoint;
        let Some(_guard) = endpoint.lock(Deadline::now())? else { return Ok(false) };
        endpoint.update_readiness(|| endpoint.peer_position() != endpoint.position());
        Ok(true)
    }
}

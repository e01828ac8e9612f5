//! A channel: messages from any number of processes to any number of processes, through a ring in shared
//! memory. A queue is one channel, a pipe is two.
//!
//! A frame in the ring holds a message, or says where one is. Descriptors travel in a packet beside the
//! frame, its *ancillary packet*; so does the memfd to which a message is spilled that finds no room in the
//! ring. A sender sends the packet before it publishes the frame; a receiver discards the packet after it has
//! taken the frame. Both carry the same sequence number, so a receiver finds the packet of its frame after
//! packets that belong to no frame because their processes were killed. It discards those on the way, or when
//! the ring is empty.
//!
//! No user code runs under a lock: messages are encoded before it is taken, and decoded after it is released.

pub(crate) mod batch;
pub(crate) mod endpoint;
pub(crate) mod errors;
pub(crate) mod readiness;
mod receiver;
mod receiver_liveness;
mod sender;
mod unbounded;
pub(crate) mod wakeup_flag;

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use crate::channel::batch::PLAIN;
use crate::channel::endpoint::{AREAS, Endpoint, EndpointFds, Side};
use crate::channel::receiver_liveness::LivenessCache;
use crate::error::{Error, Result};
use crate::ipc::ring::Ring;
use crate::ipc::wire::{SharedFd, SharedMemory};
use crate::sys::atomic::{AtomicU32, Relaxed};
use crate::sys::eventfd;
use crate::sys::failpoint::{self, Failpoint};
use crate::sys::fork_detect::OriginalProcess;
use crate::sys::socket;
use crate::sys::thread_id;

/// A message up to this size (bytes) waits for room in the ring. A larger one is spilled to a memfd when the
/// ring has no room, so that its sender need not wait.
pub(crate) const SPILL_THRESHOLD: usize = 32 * 1024;

/// A channel's place in shared memory, and its capacity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    start: usize,
    size: u32,
    capacity: u32,
    /// Receiving may end with [`TimedOut`](ReceiveOutcome::TimedOut) before the deadline.
    times_out_early: bool,
}

/// The sending end. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct SenderCore(Arc<ChannelEnd>);

/// The receiving end. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct ReceiverCore(Arc<ChannelEnd>);

/// One end of a channel in this process.
pub(crate) struct ChannelEnd {
    endpoint: Endpoint,
    ring: Ring,
    layout: Layout,
    liveness: LivenessCache,
    /// A receiving end is counted for this process, and not for its forked copies.
    original: OriginalProcess,
}

/// A message to send.
#[derive(Clone, Copy)]
pub(crate) struct Message<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) descriptors: &'a [SharedFd],
}

/// The outcome of receiving.
#[derive(Debug)]
pub(crate) enum ReceiveOutcome {
    /// The caller's closure was given the messages.
    PassedToClosure,
    /// A message that did not lie in the ring, or came with descriptors.
    Owned(Vec<u8>, Vec<OwnedFd>),
    TimedOut,
    /// The last sender is gone, and everything that it sent has been received.
    Disconnected,
}

/// The kinds of frames beside [`PLAIN`]. This one holds the sequence number of an ancillary packet, and the
/// message.
const WITH_FDS: u32 = 1;
/// The sequence number of an ancillary packet, whose last descriptor is the memfd of the message, and its
/// length.
const SPILLED: u32 = 2;

/// Behind the endpoint's areas: how many receiving ends were opened and not dropped, and whether the channel
/// is [`CLOSED`]. The ends of a killed process stay counted; ends in transit are not counted.
const RECEIVERS: usize = AREAS;
/// Makes the count of receivers negative, so senders ask the kernel, which has shut down the sockets.
const CLOSED: u32 = 1 << 31;
const HEADER: usize = AREAS + 128;

/// A pair of sockets for a channel, or for two in opposite directions.
pub(crate) fn sockets() -> Result<(SharedFd, SharedFd)> {
    let (a, b) = socket::pair()?;
    for end in [&a, &b] {
        socket::reserve(end.as_fd(), 4 * 1024 * 1024)?; // for ancillary packets; the kernel may grant less
    }
    Ok((a.into(), b.into()))
}

impl Layout {
    /// A channel from the byte `start` on, with a ring of `size` bytes, for up to `capacity` messages.
    pub(crate) const fn new(start: usize, size: u32, capacity: u32) -> Self {
        Self { start, size, capacity, times_out_early: false }
    }

    /// Such a channel whose receiver, with any deadline, gets control after half a second of waiting: it has more to
    /// check than the kernel's hang-up, and may find its lock overwritten.
    pub(crate) const fn with_early_timeouts(self) -> Self {
        Self { times_out_early: true, ..self }
    }

    /// In messages.
    pub(crate) fn capacity(self) -> u32 {
        self.capacity
    }

    /// The first byte after the channel.
    pub(crate) const fn end(self) -> usize {
        self.start + HEADER + self.size as usize
    }

    /// Makes a channel in zeroed memory, between the ends of a pair of sockets.
    pub(crate) fn create(
        self,
        memory: &SharedMemory,
        from: SharedFd,
        to: SharedFd,
    ) -> Result<(SenderCore, ReceiverCore)> {
        Endpoint::create(memory, self.start);
        unbounded::create(self, memory);
        let eventfds = [eventfd::create()?.into(), eventfd::create()?.into()];
        let sender_fds = EndpointFds { socket: from, eventfds, namespace: thread_id::namespace() };
        let receiver_fds = EndpointFds { socket: to, ..sender_fds.clone() };
        let sender = SenderCore::open(self, memory.clone(), sender_fds)?;
        sender.init_liveness();
        Ok((sender, ReceiverCore::open(self, memory.clone(), receiver_fds)?))
    }

    /// The number of messages that the channel holds, if that is limited.
    pub(crate) fn limit(self) -> Option<usize> {
        (!self.is_sparse()).then_some(self.capacity as usize)
    }

    fn open(self, memory: SharedMemory, side: Side, fds: EndpointFds) -> Result<Arc<ChannelEnd>> {
        if memory.size().get() < self.end() {
            return Err(Error::decode("shared memory", "it is smaller than agreed"));
        }
        let ring = Ring::new(self.start + HEADER, self.size);
        let ring = if self.is_sparse() { ring.without_restart() } else { ring };
        Ok(Arc::new(ChannelEnd {
            endpoint: Endpoint::new(memory, self.start, side, fds, self.times_out_early),
            ring,
            layout: self,
            liveness: LivenessCache::default(),
            original: OriginalProcess::current(),
        }))
    }
}

impl SenderCore {
    pub(crate) fn end(&self) -> &ChannelEnd {
        &self.0
    }
}

impl ReceiverCore {
    pub(crate) fn end(&self) -> &ChannelEnd {
        &self.0
    }
}

impl ChannelEnd {
    pub(crate) fn memory(&self) -> &SharedMemory {
        self.endpoint.memory()
    }

    pub(crate) fn fds(&self) -> &EndpointFds {
        self.endpoint.fds()
    }

    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    pub(crate) fn len(&self) -> usize {
        self.endpoint.len().min(self.layout.capacity) as usize
    }

    /// Whether all processes of the other side are gone; `false` if the kernel does not tell.
    pub(crate) fn peer_hung_up(&self) -> bool {
        self.endpoint.peer_hung_up().unwrap_or(false)
    }

    /// Ends the channel for all its ends in all processes: nothing can be sent any more, and receivers meet the
    /// end after what was sent. The kernel keeps this state, so it holds if this process is killed meanwhile.
    pub(crate) fn close(&self) {
        // First, or a sender that has not asked the kernel lately could send after the end that receivers met.
        self.refuse_messages();
        failpoint::hit(Failpoint::ChannelClosing);
        socket::hang_up(self.fds().socket.as_fd());
    }

    /// Makes all later sends fail. Only [`close`](Self::close), of this channel or of one with the same sockets,
    /// makes that an end.
    pub(crate) fn refuse_messages(&self) {
        self.receivers().fetch_or(CLOSED, Relaxed);
    }

    /// Whether a receiver is counted, and the channel is not closed.
    fn has_receivers(&self) -> bool {
        self.receivers().load(Relaxed).cast_signed() > 0
    }

    fn receivers(&self) -> &AtomicU32 {
        self.memory().word32(self.layout.start + RECEIVERS)
    }
}

impl Drop for ChannelEnd {
    fn drop(&mut self) {
        if self.endpoint.side() == Side::Consumers && self.original.is_current() {
            self.receivers().fetch_sub(1, Relaxed);
        }
    }
}

impl fmt::Debug for ChannelEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChannelEnd({:?})", self.endpoint.side())
    }
}

impl<'a> Message<'a> {
    pub(crate) fn without_fds(bytes: &'a [u8]) -> Self {
        Self { bytes, descriptors: &[] }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod fuzz;

#[cfg(test)]
#[cfg(not(loom))]
mod tests;

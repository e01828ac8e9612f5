//! Messages from any number of processes to any number of processes, through a ring in shared memory: what a queue is,
//! and each direction of a pipe.
//!
//! A frame in the ring is a message, or says where one is. Descriptors travel in a packet of their own, the *ancillary packet*
//! of a frame; so does the memory in which a message is spilled for which the ring has no room. The ancillary packet is sent
//! before its frame is published, and thrown away after the frame has been taken. Each has a number, which is in both;
//! so whoever takes the frame finds its ancillary packet, also behind those of the dead. These are thrown away then, or when the
//! ring is empty.
//!
//! No code of a user's runs under a lock: messages are encoded before, and decoded after.

pub(crate) mod batch;
pub(crate) mod endpoint;
pub(crate) mod readiness;
mod receiver;
mod sender;
mod wakeup_flag;

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use crate::channel::batch::PLAIN;
use crate::channel::endpoint::{AREAS, Endpoint, EndpointFds, Side};
use crate::error::{Error, Result};
use crate::ipc::ring::Ring;
use crate::ipc::wire::{SharedFd, SharedMemory};
use crate::sys::atomic::{AtomicU32, Relaxed};
use crate::sys::eventfd;
use crate::sys::socket;
use crate::sys::thread_id;

/// A message up to this size (bytes) waits for room in the ring; a larger one is spilled in memory of its own when there
/// is none, so that its sender need not wait.
pub(crate) const SPILL_THRESHOLD: usize = 32 * 1024;

/// Where in shared memory a channel lies, and how much it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    start: usize,
    size: u32,
    capacity: u32,
}

/// The end that messages are put into. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct SenderCore(Arc<End>);

/// The end that messages are taken from. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct ReceiverCore(Arc<End>);

struct End {
    endpoint: Endpoint,
    ring: Ring,
    plan: Layout,
}

/// What is to be sent.
#[derive(Clone, Copy)]
pub(crate) struct Message<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) descriptors: &'a [SharedFd],
}

/// What came.
#[derive(Debug)]
pub(crate) enum Received {
    /// Messages that have been shown.
    InPlace,
    /// A message that did not lie in the ring, or came with descriptors.
    Whole(Vec<u8>, Vec<OwnedFd>),
    /// The deadline came first.
    TimedOut,
    /// The last sender is gone, and everything it had sent has been received.
    Disconnected,
}

/// What a frame is, if it is not [`PLAIN`]: its ancillary packet's number and the message; or its ancillary packet's number, whose last
/// descriptor is for the memory that holds the message, and how long that is.
const WITH_FDS: u32 = 1;
const SPILLED: u32 = 2;

/// Behind the endpoint's areas: how many receiving ends there are, save those of the killed, or on their way.
const RECEIVERS: usize = AREAS;
const HEADER: usize = AREAS + 128;

/// A pair of sockets for a channel, or for two in opposite directions.
pub(crate) fn sockets() -> Result<(SharedFd, SharedFd)> {
    let (a, b) = socket::pair()?;
    for end in [&a, &b] {
        socket::reserve(end.as_fd(), 4 * 1024 * 1024)?; // for ancillary packets; the system grants as much as it likes
    }
    Ok((a.into(), b.into()))
}

impl Layout {
    /// A channel from the byte `start` on, with a ring of `size` bytes, for up to `capacity` messages.
    pub(crate) const fn new(start: usize, size: u32, capacity: u32) -> Self {
        Self { start, size, capacity }
    }

    /// Where it ends.
    pub(crate) const fn end(self) -> usize {
        self.start + HEADER + self.size as usize
    }

    /// Makes a channel in zeroed memory, between the ends of a pair of sockets.
    pub(crate) fn create(
        self,
        pages: &SharedMemory,
        from: SharedFd,
        to: SharedFd,
    ) -> Result<(SenderCore, ReceiverCore)> {
        Endpoint::create(pages, self.start);
        let bells = [eventfd::create()?.into(), eventfd::create()?.into()];
        let namespace = thread_id::namespace();
        let sender = SenderCore::open(
            self,
            pages.clone(),
            EndpointFds { socket: from, bells: bells.clone(), namespace },
        )?;
        sender.begin();
        Ok((sender, ReceiverCore::open(self, pages.clone(), EndpointFds { socket: to, bells, namespace })?))
    }

    pub(crate) fn capacity(self) -> u32 {
        self.capacity
    }

    fn open(self, pages: SharedMemory, side: Side, links: EndpointFds) -> Result<Arc<End>> {
        if pages.size().get() < self.end() {
            return Err(Error::decode("shared memory", "it is smaller than agreed"));
        }
        let ring = Ring::new(self.start + HEADER, self.size);
        Ok(Arc::new(End { endpoint: Endpoint::new(pages, self.start, side, links), ring, plan: self }))
    }
}

macro_rules! parts {
    ($($end:ident),*) => {$(
        /// What another process needs to open this end.
        impl $end {
            pub(crate) fn pages(&self) -> &SharedMemory {
                self.0.endpoint.pages()
            }

            pub(crate) fn fds(&self) -> &EndpointFds {
                self.0.endpoint.fds()
            }

            pub(crate) fn plan(&self) -> Layout {
                self.0.plan
            }
        }
    )*};
}

parts!(SenderCore, ReceiverCore);

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
        self.endpoint.pages().word32(self.plan.start + RECEIVERS)
    }
}

impl Drop for End {
    fn drop(&mut self) {
        if self.endpoint.side() == Side::Consumers {
            self.receivers().fetch_sub(1, Relaxed);
        }
    }
}

impl fmt::Debug for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "End({:?})", self.endpoint.side())
    }
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::num::NonZeroUsize;
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::channel::batch::Batch;
    use crate::sys::mapping;
    use crate::sys::poll::Deadline;
    use crate::sys::socket::Sent;

    pub(super) fn channel() -> (SenderCore, ReceiverCore) {
        channel_of(Layout::new(0, 64 * 1024, 10))
    }

    fn channel_of(plan: Layout) -> (SenderCore, ReceiverCore) {
        let pages = SharedMemory::create(NonZeroUsize::new(plan.end()).unwrap()).unwrap();
        let (from, to) = sockets().unwrap();
        plan.create(&pages, from, to).unwrap()
    }

    fn send(sender: &SenderCore, bytes: &[u8]) {
        let sent = sender.send(Message::plain(bytes), Deadline::now(), &mut 0).unwrap();
        assert_eq!(sent, Sent::Done);
    }

    /// Of all lengths, up to such as no ring has room for; in rings that are full by messages, by bytes, or at their end.
    #[test]
    fn batches_come_out_as_they_went_in() {
        for capacity in [1, 7, 600, u32::MAX] {
            let (sender, receiver) = channel_of(Layout::new(0, 64 * 1024, capacity));
            let (mut state, mut next, mut inside) = (1_u64, 0_u64, VecDeque::new());
            let mut random = move |below: u64| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) % below
            };
            for _ in 0..2_000 {
                let (mut batch, mut lengths) = (Batch::default(), Vec::new());
                while !batch.is_complete() && random(50) > 0 {
                    let most = if random(20) == 0 { 100_000 } else { 300 };
                    let mut bytes = vec![1; usize::try_from(8 + random(most)).unwrap()];
                    bytes[..8].copy_from_slice(&(next + lengths.len() as u64).to_ne_bytes());
                    batch.add(&bytes);
                    lengths.push(bytes.len());
                }
                let mut sent = 0;
                let outcome = sender.send_batch(&batch, Deadline::now(), &mut sent).unwrap();
                assert_eq!(outcome == Sent::Done, sent == lengths.len(), "{outcome:?}");
                inside.extend(lengths[..sent].iter().copied().zip(next..));
                next += sent as u64;
                assert!(sender.len() <= capacity && sender.len() as usize == inside.len());
                for _ in 0..random(2 * inside.len() as u64 + 1) {
                    let Some((length, number)) = inside.pop_front() else { break };
                    let bytes = receive(&receiver).unwrap();
                    assert_eq!((&bytes[..8], bytes.len()), (&u64::to_ne_bytes(number)[..], length));
                }
            }
        }
    }

    fn receive(receiver: &ReceiverCore) -> Result<Vec<u8>> {
        let mut shown = Vec::new();
        match receiver.receive(1, Deadline::now(), |bytes| shown.extend_from_slice(bytes))? {
            Received::InPlace => Ok(shown),
            Received::Whole(bytes, _) => Ok(bytes),
            other => panic!("{other:?}"),
        }
    }

    /// One was killed after he had sent a ancillary packet, and before he had published its frame; another after he had
    /// published that a frame was taken, and before he had thrown its ancillary packet away.
    #[test]
    fn companions_of_the_dead_are_passed_over() {
        let (sender, receiver) = channel();
        for round in 0..3 {
            let number = sender.0.endpoint.next_sequence();
            let memory = mapping::memfd_write(b"never published").unwrap();
            let sent = sender.send_ancillary(number, &[memory.as_fd()], Deadline::now()).unwrap();
            assert_eq!(sent, Sent::Done);
            send(&sender, &vec![round; 100_000]);
            let mut head = receiver.0.endpoint.position();
            let frame = receiver.0.ring.take(receiver.pages(), &mut head, |_, bytes| bytes.to_vec());
            let Received::Whole(bytes, _) = receiver.find(SPILLED, &frame.unwrap()).unwrap() else {
                panic!()
            };
            assert!(bytes == vec![round; 100_000]);
            receiver.0.endpoint.publish(head);
            send(&sender, &vec![round + 1; 200_000]);
            assert!(receive(&receiver).unwrap() == vec![round + 1; 200_000]);
        }
        assert!(socket::peek(receiver.socket(), &mut [0; 8]).unwrap().is_none());
    }

    fn accompany_no_frame(sender: &SenderCore) -> Sent {
        let memory = mapping::memfd_write(b"never published").unwrap();
        let number = sender.0.endpoint.next_sequence();
        sender.send_ancillary(number, &[memory.as_fd()], Deadline::now()).unwrap()
    }

    fn is_empty(receiver: &ReceiverCore) -> bool {
        matches!(receiver.receive(1, Deadline::now(), |_| ()).unwrap(), Received::TimedOut)
    }

    fn companion_is_waiting(receiver: &ReceiverCore) -> bool {
        socket::waiting_packet(receiver.socket()).is_some()
    }

    #[test]
    fn companions_of_the_dead_do_not_wait_for_another() {
        let (sender, receiver) = channel();
        for round in 0..3 {
            assert_eq!(accompany_no_frame(&sender), Sent::Done);
            assert!(is_empty(&receiver) && !companion_is_waiting(&receiver));
            send(&sender, &vec![round; 100_000]);
            let tail = receiver.0.endpoint.refresh_peer();
            receiver.0.endpoint.publish(tail); // and was killed
            assert!(companion_is_waiting(&receiver));
            assert!(is_empty(&receiver) && !companion_is_waiting(&receiver));
        }
    }

    #[test]
    fn a_companion_whose_sender_lives_is_waited_for() {
        let (sender, receiver) = channel();
        for round in 0..3 {
            let _guard = sender.0.endpoint.lock(Deadline::now()).unwrap().unwrap();
            assert_eq!(accompany_no_frame(&sender), Sent::Done); // he was killed
            let descriptor = mapping::memfd_write(b"").unwrap();
            let number = sender.0.endpoint.next_sequence();
            sender.send_ancillary(number, &[descriptor.as_fd()], Deadline::now()).unwrap();
            assert!(is_empty(&receiver) && companion_is_waiting(&receiver));
            let mut tail = sender.0.endpoint.position();
            assert!(sender.put(&mut tail, WITH_FDS, &[&number.to_ne_bytes(), &[round]]));
            sender.0.endpoint.publish(tail);
            let Received::Whole(bytes, descriptors) = receiver.receive(1, Deadline::now(), |_| ()).unwrap()
            else {
                panic!()
            };
            assert_eq!((bytes, descriptors.len()), (vec![round], 1));
            assert!(!companion_is_waiting(&receiver));
        }
    }

    #[test]
    fn companions_of_the_dead_keep_no_room_from_others() {
        let (sender, receiver) = channel();
        thread::scope(|scope| {
            let receiver = &receiver;
            let received = scope.spawn(move || receiver.receive(1, Deadline::Never, |_| ()).unwrap());
            while accompany_no_frame(&sender) == Sent::Done {} // until there is no room
            let large = vec![7; 100_000];
            assert_eq!(sender.send(Message::plain(&large), Deadline::Never, &mut 0).unwrap(), Sent::Done);
            assert!(matches!(received.join().unwrap(), Received::Whole(bytes, _) if bytes == large));
        });
    }

    /// The ring is full, to the last byte, before the number of messages is.
    #[test]
    fn a_large_message_waits_no_longer_than_it_may_where_there_is_no_room_to_say_where_it_is() {
        for size in [64 * 1024, 256 * 1024] {
            let (sender, receiver) = channel_of(Layout::new(0, size, u32::MAX));
            let put =
                |length, deadline| sender.send(Message::plain(&vec![7; length]), deadline, &mut 0).unwrap();
            while put(8, Deadline::now()) == Sent::Done {}
            for large in [40_000, 200_000] {
                assert_eq!(put(large, Deadline::now()), Sent::TimedOut);
                assert_eq!(put(large, Deadline::after(Duration::from_millis(20))), Sent::TimedOut);
            }
            for _ in 0..10 {
                receive(&receiver).unwrap();
            }
            assert_eq!(put(40_000, Deadline::after(Duration::from_millis(20))), Sent::Done);
        }
    }

    /// Only somebody who means harm sends such a thing. It must not be in the way for good.
    #[test]
    fn packets_that_are_no_companions_are_thrown_away() {
        let (sender, receiver) = channel();
        for length in [1, 7, 9, 5000] {
            let socket = sender.0.endpoint.fds().socket.as_fd();
            let sent = socket::send(socket, &[&vec![0; length]], &[], Deadline::now()).unwrap();
            assert_eq!(sent, Sent::Done);
            send(&sender, &vec![7; 100_000]);
            assert!(receive(&receiver).unwrap() == vec![7; 100_000], "{length} bytes");
        }
    }

    #[test]
    fn frames_of_nonsense_are_errors_and_do_not_stay() {
        let (sender, receiver) = channel();
        let mut tail = sender.0.endpoint.position();
        let frames: [(u32, &[u8]); 5] =
            [(WITH_FDS, &[]), (SPILLED, &[1; 7]), (SPILLED, &[1; 8]), (SPILLED, &[9; 16]), (7, &[0; 8])];
        for (kind, bytes) in frames {
            assert!(sender.put(&mut tail, kind, &[bytes]));
            sender.0.endpoint.publish(tail);
            assert!(receive(&receiver).unwrap_err().is_codec(), "{kind} {bytes:?}");
            send(&sender, b"sense");
            assert_eq!(receive(&receiver).unwrap(), b"sense");
            tail = sender.0.endpoint.position();
        }
        tail.bytes += 1600; // beyond what was written: nothing is there but zeros, or old bytes
        tail.frames += 3;
        sender.0.endpoint.publish(tail);
        while receiver.0.endpoint.len() > 0 {
            let _ = receive(&receiver);
        }
    }
}

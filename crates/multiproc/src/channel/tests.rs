//! Channels: batches, kills half-way, full rings, and faulty processes.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::thread;
use std::time::Duration;

use super::*;
use crate::channel::batch::Batch;
use crate::ipc::memfd_cache;
use crate::ipc::ring::Position;
use crate::sys::poll::Deadline;
use crate::sys::socket::Sent;

pub(super) fn channel() -> (SenderCore, ReceiverCore) {
    channel_of(Layout::new(0, 64 * 1024, 10))
}

fn channel_of(layout: Layout) -> (SenderCore, ReceiverCore) {
    let memory = SharedMemory::create(NonZeroUsize::new(layout.end()).unwrap()).unwrap();
    let (from, to) = sockets().unwrap();
    layout.create(&memory, from, to).unwrap()
}

fn send(sender: &SenderCore, bytes: &[u8]) {
    let sent = sender.send([Message::without_fds(bytes)], Deadline::now(), &mut 0).unwrap();
    assert_eq!(sent, Sent::Done);
}

/// Messages of all lengths, some too long for a ring; in rings that are full by messages, by bytes, or at
/// their end.
#[test]
fn batches_arrive_whole_and_in_order() {
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
                let max = if random(20) == 0 { 100_000 } else { 300 };
                let mut bytes = vec![1; usize::try_from(8 + random(max)).unwrap()];
                bytes[..8].copy_from_slice(&(next + lengths.len() as u64).to_ne_bytes());
                batch.add(&bytes);
                lengths.push(bytes.len());
            }
            let mut sent = 0;
            let outcome = sender.send_batch(&batch, Deadline::now(), &mut sent).unwrap();
            assert_eq!(outcome == Sent::Done, sent == lengths.len(), "{outcome:?}");
            inside.extend(lengths[..sent].iter().copied().zip(next..));
            next += sent as u64;
            assert!(sender.end().len() == inside.len() && inside.len() <= capacity as usize);
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
        ReceiveOutcome::PassedToClosure => Ok(shown),
        ReceiveOutcome::Owned(bytes, _) => Ok(bytes),
        other => panic!("{other:?}"),
    }
}

/// A sender was killed between sending an ancillary packet and publishing its frame; a receiver, between
/// taking a frame and discarding its packet.
#[test]
fn orphaned_packets_are_skipped() {
    let (sender, receiver) = channel();
    for round in 0..3 {
        let sequence = sender.0.endpoint.next_sequence();
        let memory = memfd_cache::write(b"never published").unwrap().fd;
        let sent = sender.send_ancillary(sequence, &[memory.as_fd()], Deadline::now()).unwrap();
        assert_eq!(sent, Sent::Done);
        send(&sender, &vec![round; 100_000]);
        let mut head = receiver.0.endpoint.position();
        let frame = receiver.0.ring.take(receiver.end().memory(), &mut head, |_, bytes| bytes.to_vec());
        let ReceiveOutcome::Owned(bytes, _) = receiver.read_message(SPILLED, &frame.unwrap()).unwrap() else {
            panic!()
        };
        assert!(bytes == vec![round; 100_000]);
        receiver.0.endpoint.publish(head);
        send(&sender, &vec![round + 1; 200_000]);
        assert!(receive(&receiver).unwrap() == vec![round + 1; 200_000]);
    }
    assert!(socket::peek(receiver.socket(), &mut [0; 8]).unwrap().is_none());
}

fn send_orphan(sender: &SenderCore) -> Sent {
    let memory = memfd_cache::write(b"never published").unwrap().fd;
    let sequence = sender.0.endpoint.next_sequence();
    sender.send_ancillary(sequence, &[memory.as_fd()], Deadline::now()).unwrap()
}

fn is_empty(receiver: &ReceiverCore) -> bool {
    matches!(receiver.receive(1, Deadline::now(), |_| ()).unwrap(), ReceiveOutcome::TimedOut)
}

fn packet_is_waiting(receiver: &ReceiverCore) -> bool {
    socket::waiting_packet(receiver.socket()).is_some()
}

#[test]
fn orphaned_packets_are_discarded_when_the_ring_is_empty() {
    let (sender, receiver) = channel();
    for round in 0..3 {
        assert_eq!(send_orphan(&sender), Sent::Done);
        assert!(is_empty(&receiver) && !packet_is_waiting(&receiver));
        send(&sender, &vec![round; 100_000]);
        let tail = receiver.0.endpoint.refresh_peer();
        receiver.0.endpoint.publish(tail); // and the receiver was killed
        assert!(packet_is_waiting(&receiver));
        assert!(is_empty(&receiver) && !packet_is_waiting(&receiver));
    }
}

/// A receiver was killed when it had taken a frame; the ring holds others.
#[test]
fn a_new_receiver_discards_orphaned_packets_before_the_frames_in_the_ring() {
    let (sender, receiver) = channel();
    for behind in [None, Some(vec![2; 200_000])] {
        send(&sender, &vec![1; 100_000]);
        let tail = receiver.0.endpoint.refresh_peer();
        receiver.0.endpoint.publish(tail); // and it was killed
        send(&sender, b"plain");
        if let Some(large) = &behind {
            send(&sender, large);
        }
        receiver.discard_orphans().unwrap();
        assert_eq!(packet_is_waiting(&receiver), behind.is_some());
        assert_eq!(receive(&receiver).unwrap(), b"plain");
        if let Some(large) = behind {
            assert!(receive(&receiver).unwrap() == large);
        }
        assert!(!packet_is_waiting(&receiver));
    }
}

#[test]
fn a_packet_of_a_live_sender_stays() {
    let (sender, receiver) = channel();
    for round in 0..3 {
        let _guard = sender.0.endpoint.lock(Deadline::now()).unwrap().unwrap();
        assert_eq!(send_orphan(&sender), Sent::Done); // of a killed sender
        let descriptor = memfd_cache::write(b"").unwrap().fd;
        let sequence = sender.0.endpoint.next_sequence();
        sender.send_ancillary(sequence, &[descriptor.as_fd()], Deadline::now()).unwrap();
        assert!(is_empty(&receiver) && packet_is_waiting(&receiver));
        let mut tail = sender.0.endpoint.position();
        assert!(sender.put(&mut tail, WITH_FDS, &[&sequence.to_ne_bytes(), &[round]]));
        sender.0.endpoint.publish(tail);
        let ReceiveOutcome::Owned(bytes, descriptors) = receiver.receive(1, Deadline::now(), |_| ()).unwrap()
        else {
            panic!()
        };
        assert_eq!((bytes, descriptors.len()), (vec![round], 1));
        assert!(!packet_is_waiting(&receiver));
    }
}

#[test]
fn orphaned_packets_do_not_fill_the_socket() {
    let (sender, receiver) = channel();
    thread::scope(|scope| {
        let receiver = &receiver;
        let received = scope.spawn(move || receiver.receive(1, Deadline::Never, |_| ()).unwrap());
        while send_orphan(&sender) == Sent::Done {} // until there is no room
        let large = vec![7; 100_000];
        assert_eq!(sender.send([Message::without_fds(&large)], Deadline::Never, &mut 0).unwrap(), Sent::Done);
        assert!(matches!(received.join().unwrap(), ReceiveOutcome::Owned(bytes, _) if bytes == large));
    });
}

/// The ring is full to the last byte, and below its capacity of messages.
#[test]
fn a_large_message_times_out_when_there_is_no_room_for_its_small_frame() {
    for size in [64 * 1024, 256 * 1024] {
        let (sender, receiver) = channel_of(Layout::new(0, size, u32::MAX));
        let put = |length, deadline| {
            sender.send([Message::without_fds(&vec![7; length])], deadline, &mut 0).unwrap()
        };
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

/// Only a faulty process sends such packets. They must not block later ones.
#[test]
fn foreign_packets_are_discarded() {
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
fn invalid_frames_are_errors_and_are_consumed() {
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
    tail.bytes += 1600; // beyond what was written: zeros or old bytes
    tail.frames += 3;
    sender.0.endpoint.publish(tail);
    while receiver.0.endpoint.len() > 0 {
        let _ = receive(&receiver);
    }
}

/// Another process may have overwritten the positions.
#[test]
fn the_length_is_at_most_the_capacity() {
    let (sender, receiver) = channel();
    let tail = receiver.end().endpoint.position();
    sender.end().endpoint.publish(Position { frames: tail.frames.wrapping_add(1_000_000), ..tail });
    assert_eq!((sender.end().len(), receiver.end().len()), (10, 10));
}

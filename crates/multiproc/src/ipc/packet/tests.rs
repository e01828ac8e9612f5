//! Packets: messages of every size, spilled memory, and bytes that are no packet.

use std::fs::{self, File};
use std::num::NonZeroUsize;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::unistd::gettid;
use proptest::collection::vec;
use proptest::prelude::*;

use super::content::announced;
use super::message::PERMITS;
use super::*;
use crate::ipc::memfd_cache;
use crate::sys::immutable;
use crate::sys::mapping::SharedMapping;
use crate::sys::memfd;
use crate::testing::{any_bytes, any_word, cases, descriptors};

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn any_packet_is_a_message_or_an_error(
        mark in 0..3_u8,
        length in any_word(),
        bytes in any_bytes(40),
        choice in vec(any::<u8>(), 0..4),
        front in 0..60_usize,
    ) {
        let spilled = [&[mark][..], &length.to_le_bytes(), &bytes].concat();
        for packet in [&spilled, &bytes] {
            prop_assert!(prefix(packet).len() <= packet.len());
            if let Ok((message, _)) = unpack(packet, descriptors(&choice)) {
                prop_assert!(message.len() <= packet.len() + 5000);
            }
            if let Ok(content) = Content::of(packet.clone(), front, &mut descriptors(&choice)) {
                prop_assert!(content.with_bytes(<[u8]>::len) <= packet.len().max(5000));
            }
            if let Ok(content) = Content::to_keep(packet.clone(), front, &mut descriptors(&choice)) {
                prop_assert!(content.with_bytes(<[u8]>::len) <= packet.len().max(5000));
            }
        }
    }
}

/// Most of the memory is a hole, so the test needs little.
#[test]
fn messages_beyond_four_gigabytes_are_whole() {
    for size in [1 << 31, (1 << 32) - 1, 1 << 32, (1 << 32) + 5_u64] {
        let file = File::from(memfd_cache::write(b"begin").unwrap().fd);
        file.write_all_at(b"end", size - 3).unwrap();
        let packet = [&[IN_MEMORY][..], &size.to_le_bytes()].concat();
        let (memory, length) = announced(&packet, &mut vec![file.into()]).unwrap();
        assert_eq!(length as u64, size);
        // A message with a hole is refused, so it is mapped as other shared memory.
        let mapping = SharedMapping::open(memory.as_fd(), NonZeroUsize::new(length).unwrap()).unwrap();
        mapping.with_bytes(0, length, |bytes| {
            assert!(bytes.starts_with(b"begin") && bytes.ends_with(b"\0end"));
        });
    }
}

/// The kernel tells a sender of room only once three quarters of a full buffer are free. That may never be: the
/// receiver may itself wait for this sender.
#[test]
fn a_sender_that_waits_goes_on_as_soon_as_there_is_room() {
    let (sender, receiver) = PacketSocket::pair().unwrap();
    let message = Message::new(vec![7; 100], Vec::new()).unwrap();
    while sender.send(&message, Deadline::now()).unwrap() == Sent::Done {}
    let (began, begins) = mpsc::channel();
    let waiting = thread::spawn(move || {
        began.send(gettid()).unwrap();
        sender.send(&message, Deadline::after(Duration::from_secs(20))).unwrap()
    });
    let stat = format!("/proc/self/task/{}/stat", begins.recv().unwrap());
    while !fs::read_to_string(&stat).unwrap().contains(") S ") {
        thread::yield_now();
    }
    for _ in 0..3 {
        assert!(matches!(receiver.receive(Deadline::now()).unwrap(), Incoming::Message(..)));
    }
    assert_eq!(waiting.join().unwrap(), Sent::Done);
}

/// Only sealed memory is mapped, and only a limited number at a time.
#[test]
fn content_to_keep_is_private_or_sealed() {
    let bytes = vec![7; WORTH_MAPPING];
    let keep = |memory: OwnedFd| {
        let packet = [&[IN_MEMORY][..], &(WORTH_MAPPING as u64).to_le_bytes()].concat();
        let content = Content::to_keep(packet, 0, &mut vec![memory]).unwrap();
        content.with_bytes(|kept| assert!(kept == bytes));
        content
    };
    let content = keep(memfd::write(&bytes).unwrap());
    assert!(matches!(content, Content::Inline(..)), "it could still be written to");
    let many: Vec<_> = (0..PERMITS + 3).map(|_| keep(immutable::store(&bytes).unwrap())).collect();
    let is_mapped = |content: &&Content| matches!(content, Content::Immutable { .. });
    assert!((1..=PERMITS).contains(&many.iter().filter(is_mapped).count()));
}

/// A process may announce more than it has written: its sparse memory would become the receiver's.
#[test]
fn spilled_memory_with_a_hole_is_an_error() {
    let bytes = vec![7; WORTH_MAPPING.max(memfd::WORTH_CHECKING)];
    let length = 2 * bytes.len();
    let packet = [&[IN_MEMORY][..], &(length as u64).to_le_bytes()].concat();
    let sparse = || {
        let memory = File::from(memfd::write(&bytes).unwrap());
        memory.set_len(length as u64).unwrap();
        memory
    };
    let sealed =
        || immutable::ImmutableMemory::seal(sparse().into(), NonZeroUsize::new(length).unwrap()).unwrap().1;
    for memory in [sparse(), File::from(sealed())] {
        let blocks = || memory.metadata().unwrap().blocks();
        let before = blocks();
        let segments = || vec![memory.try_clone().unwrap().into()];
        assert!(Content::of(packet.clone(), 0, &mut segments()).unwrap_err().is_codec());
        assert!(Content::to_keep(packet.clone(), 0, &mut segments()).unwrap_err().is_codec());
        assert!(unpack(&packet, segments()).unwrap_err().is_codec());
        assert_eq!(blocks(), before);
    }
}

fn received(link: &PacketSocket) -> Vec<u8> {
    match link.receive(Deadline::now()).unwrap() {
        Incoming::Message(bytes, _) => bytes,
        other => panic!("{other:?}"),
    }
}

#[test]
fn messages_of_every_size_arrive_whole() {
    let (a, b) = PacketSocket::pair().unwrap();
    for size in [0, 1, MAX_INLINE - 1, MAX_INLINE, MAX_INLINE + 1, 20_000_000] {
        let bytes: Vec<u8> = (0..=250).cycle().take(size).collect();
        let message = Message::new(bytes.clone(), Vec::new()).unwrap();
        assert_eq!(a.send_with_prefix(b"pre", &message, Deadline::now()).unwrap(), Sent::Done);
        assert!(received(&b) == [b"pre", &bytes[..]].concat(), "{size} bytes");
    }
}

#[test]
fn a_disconnected_end_differs_from_an_empty_message() {
    let (a, b) = PacketSocket::pair().unwrap();
    assert!(matches!(b.receive(Deadline::now()).unwrap(), Incoming::TimedOut));
    let empty = Message::new(Vec::new(), Vec::new()).unwrap();
    a.send(&empty, Deadline::now()).unwrap();
    drop(a);
    assert!(received(&b).is_empty());
    assert!(matches!(b.receive(Deadline::now()).unwrap(), Incoming::Disconnected));
    assert_eq!(b.send(&empty, Deadline::now()).unwrap(), Sent::Disconnected);
}

#[test]
fn any_bytes_are_an_error_and_not_a_panic() {
    for packet in [&[][..], &[7], &[IN_MEMORY], &[IN_MEMORY, 1, 2, 3], &[IN_MEMORY, 1, 0, 0, 0, 0, 0, 0, 0]] {
        assert!(unpack(packet, Vec::new()).is_err(), "{packet:?}");
    }
    let memory = memfd_cache::write(b"abc").unwrap().fd;
    let announced_too_much = [&[IN_MEMORY][..], &4_u64.to_le_bytes()].concat();
    assert!(unpack(&announced_too_much, vec![memory]).is_err());
}

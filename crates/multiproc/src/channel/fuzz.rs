//! A channel whose shared memory, apart from the locks, a faulty process has overwritten.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use super::tests::channel;
use super::*;
use crate::channel::endpoint::SCRATCH;
use crate::sys::poll::Deadline;
use crate::testing::{after_start, any_bytes, any_word, any_words, cases, descriptors};

/// Words of a side's area after its lock.
const WORDS: [usize; 9] = [48, 56, 64, 72, SCRATCH[0], SCRATCH[2] / 8 * 8, 128, 136, 256 + 48];
/// The position of each side.
const POSITIONS: [usize; 2] = [128, 256 + 128];

fn overwrite(memory: &SharedMemory, offset: usize, word: u64) {
    memory.word64(offset).store(word, Relaxed);
}

proptest! {
    #![proptest_config(cases(200))]

    /// The bytes received are bounded, and after at most as many errors as frames fit into the ring, it is
    /// empty.
    #[test]
    fn receiving_from_overwritten_memory_ends(
        positions in any_words(64 * 1024),
        words in vec((any::<prop::sample::Index>(), any_word()), 0..4),
        bytes in any_bytes(4096),
        ancillary in vec((any_word(), vec(any::<u8>(), 0..3)), 0..3),
        max in prop_oneof![Just(1), Just(u32::MAX)],
    ) {
        let (sender, receiver) = channel();
        let memory = receiver.end().memory();
        for (sequence, choice) in ancillary {
            let owned = descriptors(&choice);
            let borrowed: Vec<_> = owned.iter().map(AsFd::as_fd).collect();
            sender.send_ancillary(sequence % 20, &borrowed, Deadline::now()).unwrap();
        }
        memory.write(HEADER + usize::try_from(positions[0] % (60 * 1024)).unwrap() / 8 * 8, &bytes);
        for (offset, word) in words {
            overwrite(memory, *offset.get(&WORDS), word);
        }
        overwrite(memory, POSITIONS[1], positions[0]);
        overwrite(memory, POSITIONS[0], positions[1]);
        let mut received_bytes = 0;
        for round in 0..=64 * 1024 / 8 + 2 {
            assert!(round <= 64 * 1024 / 8, "there is always more");
            let received = receiver.receive(max, Deadline::now(), |bytes| received_bytes += bytes.len());
            if let Ok(ReceiveOutcome::TimedOut) = received {
                break;
            }
        }
        prop_assert!(received_bytes <= 2 * 64 * 1024);
        // Only the senders' cached position may still be wrong; it is refreshed when there is no room.
        prop_assert_eq!(receiver.0.endpoint.len(), 0);
        let _ = sender.send([Message::without_fds(b"sense")], Deadline::now(), &mut 0);
    }

    #[test]
    fn sending_into_overwritten_memory_succeeds_or_fails(
        positions in any_words(64 * 1024),
        words in vec((any::<prop::sample::Index>(), any_word()), 0..4),
        length in prop_oneof![0..300_usize, Just(40_000), Just(200_000)],
    ) {
        let (sender, receiver) = channel();
        let memory = receiver.end().memory();
        for (offset, word) in words {
            overwrite(memory, *offset.get(&WORDS), word);
        }
        overwrite(memory, POSITIONS[1], positions[0]);
        overwrite(memory, POSITIONS[0], positions[1]);
        let bytes = vec![7; length];
        for _ in 0..3 {
            let _ = sender.send([Message::without_fds(&bytes)], Deadline::now(), &mut 0);
        }
        let fd = SharedFd::from(descriptors(&[0]).remove(0));
        let with_descriptor = Message { bytes: &bytes, descriptors: &[fd] };
        let _ = sender.send([with_descriptor], Deadline::now(), &mut 0);
        sender.end().len();
    }

    #[test]
    fn a_packet_is_found_or_is_an_error(
        kind in 0..4_u32,
        frame in any_bytes(24),
        choice in vec(any::<u8>(), 0..4),
    ) {
        let (sender, receiver) = channel();
        let owned = descriptors(&choice);
        let borrowed: Vec<_> = owned.iter().map(AsFd::as_fd).collect();
        let sequence = frame.first_chunk().copied().map_or(7, u64::from_ne_bytes);
        sender.send_ancillary(sequence, &borrowed, Deadline::now()).unwrap();
        if let Ok(ReceiveOutcome::Owned(bytes, _)) = receiver.read_message(kind, &frame) {
            prop_assert!(bytes.len() <= 5000, "the largest that was sent");
        }
    }
}

/// Otherwise it would be received 4 billion times.
#[test]
fn frames_beyond_what_the_ring_can_hold_are_not_counted() {
    let (_sending, receiver) = channel();
    overwrite(receiver.end().memory(), POSITIONS[0], after_start(u32::MAX, 64));
    let mut count = 0;
    let received = receiver.receive(u32::MAX, Deadline::now(), |_| count += 1);
    assert!(received.unwrap_err().is_codec() && count == 0);
    assert!(matches!(receiver.receive(1, Deadline::now(), |_| ()), Ok(ReceiveOutcome::TimedOut)));
}

/// Otherwise it would be received again and again.
#[test]
fn bytes_without_a_frame_are_skipped() {
    let (_sending, receiver) = channel();
    overwrite(receiver.end().memory(), POSITIONS[0], after_start(0, 64));
    assert!(receiver.receive(1, Deadline::now(), |_| panic!("there is nothing")).unwrap_err().is_codec());
    assert!(matches!(receiver.receive(1, Deadline::now(), |_| ()), Ok(ReceiveOutcome::TimedOut)));
}

#[test]
fn a_sender_does_not_wait_for_receivers_that_are_ahead_of_it() {
    let (sender, receiver) = channel();
    overwrite(receiver.end().memory(), POSITIONS[1], after_start(5, 0x1388));
    let mut sent = 0;
    let deadline = Deadline::after(Duration::from_secs(30)); // not reached
    let refused = sender.send([Message::without_fds(b"x")], deadline, &mut sent).unwrap_err();
    assert!(refused.is_codec() && sent == 0, "{refused}");
}

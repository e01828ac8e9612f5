//! A channel whose memory another process has written over. Only the locks are left out, which are the C library's.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use super::tests::channel;
use super::*;
use crate::channel::endpoint::SCRATCH;
use crate::sys::poll::Deadline;
use crate::testing::{any_bytes, any_word, any_words, cases, descriptors};

/// The words of a side's area that are not its lock: the size of that is less than where they begin.
const WORDS: [usize; 9] = [48, 56, 64, 72, SCRATCH[0], SCRATCH[2] / 8 * 8, 128, 136, 256 + 48];
/// Where each side says how far it has come.
const MARKS: [usize; 2] = [128, 256 + 128];

fn overwrite(pages: &SharedMemory, place: usize, word: u64) {
    pages.word64(place).store(word, Relaxed);
}

proptest! {
    #![proptest_config(cases(200))]

    /// What comes out is bounded, and after as many errors as there may be frames, all is quiet: nobody goes in circles.
    #[test]
    fn whatever_the_memory_holds_receiving_comes_to_an_end(
        marks in any_words(64 * 1024),
        words in vec((any::<prop::sample::Index>(), any_word()), 0..4),
        bytes in any_bytes(4096),
        ancillary in vec((any_word(), vec(any::<u8>(), 0..3)), 0..3),
        max in prop_oneof![Just(1), Just(u32::MAX)],
    ) {
        let (sender, receiver) = channel();
        let pages = receiver.pages();
        for (number, choice) in ancillary {
            let lent = descriptors(&choice);
            let lent: Vec<_> = lent.iter().map(AsFd::as_fd).collect();
            sender.send_ancillary(number % 20, &lent, Deadline::now()).unwrap();
        }
        pages.write(HEADER + usize::try_from(marks[0] % (60 * 1024)).unwrap() / 8 * 8, &bytes);
        for (place, word) in words {
            overwrite(pages, *place.get(&WORDS), word);
        }
        overwrite(pages, MARKS[1], marks[0]);
        overwrite(pages, MARKS[0], marks[1]);
        let mut shown = 0;
        for round in 0..=64 * 1024 / 8 + 2 {
            assert!(round <= 64 * 1024 / 8, "there is always more");
            let received = receiver.receive(max, Deadline::now(), |bytes| shown += bytes.len());
            if let Ok(Received::TimedOut) = received {
                break;
            }
        }
        prop_assert!(shown <= 2 * 64 * 1024);
        // Only the note of how far the senders had come may still be wrong, and they look when there is no room.
        prop_assert_eq!(receiver.0.endpoint.len(), 0);
        let _ = sender.send(Message::plain(b"sense"), Deadline::now(), &mut 0);
    }

    #[test]
    fn whatever_the_memory_holds_sending_is_done_or_refused(
        marks in any_words(64 * 1024),
        words in vec((any::<prop::sample::Index>(), any_word()), 0..4),
        length in prop_oneof![0..300_usize, Just(40_000), Just(200_000)],
    ) {
        let (sender, receiver) = channel();
        let pages = receiver.pages();
        for (place, word) in words {
            overwrite(pages, *place.get(&WORDS), word);
        }
        overwrite(pages, MARKS[1], marks[0]);
        overwrite(pages, MARKS[0], marks[1]);
        let bytes = vec![7; length];
        for _ in 0..3 {
            let _ = sender.send(Message::plain(&bytes), Deadline::now(), &mut 0);
        }
        let handle = SharedFd::from(descriptors(&[0]).remove(0));
        let with_descriptor = Message { bytes: &bytes, descriptors: &[handle] };
        let _ = sender.send(with_descriptor, Deadline::now(), &mut 0);
        sender.len();
    }

    #[test]
    fn companions_are_found_or_are_an_error(kind in 0..4_u32, frame in any_bytes(24), choice in vec(any::<u8>(), 0..4)) {
        let (sender, receiver) = channel();
        let lent = descriptors(&choice);
        let lent: Vec<_> = lent.iter().map(AsFd::as_fd).collect();
        let number = frame.first_chunk().copied().map_or(7, u64::from_ne_bytes);
        sender.send_ancillary(number, &lent, Deadline::now()).unwrap();
        if let Ok(Received::Whole(bytes, _)) = receiver.find(kind, &frame) {
            prop_assert!(bytes.len() <= 5000, "the largest that was lent");
        }
    }
}

/// It would have been received 4 billion times.
#[test]
fn frames_beyond_what_the_ring_can_hold_are_not_counted() {
    let (_sending, receiver) = channel();
    overwrite(receiver.pages(), MARKS[0], u64::from(u32::MAX) << 32 | 64);
    let mut shown = 0;
    let received = receiver.receive(u32::MAX, Deadline::now(), |_| shown += 1);
    assert!(received.unwrap_err().is_codec() && shown == 0);
    assert!(matches!(receiver.receive(1, Deadline::now(), |_| ()), Ok(Received::TimedOut)));
}

/// It would have been received again and again.
#[test]
fn bytes_without_a_frame_are_passed_over() {
    let (_sending, receiver) = channel();
    overwrite(receiver.pages(), MARKS[0], 64);
    assert!(receiver.receive(1, Deadline::now(), |_| panic!("there is nothing")).unwrap_err().is_codec());
    assert!(matches!(receiver.receive(1, Deadline::now(), |_| ()), Ok(Received::TimedOut)));
}

#[test]
fn a_sender_does_not_wait_for_receivers_that_are_ahead_of_it() {
    let (sender, receiver) = channel();
    overwrite(receiver.pages(), MARKS[1], 5 << 32 | 0x1388);
    let mut sent = 0;
    let deadline = Deadline::after(Duration::from_secs(30)); // it is not waited for
    let refused = sender.send(Message::plain(b"x"), deadline, &mut sent).unwrap_err();
    assert!(refused.is_codec() && sent == 0, "{refused}");
}

//! Handles with a faulty encoding: any bytes, and good ones with some bytes changed.

use std::os::fd::OwnedFd;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use crate::ipc::wire::decode;
use crate::queue::{Delivery, JoinableReceiver, JoinableSender, Unfinished, joinable};
use crate::sync::{Once, OnceCell};
use crate::testing::{any_bytes, any_changes, cases, decode_changed, descriptors};
use crate::{ArrayChunk, Fd, Server, SharedArray};

type Sender = JoinableSender<u32>;
type Receiver = JoinableReceiver<u32>;

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn any_bytes_and_descriptors_are_handles_or_an_error(
        bytes in any_bytes(60),
        choice in vec(any::<u8>(), 0..5),
    ) {
        let sent = || descriptors(&choice);
        let _ = decode::<(Once, OnceCell<[u64; 3]>)>(&bytes, sent(), "it");
        let _ = decode::<(Sender, u8)>(&bytes, sent(), "it");
        let _ = decode::<(Receiver, u8)>(&bytes, sent(), "it");
        let _ = decode::<(ArrayChunk<u64>, u8)>(&bytes, sent(), "it");
        let _ = decode::<(Server<u32>, u8)>(&bytes, sent(), "it");
        let _ = decode::<(Fd<OwnedFd>, u8)>(&bytes, sent(), "it");
    }

    #[test]
    fn a_changed_cell_is_one_or_an_error(changes in any_changes()) {
        if let Ok(cell) = decode_changed::<OnceCell<[u64; 3]>>(&OnceCell::<[u64; 3]>::new().unwrap(), &changes) {
            prop_assert_eq!(cell.get_or_init(|| [7; 3]).ok(), Some([7; 3]));
        }
        if let Ok(once) = decode_changed::<Once>(&Once::new().unwrap(), &changes) {
            prop_assert!(once.call_once(|| ()).is_ok() && once.is_completed());
        }
    }

    /// The changed end may be that of another layout, of which any item may be there.
    #[test]
    fn a_changed_end_of_a_queue_is_one_or_an_error(changes in any_changes()) {
        let (sender, receiver) = joinable::<u32>(3, Unfinished::Redeliver).unwrap();
        sender.send(5).unwrap();
        if let Ok(receiver) = decode_changed::<Receiver>(&receiver, &changes) {
            let _ = receiver.recv_timeout(Duration::from_millis(1)).map(Delivery::done);
        }
        if let Ok(sender) = decode_changed::<Sender>(&sender, &changes) {
            let _ = sender.try_send(6);
            let _ = sender.join_timeout(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_changed_chunk_is_inside_of_the_array_or_an_error(changes in any_changes()) {
        let mut array = SharedArray::<u64>::zeroed(1_000).unwrap();
        let [chunk, _] = array.split_at(300).unwrap();
        if let Ok(mut chunk) = decode_changed::<ArrayChunk<u64>>(&chunk, &changes) {
            let length = chunk.len();
            if let Ok(elements) = chunk.take() {
                elements.fill(9);
                prop_assert!(elements.len() == length && length <= 1_024, "{length}, and two pages");
            }
        }
    }

    #[test]
    fn a_changed_descriptor_is_one_or_an_error(changes in any_changes()) {
        let file: OwnedFd = descriptors(&[3]).remove(0);
        let _ = decode_changed::<Fd<OwnedFd>>(&Fd::from(file), &changes);
    }
}

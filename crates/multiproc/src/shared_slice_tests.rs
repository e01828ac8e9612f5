//! Shared slices that travel, and messages that claim to be one.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::ipc::wire::{decode, encode_with_descriptors};
use crate::sys::memfd;
use crate::testing::{any_bytes, any_word, cases, descriptors};

/// Encodes `value` and decodes it as a slice.
fn transfer<T: Pod>(value: &impl crate::ipc::wire::Transferable) -> Result<SharedSlice<T>> {
    let mut bytes = Vec::new();
    let fds = encode_with_descriptors(value, &mut bytes, "it")?;
    let copies = fds.iter().map(|fd| fd.as_fd().try_clone_to_owned().unwrap());
    decode(&bytes, copies.collect::<Vec<_>>(), "it")
}

pub(crate) fn sealed(size: usize) -> (SharedFd, NonZeroUsize) {
    let (sealed, fd) = ImmutableMemory::copy(&vec![1; size]).unwrap();
    (fd.into(), NonZeroUsize::new(sealed.bytes().len()).unwrap())
}

#[test]
fn a_slice_holds_what_was_put_in() {
    let numbers: Vec<[u16; 3]> = (0..10_000).map(|number| [number, number / 2, 7]).collect();
    let copied = SharedSlice::from_slice(&numbers).unwrap();
    assert!(copied[..] == numbers);
    let built = SharedSlice::build(numbers.len(), |slots: &mut [[u16; 3]]| {
        assert!(slots.iter().all(|slot| *slot == [0; 3]), "the slots are zeroed");
        slots.copy_from_slice(&numbers);
    });
    assert!(built.unwrap()[..] == numbers);
    assert!(transfer::<[u16; 3]>(&copied).unwrap()[..] == numbers);
}

#[test]
fn an_empty_slice_needs_no_memory() {
    let mut filled = false;
    let built = SharedSlice::<f64>::build(0, |slots| filled = slots.is_empty()).unwrap();
    let copied = SharedSlice::<f64>::from_slice(&[]).unwrap();
    assert!(filled && built.is_empty() && copied.is_empty() && copied.memory.is_none());
    assert!(transfer::<f64>(&copied).unwrap().is_empty());
}

#[test]
fn memory_received_twice_is_mapped_once() {
    let ours = SharedSlice::from_slice(&[1_u32, 2, 3]).unwrap();
    assert_eq!(transfer::<u32>(&ours).unwrap().as_ptr(), ours.as_ptr());
    let (fd, length) = sealed(12);
    let header = || Header { element: 4, memory: Some((fd.clone(), length)) };
    let (first, second) = (transfer::<u32>(&header()).unwrap(), transfer::<u32>(&header()).unwrap());
    assert_eq!(first.as_ptr(), second.as_ptr());
    assert_ne!(first.as_ptr(), ours.as_ptr());
}

proptest! {
    #![proptest_config(cases(200))]

    #[test]
    fn any_bytes_and_descriptors_are_a_slice_or_an_error(
        element in prop_oneof![Just(2_u64), any_word()],
        length in prop_oneof![Just(4096_u64), any_word()],
        flag in 0..3_u8,
        choice in vec(any::<u8>(), 0..3),
        bytes in any_bytes(40),
    ) {
        let announced = [&element.to_ne_bytes()[..], &[flag], &[0; 4], &length.to_ne_bytes()].concat();
        for bytes in [&announced, &bytes] {
            if let Ok(data) = decode::<SharedSlice<u16>>(bytes, descriptors(&choice), "it") {
                prop_assert!(data.len() <= 2048 && data.iter().all(|&number| number == 0x0101));
            }
        }
    }
}

#[test]
fn a_header_must_match_its_memory() {
    let (fd, length) = sealed(4096 + 8);
    let unsealed = (SharedFd::from(memfd::write(&[1; 4096]).unwrap()), NonZeroUsize::new(4096).unwrap());
    let sized = |bytes: usize| Some((fd.clone(), NonZeroUsize::new(bytes).unwrap()));
    assert_eq!(
        transfer::<u64>(&Header { element: 8, memory: Some((fd.clone(), length)) }).unwrap().len(),
        513
    );
    for (element, memory, why) in [
        (4, sized(4096 + 8), "elements of 4 bytes announced, not 8"),
        (8, sized(4096 + 4), "no number of elements of 8"),
        (8, sized(4096), "4096 bytes announced, 4104 sent"),
        (8, sized(4096 * 2), "8192 bytes announced, 4104 sent"),
        (8, Some(unsealed), "it is not sealed"),
    ] {
        let error = transfer::<u64>(&Header { element, memory }).unwrap_err();
        assert!(error.is_codec() && error.to_string().contains(why), "{error}");
    }
}

#[test]
fn a_size_that_the_kernel_refuses_is_an_error() {
    for length in [1 << 50, usize::MAX / 8, usize::MAX] {
        let error = SharedSlice::<u64>::build(length, |_| panic!("there is nothing to fill")).unwrap_err();
        assert_eq!(error.os_error(), Some(Errno::ENOMEM as i32), "{error}");
    }
}

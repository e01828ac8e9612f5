//! Values and descriptors arrive as they are, or as an error.

use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};

use proptest::collection::vec;
use proptest::prelude::*;

use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::descriptors::has_incoming;
use super::*;
use crate::sys::atomic::Relaxed;
use crate::testing::{any_bytes, cases, descriptors};

proptest! {
    #![proptest_config(cases(200))]

    #[test]
    fn any_bytes_and_descriptors_are_a_value_or_an_error(
        bytes in any_bytes(60),
        choice in vec(any::<u8>(), 0..5),
    ) {
        let sent = || descriptors(&choice);
        let _ = decode::<(SharedFd, u8, SharedFd)>(&bytes, sent(), "handles");
        let _ = decode::<(SharedMemory, u64)>(&bytes, sent(), "pages");
        let _ = decode::<Vec<Option<SharedFd>>>(&bytes, sent(), "handles");
        let _ = decode_front::<(SharedFd, Vec<bool>)>(&bytes, sent(), "a handle");
        assert!(!has_incoming(), "it does not stay");
    }

    #[test]
    fn any_bytes_are_a_raw_value_or_an_error(bytes in any_bytes(40)) {
        macro_rules! tries {
            ($($raw:ty)*) => {$(
                if let Ok(value) = decode::<($raw,)>(&bytes, Vec::new(), "it") {
                    let mut again = Vec::new();
                    encode(&value, &mut again, "it").unwrap();
                    prop_assert_eq!(&again, &bytes);
                }
            )*};
        }
        tries!(() bool char u8 u16 u32 u64 u128 i64 f32 f64 String);
        tries!(Vec<u8> Vec<u16> Vec<u64> Vec<u128> Vec<f64>);
    }
}

#[test]
fn a_value_that_cannot_be_encoded_leaves_nothing_behind() {
    struct Stubborn;
    impl Serialize for Stubborn {
        fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(S::Error::custom("I will not"))
        }
    }
    impl<'de> Deserialize<'de> for Stubborn {
        fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
            Ok(Self)
        }
    }
    let mut out = vec![1, 2, 3];
    let error = encode(&(7_u64, Stubborn), &mut out, "the pair").unwrap_err();
    assert!(error.is_codec());
    assert_eq!(error.to_string(), "cannot encode the pair: I will not");
    assert_eq!(out, [1, 2, 3]);
}

#[test]
fn too_many_or_too_few_bytes_are_refused() {
    let mut out = Vec::new();
    encode(&Some(300_u64), &mut out, "a number").unwrap();
    assert_eq!(decode::<Option<u64>>(&out, Vec::new(), "a number").unwrap(), Some(300));
    let error = decode::<Option<u64>>(&out[..6], Vec::new(), "a number").unwrap_err();
    assert_eq!(error.to_string(), "cannot decode a number: 8 bytes or more expected at byte 1, 4 left");
    out.push(0);
    let error = decode::<Option<u64>>(&out, Vec::new(), "a number").unwrap_err();
    assert_eq!(error.to_string(), "cannot decode a number: 1 bytes too many");
}

#[test]
fn raw_values_travel_as_their_bytes_and_stand_alone() {
    let mut out = Vec::new();
    encode_with_descriptors(&(vec![300_u16, 7],), &mut out, "numbers").unwrap();
    assert_eq!(out, bytemuck::bytes_of(&[300_u16, 7]));
    assert_eq!(decode::<(Vec<u16>,)>(&out, Vec::new(), "numbers").unwrap().0, [300, 7]);
    let error = decode::<u64>(&out, Vec::new(), "a number").unwrap_err();
    assert_eq!(error.to_string(), "cannot decode a number: 8 bytes expected, 4 found");
    assert!(decode_front::<u16>(&out, Vec::new(), "a number").unwrap_err().is_codec());
}

#[test]
fn a_descriptor_travels_only_where_it_can() {
    let handle = SharedFd::from(OwnedFd::from(std::fs::File::open("/dev/null").unwrap()));
    let mut out = Vec::new();
    let error = encode(&handle, &mut out, "an item").unwrap_err();
    assert!(error.to_string().contains("not through a joinable queue"), "{error}");
    assert_eq!(encode_with_descriptors(&(1_u8, handle), &mut out, "a pair").unwrap().len(), 1);
    let error = decode::<(u8, SharedFd)>(&out, Vec::new(), "a pair").unwrap_err();
    assert!(error.to_string().contains("did not arrive"), "{error}");
}

#[test]
fn memory_that_travels_again_is_named() {
    let handle = SharedFd::from(OwnedFd::from(std::fs::File::open("/dev/null").unwrap()));
    let memory = SharedMemory::create(NonZeroUsize::new(4096).unwrap()).unwrap().nameable().unwrap();
    let value = (memory.clone(), handle, memory.clone());
    let (mut out, mut list) = (Vec::new(), SegmentList::default());
    let mut encode = |list: &mut SegmentList| {
        out.clear();
        let descriptors = encode_naming(&value, &mut out, list, "it").unwrap();
        (
            out.clone(),
            descriptors.iter().map(|fd| fd.as_fd().try_clone_to_owned().unwrap()).collect::<Vec<_>>(),
        )
    };
    let (_, descriptors) = encode(&mut list);
    // The first time it travels, the second time the value names it.
    assert_eq!((descriptors.len(), list.len()), (2, 1));
    let (bytes, descriptors) = encode(&mut list);
    assert_eq!((descriptors.len(), list.len()), (1, 1));
    let arrived = Arrived::new(descriptors, list.into());
    let decoded = decode::<(SharedMemory, SharedFd, SharedMemory)>(&bytes, arrived, "it").unwrap();
    memory.word64(0).store(7, Relaxed);
    assert_eq!((decoded.0.word64(0).load(Relaxed), decoded.2.word64(0).load(Relaxed)), (7, 7));
    let error = decode::<(SharedMemory, SharedFd, SharedMemory)>(&bytes, Vec::new(), "it").unwrap_err();
    assert!(error.to_string().contains("did not arrive"), "{error}");
}

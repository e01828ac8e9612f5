//! Helpers of unit tests: bytes, words and descriptors as a faulty process may send them.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::RngSeed;
use serde::de::DeserializeOwned;

use crate::error::Result;
use crate::ipc::ring::Position;
use crate::ipc::wire::{Transferable, decode, encode_with_descriptors};
use crate::sys::immutable::ImmutableMemory;
use crate::sys::memfd;
use crate::sys::socket;

/// A configuration with this many cases, the same in every run.
pub(crate) fn cases(cases: u32) -> ProptestConfig {
    let rng_seed = RngSeed::Fixed(0x6d75_6c74_6970_726f);
    ProptestConfig { cases, rng_seed, failure_persistence: None, ..ProptestConfig::default() }
}

/// How long this thread has run, so that other load does not count.
pub(crate) fn thread_time() -> Duration {
    Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap())
}

/// Any bytes; mostly small numbers, of which lengths, kinds and variants consist.
pub(crate) fn any_bytes(max: usize) -> impl Strategy<Value = Vec<u8>> {
    vec(prop_oneof![3 => 0..9_u8, 1 => any::<u8>()], 0..=max)
}

/// Any number; mostly close to where sums overflow and rings end.
pub(crate) fn any_word() -> impl Strategy<Value = u64> {
    let edge = (any::<Index>(), -9..=9_i64).prop_map(|(edge, beside)| {
        let edges = [0_u64, 1 << 10, 1 << 16, 1 << 20, 1 << 22, 1 << 31, 1 << 32, 1 << 63];
        edges[edge.index(edges.len())].wrapping_add(beside.cast_unsigned())
    });
    prop_oneof![3 => edge, 1 => any::<u64>()]
}

/// The positions of the two sides of a ring; mostly plausible ones.
pub(crate) fn any_words(size: u32) -> impl Strategy<Value = [u64; 2]> {
    let near = (any_word(), 0..size / 8 + 9, 0..size + 9).prop_map(|(word, frames, bytes)| {
        [word, word.wrapping_add(u64::from(frames) << 32).wrapping_add(u64::from(bytes))]
    });
    prop_oneof![3 => near, 1 => [any_word(), any_word()]]
}

/// The word of the position that is this many frames and bytes after that of a new ring.
pub(crate) fn after_start(frames: u32, bytes: u32) -> u64 {
    let start = Position::START;
    u64::from(start.frames.wrapping_add(frames)) << 32 | u64::from(start.bytes.wrapping_add(bytes))
}

/// Descriptors of all sorts: memory (unsealed, empty, sealed), a device, a directory, a socket without a
/// peer.
pub(crate) fn descriptors(choice: &[u8]) -> Vec<OwnedFd> {
    let one = |choice: &u8| match choice % 6 {
        0 => memfd::write(&[1; 5000]).unwrap(),
        1 => memfd::write(&[]).unwrap(),
        2 => ImmutableMemory::copy(&[1; 4096]).unwrap().1,
        3 => File::open("/dev/null").unwrap().into(),
        4 => File::open("/").unwrap().into(),
        _ => socket::pair().unwrap().0,
    };
    choice.iter().map(one).collect()
}

/// Other bytes at some places of an encoding.
pub(crate) fn any_changes() -> impl Strategy<Value = Vec<(Index, u8)>> {
    vec((any::<Index>(), prop_oneof![3 => 0..9_u8, 1 => any::<u8>()]), 0..4)
}

/// Encodes a handle, and decodes it with these changes.
pub(crate) fn decode_changed<T: DeserializeOwned>(
    handle: &impl Transferable,
    changes: &[(Index, u8)],
) -> Result<T> {
    let mut bytes = Vec::new();
    let fds = encode_with_descriptors(handle, &mut bytes, "it")?;
    for (place, byte) in changes {
        *place.get_mut(&mut bytes) = *byte;
    }
    decode(&bytes, fds.iter().map(|fd| fd.as_fd().try_clone_to_owned().unwrap()).collect::<Vec<_>>(), "it")
}

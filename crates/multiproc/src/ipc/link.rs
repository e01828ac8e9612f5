//! What a child may need for a feature, in its bootstrap message: a byte that says whether it is there, the
//! encoded link, and a descriptor of shared memory.

use std::os::fd::OwnedFd;

use serde_core::Serialize;
use serde_core::de::DeserializeOwned;

use super::wire::{self, SharedFd};
use crate::error::{Error, Result};

const WHAT: &str = "a child's start";

/// Appends a link, if there is one; returns its descriptor.
pub(crate) fn encode<T: Serialize>(link: Option<&T>, body: &mut Vec<u8>) -> Result<Vec<SharedFd>> {
    body.push(link.is_some().into());
    link.map_or(Ok(Vec::new()), |link| wire::encode_internal_with_descriptors(link, body, WHAT))
}

/// Takes a link from the front of the bytes, and its descriptor from the end of the descriptors. Returns the
/// bytes after it, too.
pub(crate) fn decode<'a, T: DeserializeOwned>(
    bytes: &'a [u8],
    descriptors: &mut Vec<OwnedFd>,
) -> Result<(Option<T>, &'a [u8])> {
    match bytes.split_first() {
        Some((0, rest)) => Ok((None, rest)),
        Some((_, link)) => {
            let memory: Vec<_> = descriptors.pop().into_iter().collect();
            let (link, rest) = wire::decode_internal_front(link, memory, WHAT)?;
            Ok((Some(link), rest))
        }
        None => Err(Error::decode(WHAT, "it is too short")),
    }
}

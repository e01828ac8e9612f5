//! Room for the bytes of one value at a time.

use std::cell::Cell;

use serde::de::DeserializeOwned;

use crate::codec;
use crate::codec::raw;
use crate::error::{Error, Result};
use crate::ipc::panic;

/// An empty vector that this thread keeps, so that not every item needs an allocation. While it is borrowed, others who
/// come get new ones: an item's own code may use a queue.
pub(crate) struct Scratch(pub(crate) Vec<u8>);

/// A value on its way out of a ring. What runs none of the user's code is done while it is there: a plain value is made
/// in one copy, the bytes of any other are kept, to be decoded when no lock is held.
pub(crate) struct Undecoded<T> {
    plain: Option<Result<T, codec::Error>>,
    bytes: Scratch,
}

impl<T: DeserializeOwned> Undecoded<T> {
    pub(crate) fn new() -> Self {
        Self { plain: None, bytes: Scratch::borrow() }
    }

    pub(crate) fn keep(&mut self, bytes: &[u8]) {
        self.plain = raw::from_bytes(bytes);
        if self.plain.is_none() {
            self.bytes.0.extend_from_slice(bytes);
        }
    }

    /// The value; `what` names it in an error.
    pub(crate) fn decode(self, what: &str) -> Result<T> {
        match self.plain {
            Some(value) => value.map_err(|why| Error::decode(what, why)),
            None => panic::decode(&self.bytes.0, Vec::new(), what),
        }
    }
}

/// Larger ones are not kept.
const KEPT: usize = 4 * 1024 * 1024;

thread_local! {
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

impl Scratch {
    pub(crate) fn borrow() -> Self {
        Self(BUFFER.try_with(Cell::take).unwrap_or_default())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.0);
        if bytes.capacity() <= KEPT {
            bytes.clear();
            let _ = BUFFER.try_with(|buffer| buffer.set(bytes));
        }
    }
}

//! A scratch buffer for each thread, so that encoding and decoding a value allocates nothing.

use std::cell::Cell;

use serde_core::de::DeserializeOwned;

use crate::codec;
use crate::codec::raw;
use crate::error::{Error, Result};
use crate::ipc::panic;

/// The thread's buffer, empty. While it is borrowed, a nested borrow (an item's own code may use a queue)
/// gets a new vector.
pub(crate) struct Scratch(pub(crate) Vec<u8>);

/// A value taken out of a ring under a lock. A raw value is decoded at once, in one copy. The bytes of any
/// other are kept: decoding them runs user code, so it must wait until the lock is released.
pub(crate) struct Undecoded<T> {
    raw: Option<Result<T, codec::Error>>,
    bytes: Scratch,
}

impl<T: DeserializeOwned> Undecoded<T> {
    pub(crate) fn new() -> Self {
        Self { raw: None, bytes: Scratch::borrow() }
    }

    pub(crate) fn keep(&mut self, bytes: &[u8]) {
        self.raw = raw::from_bytes(bytes);
        if self.raw.is_none() {
            self.bytes.0.extend_from_slice(bytes);
        }
    }

    /// The value. `what` names it in an error.
    pub(crate) fn decode(self, what: &str) -> Result<T> {
        match self.raw {
            Some(value) => value.map_err(|why| Error::decode(what, why)),
            None => panic::decode(&self.bytes.0, Vec::new(), what),
        }
    }
}

/// A buffer larger than this (bytes) is freed, not kept.
const MAX_KEPT: usize = 4 * 1024 * 1024;

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
        if bytes.capacity() <= MAX_KEPT {
            bytes.clear();
            let _ = BUFFER.try_with(|buffer| buffer.set(bytes));
        }
    }
}

//! `Cursor`: takes the results of one batch, one by one.

use multiproc::Result;
use multiproc::pool::encoded;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::caller::inbox::{Batch, Content};
use crate::caller::unreadable;
use crate::protocol;

/// The results of one batch, decoded one by one.
pub(crate) struct Cursor {
    batch: Batch,
    /// The results not taken yet.
    pub(crate) left: u32,
    /// Where the next one begins.
    position: usize,
    has_index: bool,
}

impl Cursor {
    pub(crate) fn new(batch: Batch, has_index: bool) -> Self {
        Self { left: batch.count, batch, position: 0, has_index }
    }

    pub(crate) fn next<R: Serialize + DeserializeOwned>(&mut self) -> Result<R> {
        let index = self.batch.first + u64::from(self.batch.count.saturating_sub(self.left));
        self.left = self.left.saturating_sub(1);
        let index = self.has_index.then_some(index);
        match &self.batch.content {
            Content::Lost(error) => {
                let host = error.host().map(str::to_owned);
                Err(encoded::placed(error.clone(), index, host.as_deref()))
            }
            Content::Results { bytes, host, .. } => {
                let mut rest = bytes.get(self.position..).unwrap_or_default();
                let value = if rest.is_empty() { Err(unreadable()) } else { protocol::pop_result(&mut rest) };
                let result = value.and_then(|value| encoded::decode(value, "the result"));
                self.position = bytes.len() - rest.len();
                result.map_err(|error| encoded::placed(error, index, Some(host)))
            }
        }
    }
}

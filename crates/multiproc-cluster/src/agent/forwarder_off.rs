//! The stubs of a build without the feature `log`.

#![allow(clippy::unused_self, clippy::unused_async, reason = "as with the feature")]

use crate::connection::Connection;
use crate::protocol::Session;

pub(super) struct Forwarder;

impl Forwarder {
    pub(super) fn start(_connection: &Connection, _session: &Session, _level: u8) -> Self {
        Self
    }

    #[cfg(test)]
    pub(super) fn idle() -> Self {
        Self
    }

    pub(super) fn set_level(&self, _level: u8) {}

    pub(super) fn number_of(&self, _first: Option<u64>) -> Option<u64> {
        None
    }

    pub(super) fn collect(&self) {}

    pub(super) async fn flush(&self) {}
}

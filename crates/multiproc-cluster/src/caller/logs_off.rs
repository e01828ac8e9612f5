//! The stubs of a build without the feature `log`.

#![allow(
    clippy::unused_self,
    clippy::unused_async,
    clippy::unnecessary_wraps,
    reason = "as with the feature"
)]

use std::sync::Arc;
use std::time::Duration;

use multiproc::Result;

use super::Caller;

#[derive(Default)]
pub(crate) struct Logs {}

impl Logs {
    pub(crate) fn end(&self, _time: Duration) {}
}

pub(super) fn wanted_level() -> u8 {
    0
}

pub(super) async fn start(_caller: &Arc<Caller>) -> Result<()> {
    Ok(())
}

//! The stubs of a build without the feature `log`.

use std::convert::Infallible;
use std::os::fd::OwnedFd;

use crate::error::Result;
use crate::impl_serde::impl_serde;
use crate::ipc::wire::SharedFd;
use crate::sys::poll::Deadline;

pub(crate) struct LogLink(Infallible);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FirstItem {}

impl_serde!(
    struct FirstItem {}
);

impl FirstItem {
    pub(crate) fn of_call(_is_single: bool, _number: Option<u64>) -> Self {
        Self {}
    }

    #[allow(clippy::unused_self, reason = "as with the feature")]
    pub(crate) fn at(self, _index: u64) -> Self {
        Self {}
    }
}

#[allow(clippy::unnecessary_wraps, reason = "as with the feature")]
pub(crate) fn encode_link(_has_task: bool, _is_first: bool, _body: &mut Vec<u8>) -> Result<Vec<SharedFd>> {
    Ok(Vec::new())
}

#[allow(clippy::unnecessary_wraps, reason = "as with the feature")]
pub(crate) fn decode_link<'a>(
    bytes: &'a [u8],
    _descriptors: &mut Vec<OwnedFd>,
) -> Result<(Option<LogLink>, &'a [u8])> {
    Ok((None, bytes))
}

pub(crate) fn install(link: LogLink, _process: &str) {
    match link.0 {}
}

pub(crate) fn set_running_item(_number: impl Fn() -> Option<u32> + Send + Sync + 'static) {}

pub(crate) fn begin_items(_first: FirstItem, _number: u32) {}

pub(crate) fn deliver(_deadline: Deadline) {}

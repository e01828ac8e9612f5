//! The stubs of a build without the feature `trace`.

use std::convert::Infallible;
use std::os::fd::OwnedFd;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::impl_serde::impl_serde;
use crate::ipc::wire::SharedFd;
use crate::sys::pidfd::Exit;

pub(crate) struct TraceLink(Infallible);

#[allow(clippy::unnecessary_wraps, reason = "as with the feature")]
pub(crate) fn encode_link(_has_task: bool, _body: &mut Vec<u8>) -> Result<Vec<SharedFd>> {
    Ok(Vec::new())
}

#[allow(clippy::unnecessary_wraps, reason = "as with the feature")]
pub(crate) fn decode_link<'a>(
    bytes: &'a [u8],
    _descriptors: &mut Vec<OwnedFd>,
) -> Result<(Option<TraceLink>, &'a [u8])> {
    Ok((None, bytes))
}

pub(crate) fn flush_file() {}

pub(crate) fn install(link: TraceLink, _name: &str) {
    match link.0 {}
}

pub(crate) fn start_from_environment() {}

pub(crate) fn name_worker(_name: &str, _index: usize) {}

pub(crate) fn waiting<R>(_name: &str, wait: impl FnOnce() -> R) -> R {
    wait()
}

pub(crate) fn task<R>(_name: &str, run: impl FnOnce() -> R) -> R {
    run()
}

pub(crate) fn exited(_pid: u32, _exit: Exit) {}

pub(crate) fn died(_worker: u32, _error: &Error) {}

pub(crate) fn restarted(_worker: u32, _index: usize) {}

pub(crate) fn timed_out(_worker: u32, _limit: Duration) {}

pub(crate) fn cancelled(_worker: Option<u32>) {}

#[derive(Debug)]
pub(crate) struct Items;

#[derive(Clone, Copy)]
pub(crate) struct Begun;

#[allow(clippy::unused_self, reason = "as with the feature")]
impl Items {
    pub(crate) fn new() -> Self {
        Self
    }

    pub(crate) fn initialize<R>(run: impl FnOnce() -> R) -> R {
        run()
    }

    pub(crate) fn on_header(&mut self, _tag: Tag, _function: &'static str, _number: u32) {}

    pub(crate) fn begin(&self, _number: u32) -> Begun {
        Begun
    }

    pub(crate) fn end(&mut self, _begun: Begun, _number: u32) {}

    pub(crate) fn pause(&mut self) {}
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tag {}

impl_serde!(
    struct Tag {}
);

#[derive(Clone, Copy)]
pub(crate) struct Submission;

impl Submission {
    pub(crate) fn begin(_first: u64) -> Self {
        Self
    }

    #[allow(clippy::unused_self, reason = "as with the feature")]
    pub(crate) fn tag(self) -> Tag {
        Tag {}
    }
}

#[derive(Default)]
pub(crate) struct Submissions {}

#[allow(clippy::unused_self, reason = "as with the feature")]
impl Submissions {
    pub(crate) fn submitted(&mut self, _submission: Submission, _worker: u32, _first: u32, _count: u32) {}

    pub(crate) fn begin_taking() -> u64 {
        0
    }

    pub(crate) fn taken(&mut self, _begun: u64, _worker: u32, _first: u32, _count: u32) {}
}

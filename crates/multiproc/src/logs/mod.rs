//! Feature `log`: the `log` records of children, in the logger of the program's first process.
//!
//! A child's logger writes each record into a ring in shared memory, which all processes of the program have,
//! so a record outlives its child from the moment that the logger returns. A thread of the first process
//! passes the records to its logger. A thread that joins a child waits for it, for a limited time.

mod child;
mod filter;
mod first_process;
mod progress;
mod reader;
mod record;
mod ring;

use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use self::filter::Filter;
use self::ring::LogRing;
use crate::error::Result;
use crate::impl_serde::impl_serde;
use crate::ipc::link;
use crate::ipc::wire::SharedFd;

pub(crate) use self::child::{FirstItem, begin_items, install, set_running_item};
pub(crate) use self::first_process::deliver;

/// What a child needs to send its records.
#[derive(Clone)]
pub(crate) struct LogLink {
    ring: LogRing,
    filter: Filter,
}

impl_serde!(struct LogLink { ring, filter });

/// Appends what a child needs to its bootstrap message; returns the descriptor, if it is to send records. A
/// zygote has no task, and sends none.
pub(crate) fn encode_link(has_task: bool, is_first: bool, body: &mut Vec<u8>) -> Result<Vec<SharedFd>> {
    let own = match (has_task, is_first) {
        (false, _) => None,
        (true, true) => first_process::link(),
        (true, false) => child::link(),
    };
    link::encode(own.as_ref(), body)
}

/// Takes that from the front of the bytes, and from the end of the descriptors.
pub(crate) fn decode_link<'a>(
    bytes: &'a [u8],
    descriptors: &mut Vec<OwnedFd>,
) -> Result<(Option<LogLink>, &'a [u8])> {
    link::decode(bytes, descriptors)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

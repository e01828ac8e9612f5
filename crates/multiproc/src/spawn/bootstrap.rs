//! The bootstrap message, the first packet to a child (the preparation data of Python's `multiprocessing`);
//! and this process's name from it.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::parent_id;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use crate::error::{Cause, Error, Origin, Result};
use crate::impl_serde::impl_serde;
use crate::ipc::packet;
use crate::ipc::wire::{self, SharedFd};
use crate::logs::{self, LogLink};
use crate::record;
use crate::sys::entry;
use crate::sys::process::own_pid;
use crate::task::{RunOnce, TaskId};
use crate::trace::{self, TraceLink};

/// The message without the task's arguments, which follow it.
struct Bootstrap {
    build: u64,
    name: String,
    parent_name: String,
    /// A zygote has none.
    task: Option<TaskId>,
    /// The directory for records, as the bytes of its path.
    records: Option<Vec<u8>>,
}

impl_serde!(struct Bootstrap { build, name, parent_name, task, records });

/// The beginning of the first packet to an executed process. It differs between versions, as messages may.
pub(crate) const MAGIC: &[u8] = concat!("multiproc start ", env!("CARGO_PKG_VERSION"), "\n").as_bytes();

/// Appends the arguments of a task to a message, and returns their descriptors. Not a generic parameter: what prepares
/// a start is compiled once, and not for each task.
pub(super) type EncodeArgs<'a> = dyn FnMut(&mut Vec<u8>) -> Result<Vec<SharedFd>> + 'a;

/// Encodes a bootstrap message, to which `encode_args` appends the arguments; returns it and its descriptors.
pub(crate) fn encode(
    name: &str,
    task: Option<TaskId>,
    encode_args: &mut EncodeArgs<'_>,
) -> Result<(Vec<u8>, Vec<SharedFd>)> {
    let own = identity().ok_or_else(|| Error::new(Cause::NotInitialised))?;
    let bootstrap = Bootstrap {
        build: entry::build(),
        name: name.to_owned(),
        parent_name: own.name.clone(),
        task,
        records: record::wanted_directory().map(|path| path.into_os_string().into_vec()),
    };
    let mut body = Vec::new();
    wire::encode_internal(&bootstrap, &mut body, "a child's start")?;
    let trace = trace::encode_link(task.is_some(), &mut body)?;
    let log_memory = logs::encode_link(task.is_some(), own.parent.is_none(), &mut body)?;
    let mut descriptors = encode_args(&mut body)?;
    descriptors.extend(log_memory.into_iter().chain(trace));
    Ok((body, descriptors))
}

/// A decoded bootstrap message.
pub(crate) struct ChildStart {
    pub(crate) name: String,
    /// The function in this program, or why it was not found. A zygote has none.
    pub(crate) task: Option<Result<RunOnce>>,
    pub(crate) args: Vec<u8>,
    pub(crate) descriptors: Vec<OwnedFd>,
    /// Where to send log records.
    pub(crate) logs: Option<LogLink>,
    /// Where to write events.
    pub(crate) trace: Option<TraceLink>,
}

/// Decodes a bootstrap message, and sets this process's identity by it.
pub(crate) fn receive(packet: &[u8], descriptors: Vec<OwnedFd>) -> Result<ChildStart> {
    let (parent, records, start) = decode(packet, descriptors)?;
    record::set_wanted_directory(records);
    let parent = (parent, parent_id());
    set_identity(ProcessIdentity { name: start.name.clone(), parent: Some(parent), worker_index: None });
    Ok(start)
}

/// Returns the parent's name and the directory for records, too.
fn decode(packet: &[u8], descriptors: Vec<OwnedFd>) -> Result<(String, Option<PathBuf>, ChildStart)> {
    let (bytes, mut descriptors) = packet::unpack(packet, descriptors)?;
    let body = bytes.strip_prefix(MAGIC).unwrap_or(&bytes);
    let (bootstrap, args): (Bootstrap, _) = wire::decode_internal_front(body, Vec::new(), "a child's start")?;
    if bootstrap.build != entry::build() {
        return Err(Error::new(Cause::Start(
            "parent and child are different builds of the program".to_owned(),
        )));
    }
    let (trace, args) = trace::decode_link(args, &mut descriptors)?;
    let (logs, args) = logs::decode_link(args, &mut descriptors)?;
    let Bootstrap { name, parent_name, task, records, .. } = bootstrap;
    let (task, args) = (task.map(TaskId::find), args.to_vec());
    let records = records.map(|path| PathBuf::from(OsString::from_vec(path)));
    Ok((parent_name, records, ChildStart { name, task, args, descriptors, logs, trace }))
}

/// This process among the library's processes.
#[derive(Debug)]
pub(crate) struct ProcessIdentity {
    pub(crate) name: String,
    pub(crate) parent: Option<(String, u32)>,
    /// A pool worker's index in its pool, counted from 0.
    pub(crate) worker_index: Option<usize>,
}

/// A copy that another thread forks reads it, too, whatever threads have read it at the fork.
static IDENTITY: RwLock<Option<Arc<ProcessIdentity>>> = RwLock::new(None);

/// This process's identity. `None` before [`init`](crate::init()) was called.
pub(crate) fn identity() -> Option<Arc<ProcessIdentity>> {
    IDENTITY.read().unwrap_or_else(PoisonError::into_inner).clone()
}

pub(crate) fn set_identity(identity: ProcessIdentity) {
    *IDENTITY.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(identity));
}

/// Makes this process known as a pool's worker.
pub(crate) fn set_worker_index(index: usize) {
    if let Some(own) = identity() {
        let (name, parent) = (own.name.clone(), own.parent.clone());
        set_identity(ProcessIdentity { name, parent, worker_index: Some(index) });
    }
}

/// This process as the worker of its pool, as errors name it.
pub(crate) fn worker_origin() -> Origin {
    let worker = identity().filter(|own| own.worker_index.is_some());
    worker.map_or_else(|| Origin::Worker { pid: own_pid() }, |own| Origin::worker(&own.name, own_pid()))
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{any_bytes, cases, descriptors};

    fn bootstrap(build: u64) -> Vec<u8> {
        let task = Some(TaskId::of::<RunOnce, _, ()>(|| ()).unwrap());
        let (name, parent_name) = ("child".to_owned(), "parent".to_owned());
        let bootstrap = Bootstrap { build, name, parent_name, task, records: Some(b"/records".to_vec()) };
        let mut packet = [&[0][..], MAGIC].concat();
        wire::encode_internal(&bootstrap, &mut packet, "a bootstrap message").unwrap();
        trace::encode_link(false, &mut packet).unwrap();
        logs::encode_link(false, false, &mut packet).unwrap();
        packet.extend_from_slice(b"arguments");
        packet
    }

    proptest! {
        #![proptest_config(cases(300))]

        #[test]
        fn any_bytes_are_a_message_or_an_error(
            damage in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            cut in any::<prop::sample::Index>(),
            bytes in any_bytes(100),
            choice in vec(any::<u8>(), 0..4),
        ) {
            let mut damaged = bootstrap(entry::build());
            for (at, byte) in damage {
                let at = at.index(damaged.len());
                damaged[at] = byte;
            }
            let _ = decode(&damaged, descriptors(&choice));
            let _ = decode(&damaged[..cut.index(damaged.len())], descriptors(&choice));
            let _ = decode(&bytes, descriptors(&choice));
        }
    }

    #[test]
    fn a_message_from_another_build_is_refused() {
        let decode_from = |build| decode(&bootstrap(build), Vec::new());
        let (parent, records, start) = decode_from(entry::build()).unwrap();
        assert_eq!(
            (parent.as_str(), start.name.as_str(), &start.args[..]),
            ("parent", "child", &b"arguments"[..])
        );
        assert_eq!(records, Some(PathBuf::from("/records")));
        assert!(start.task.unwrap().is_ok());
        let error = decode_from(entry::build() ^ 1).err().unwrap();
        assert!(error.is_start() && error.to_string().contains("different builds"), "{error}");
    }
}

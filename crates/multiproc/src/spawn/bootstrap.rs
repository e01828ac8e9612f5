//! What a child is told at birth, and who a process is by that.

use std::os::fd::OwnedFd;
use std::os::unix::process::parent_id;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::error::{Cause, Error, Result};
use crate::ipc::packet;
use crate::ipc::wire::{self, SharedFd};
use crate::sys::entry;
use crate::task::{RunOnce, TaskId};

/// What a child is told at birth, in front of the task's arguments.
#[derive(Serialize, Deserialize)]
struct Bootstrap {
    build: u64,
    name: String,
    parent_name: String,
    /// A zygote has none.
    task: Option<TaskId>,
}

/// What the system shows as the name of a zygote.
pub(crate) const ZYGOTE: &str = "fork-server";

/// What stands in front of every bootstrap message, looked at before anything is believed. Letters differ between
/// versions.
pub(crate) const MAGIC: &[u8] = concat!("multiproc start ", env!("CARGO_PKG_VERSION"), "\n").as_bytes();

/// Writes a bootstrap message, with the arguments behind it, which `encode` appends; gives that, and the descriptors that go
/// with it.
pub(crate) fn encode(
    name: &str,
    task: Option<TaskId>,
    encode: impl FnOnce(&mut Vec<u8>) -> Result<Vec<SharedFd>>,
) -> Result<(Vec<u8>, Vec<SharedFd>)> {
    let own = identity().ok_or_else(|| Error::new(Cause::NotInitialised))?;
    let bootstrap =
        Bootstrap { build: entry::build(), name: name.to_owned(), parent_name: own.name.clone(), task };
    let mut body = Vec::new();
    wire::encode_own(&bootstrap, &mut body, "a child's start")?;
    let descriptors = encode(&mut body)?;
    Ok((body, descriptors))
}

/// What a child is born with: its bootstrap message, read.
pub(crate) struct ChildStart {
    pub(crate) name: String,
    /// Found in this program, if it is there. A zygote has none.
    pub(crate) task: Option<Result<RunOnce>>,
    pub(crate) args: Vec<u8>,
    pub(crate) descriptors: Vec<OwnedFd>,
}

/// Reads a bootstrap message; this process is known by what it says from now on.
pub(crate) fn receive(packet: &[u8], descriptors: Vec<OwnedFd>) -> Result<ChildStart> {
    let (parent, birth) = decode(packet, descriptors)?;
    let parent = (parent, parent_id());
    set_identity(Identity { name: birth.name.clone(), parent: Some(parent), worker_index: None });
    Ok(birth)
}

/// The parent's name, and what the child is born with.
fn decode(packet: &[u8], descriptors: Vec<OwnedFd>) -> Result<(String, ChildStart)> {
    let (bytes, descriptors) = packet::unpack(packet, descriptors)?;
    let body = bytes.strip_prefix(MAGIC).unwrap_or(&bytes);
    let (bootstrap, args): (Bootstrap, _) = wire::decode_own_front(body, Vec::new(), "a child's start")?;
    if bootstrap.build != entry::build() {
        return Err(Error::new(Cause::Start(
            "parent and child are different builds of the program".to_owned(),
        )));
    }
    let task = bootstrap.task.map(TaskId::find);
    Ok((bootstrap.parent_name, ChildStart { name: bootstrap.name, task, args: args.to_vec(), descriptors }))
}

/// Who this process is among the library's processes.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) name: String,
    pub(crate) parent: Option<(String, u32)>,
    /// Which of its pool's workers it is, counted from 0.
    pub(crate) worker_index: Option<usize>,
}

static IDENTITY: Mutex<Option<Arc<Identity>>> = Mutex::new(None);

/// Who this process is, once [`init`](crate::init) was called.
pub(crate) fn identity() -> Option<Arc<Identity>> {
    IDENTITY.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

pub(crate) fn set_identity(identity: Identity) {
    *IDENTITY.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(identity));
}

/// This process is known as a pool's worker from now on.
pub(crate) fn set_worker_index(index: usize) {
    if let Some(own) = identity() {
        let (name, parent) = (own.name.clone(), own.parent.clone());
        set_identity(Identity { name, parent, worker_index: Some(index) });
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{any_bytes, cases, descriptors};

    fn bootstrap(build: u64) -> Vec<u8> {
        let task = Some(TaskId::of::<RunOnce, _, ()>(|| ()).unwrap());
        let bootstrap = Bootstrap { build, name: "child".to_owned(), parent_name: "parent".to_owned(), task };
        let mut packet = [&[0][..], MAGIC].concat();
        wire::encode_own(&bootstrap, &mut packet, "a bootstrap message").unwrap();
        packet.extend_from_slice(b"arguments");
        packet
    }

    proptest! {
        #![proptest_config(cases(300))]

        #[test]
        fn any_bytes_are_a_letter_or_an_error(
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
    fn a_letter_from_another_build_is_refused() {
        let open_from = |build| decode(&bootstrap(build), Vec::new());
        let (parent, birth) = open_from(entry::build()).unwrap();
        assert_eq!(
            (parent.as_str(), birth.name.as_str(), &birth.args[..]),
            ("parent", "child", &b"arguments"[..])
        );
        assert!(birth.task.unwrap().is_ok());
        let error = open_from(entry::build() ^ 1).err().unwrap();
        assert!(error.is_start() && error.to_string().contains("different builds"), "{error}");
    }
}

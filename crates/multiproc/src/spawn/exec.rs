//! Starting a child, by one of two ways.
//!
//! The parent makes a pair of sockets, and either puts the [bootstrap message](super::bootstrap) into one of them and executes the program again with
//! the other as standard input; or has a child forked with that by a [zygote](super::zygote), which is itself
//! executed so, and sends it the message. What a child does with it: [`child_main`](super::child_main). Nothing of this has a name in
//! the file system or the environment.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Origin, Result};
use crate::ipc::packet::{Incoming, Message, OnShortage, PacketSocket, Sent};
use crate::ipc::wire::{self, SharedFd, SharedMemory};
use crate::spawn::bootstrap::{self, MAGIC, ZYGOTE};
use crate::spawn::supervisor::{self, Child, SpawnRequest, lock};
use crate::spawn::zygote::{Preforked, READY};
use crate::sys::failpoint::{self, Failpoint};
use crate::sys::poll::Deadline;
use crate::task::{RemoteFn, RunOnce, TaskId};

/// How long a child may take to reach [`init`](crate::init), unless the caller says otherwise.
pub(crate) const DEFAULT_START_TIMEOUT: Duration = Duration::from_secs(10);

/// A child's bootstrap message.
pub(crate) struct PreparedChild {
    name: String,
    bootstrap: Message,
}

/// Writes the bootstrap message for a child that is to call `function` with these arguments.
pub(crate) fn prepare<F, Args>(name: String, function: F, args: &Args) -> Result<PreparedChild>
where
    F: RemoteFn<Args>,
    Args: Serialize + DeserializeOwned,
{
    let task = TaskId::of::<RunOnce, _, _>(function)?;
    prepare_with(name, Some(task), |body| wire::encode_with_descriptors(args, body, "the arguments"))
}

/// As [`prepare`], for a function of the library's own.
pub(crate) fn prepare_own<F, Args>(name: String, function: F, args: &Args) -> Result<PreparedChild>
where
    F: RemoteFn<Args>,
    Args: Serialize + DeserializeOwned,
{
    let task = TaskId::of_own(function)?;
    prepare_with(name, Some(task), |body| wire::encode_own_with_descriptors(args, body, "the arguments"))
}

fn prepare_with(
    name: String,
    task: Option<TaskId>,
    encode: impl FnOnce(&mut Vec<u8>) -> Result<Vec<SharedFd>>,
) -> Result<PreparedChild> {
    let (body, descriptors) = bootstrap::encode(&name, task, encode)?;
    failpoint::hit(Failpoint::BootstrapWritten);
    Ok(PreparedChild { name, bootstrap: Message::new(body, descriptors)? })
}

impl PreparedChild {
    /// Executes the program again to be this child, which has so long to come up. Does not wait for that.
    pub(crate) fn exec(self, timeout: Option<Duration>, deadline: Deadline) -> Result<SpawnedChild> {
        let Self { name, bootstrap } = self;
        let (ours, theirs) = PacketSocket::pair()?;
        // The greeting is in the packet even when the bootstrap message is too large for that.
        if ours.send_with_prefix(MAGIC, &bootstrap, deadline)? != Sent::Done {
            return Err(Error::timeout("hand a child its task")); // of descriptors, the system takes only so many
        }
        let socket = theirs.into_descriptor()?;
        let order = SpawnRequest { name, socket, lifeline: ours.handle(), timeout, deadline };
        let child = supervisor::start(order)?;
        Ok(SpawnedChild::new(child, ours))
    }

    /// The bootstrap message, for a preforked child; none if it is too much for one packet with what goes with it.
    pub(crate) fn packet(&self) -> Option<&Message> {
        self.bootstrap.can_take_more().then_some(&self.bootstrap)
    }

    /// Takes on a preforked child that has been given it.
    pub(crate) fn adopt(self, preforked: Preforked) -> Result<SpawnedChild> {
        let Preforked { pid, pidfd, link } = preforked;
        let child = supervisor::adopt(pid, pidfd, self.name, link.handle())?;
        Ok(SpawnedChild::new(child, link))
    }
}

/// Executes the program again to be a zygote ([`crate::spawn::zygote`]), which shares this memory with us. Does not wait
/// until it is up.
pub(crate) fn exec_zygote(page: &SharedMemory, deadline: Deadline) -> Result<(PacketSocket, Arc<Child>)> {
    let encode = |body: &mut Vec<u8>| wire::encode_own_with_descriptors(page, body, "a zygote's start");
    let prepared = prepare_with(ZYGOTE.to_owned(), None, encode)?;
    let SpawnedChild { child, link, .. } = prepared.exec(None, deadline)?;
    Ok((link, child))
}

/// A child that has a task, and the socket on which it will say what became of that.
#[derive(Debug)]
pub(crate) struct SpawnedChild {
    pub(crate) child: Arc<Child>,
    link: PacketSocket,
    /// The outcome that has come, and since when it was there.
    heard: Mutex<Option<(Vec<u8>, Instant)>>,
}

/// How long a child may live on once its outcome is there: it flushes its output, and with `Spawn` runs exit
/// handlers.
const LINGERING: Duration = Duration::from_secs(5);

impl SpawnedChild {
    fn new(child: Arc<Child>, link: PacketSocket) -> Self {
        Self { child, link, heard: Mutex::default() }
    }

    /// Waits until the child has ended; says whether it has before the deadline. One whose outcome has been
    /// there for 5 s counts as ended, too: it cannot write out what it has printed, and may never be able to.
    pub(crate) fn wait(&self, deadline: Deadline) -> bool {
        self.child.wait_unless(deadline, || self.is_lingering()).is_some() || self.is_lingering()
    }

    fn is_lingering(&self) -> bool {
        let mut heard = lock(&self.heard);
        if heard.is_none() {
            *heard = self.receive().and_then(Result::ok).map(|outcome| (outcome, Instant::now()));
        }
        heard.as_ref().is_some_and(|(_, since)| since.elapsed() >= LINGERING)
    }

    /// What became of the task, once the child has ended: its encoded result, or why there is none.
    pub(crate) fn result(&self, origin: &dyn Fn() -> Origin) -> Result<Vec<u8>> {
        let heard = lock(&self.heard).take().map(|(outcome, _)| Ok(outcome));
        match heard.or_else(|| self.receive()) {
            Some(outcome) => decode_result(outcome?, origin),
            None => Err(self.child.exit_error(origin())),
        }
    }

    /// The outcome, if it is there.
    fn receive(&self) -> Option<Result<Vec<u8>>> {
        loop {
            match self.link.receive_or(OnShortage::Leave, Deadline::now()) {
                Ok(Incoming::Message(bytes, _)) if bytes == READY => self.child.mark_started(),
                Ok(Incoming::Message(bytes, _)) => return Some(Ok(bytes)),
                Ok(Incoming::TimedOut | Incoming::Disconnected) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

fn decode_result(mut bytes: Vec<u8>, origin: &dyn Fn() -> Origin) -> Result<Vec<u8>> {
    match bytes.split_first() {
        Some((0, _)) => {
            bytes.remove(0);
            Ok(bytes)
        }
        Some((_, error)) => {
            let error: Error = wire::decode_own(error, Vec::new(), "a child's error")?;
            Err(error.or_with_origin(origin))
        }
        None => Err(Error::decode("a child's outcome", "it is empty")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{any_bytes, cases};

    proptest! {
        #![proptest_config(cases(300))]

        #[test]
        fn any_bytes_are_an_outcome_or_an_error(bytes in any_bytes(200)) {
            let origin = || Origin::Worker { pid: 7 };
            match decode_result(bytes.clone(), &origin) {
                Ok(result) => prop_assert_eq!((0, &result[..]), (bytes[0], &bytes[1..])),
                Err(error) => prop_assert!(!error.to_string().is_empty()),
            }
        }
    }
}

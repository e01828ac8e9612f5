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

use crate::error::{Culprit, Error, Result};
use crate::ipc::packet::{Incoming, Link, Message, OnShortage, Sent};
use crate::ipc::wire::{self, Handle, Pages};
use crate::spawn::bootstrap::{self, GREETING};
use crate::spawn::child_main::TEMPLATE;
use crate::spawn::supervisor::{self, Child, Order, lock};
use crate::spawn::zygote::{Spare, UP};
use crate::sys::failpoint::{self, Failpoint};
use crate::sys::poll::Deadline;
use crate::task::{RemoteFn, TaskId};

/// How long a child may take to reach [`init`](crate::init), unless the caller says otherwise.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// A child's letter.
pub(crate) struct Posted {
    name: String,
    letter: Message,
}

/// Writes the letter for a child that is to call `function` with these arguments.
pub(crate) fn post<F, Args>(name: String, function: F, args: &Args) -> Result<Posted>
where
    F: RemoteFn<Args>,
    Args: Serialize + DeserializeOwned,
{
    let task = TaskId::of(function)?;
    post_letter(name, Some(task), |body| wire::encode_with_descriptors(args, body, "the arguments"))
}

/// As [`post`], for a function of the library's own.
pub(crate) fn post_own<F, Args>(name: String, function: F, args: &Args) -> Result<Posted>
where
    F: RemoteFn<Args>,
    Args: Serialize + DeserializeOwned,
{
    let task = TaskId::of_own(function)?;
    post_letter(name, Some(task), |body| wire::encode_own_with_descriptors(args, body, "the arguments"))
}

fn post_letter(
    name: String,
    task: Option<TaskId>,
    encode: impl FnOnce(&mut Vec<u8>) -> Result<Vec<Handle>>,
) -> Result<Posted> {
    let (body, descriptors) = bootstrap::write(&name, task, encode)?;
    failpoint::hit(Failpoint::BootstrapWritten);
    Ok(Posted { name, letter: Message::new(body, descriptors)? })
}

impl Posted {
    /// Executes the program again to be this child, which has so long to come up. Does not wait for that.
    pub(crate) fn exec(self, patience: Option<Duration>, deadline: Deadline) -> Result<Started> {
        let Self { name, letter } = self;
        let (ours, theirs) = Link::pair()?;
        // The greeting is in the packet even when the letter is too large for that.
        if ours.send_with_prefix(GREETING, &letter, deadline)? != Sent::Yes {
            return Err(Error::timeout("hand a child its task")); // of descriptors, the system takes only so many
        }
        let socket = theirs.into_descriptor()?;
        let order = Order { name, socket, lifeline: ours.handle(), patience, deadline };
        let child = supervisor::start(order)?;
        Ok(Started::new(child, ours))
    }

    /// The letter, for a spare; none if it is too much for one packet with what goes with it.
    pub(crate) fn for_spare(&self) -> Option<&Message> {
        self.letter.can_take_more().then_some(&self.letter)
    }

    /// Takes on a spare that has been given it.
    pub(crate) fn adopt(self, spare: Spare) -> Result<Started> {
        let Spare { pid, pidfd, link } = spare;
        let child = supervisor::adopt(pid, pidfd, self.name, link.handle())?;
        Ok(Started::new(child, link))
    }
}

/// Executes the program again to be a template ([`crate::spawn::zygote`]), which shares this memory with us. Does not wait
/// until it is up.
pub(crate) fn exec_template(page: &Pages, deadline: Deadline) -> Result<(Link, Arc<Child>)> {
    let encode = |body: &mut Vec<u8>| wire::encode_own_with_descriptors(page, body, "a template's start");
    let posted = post_letter(TEMPLATE.to_owned(), None, encode)?;
    let Started { child, link, .. } = posted.exec(None, deadline)?;
    Ok((link, child))
}

/// A child that has a task, and the socket on which it will say what became of that.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) child: Arc<Child>,
    link: Link,
    /// The outcome that has come, and since when it was there.
    heard: Mutex<Option<(Vec<u8>, Instant)>>,
}

/// How long a child may live on once its outcome is there: it flushes its output, and with `Spawn` runs exit
/// handlers.
const LINGERING: Duration = Duration::from_secs(5);

impl Started {
    fn new(child: Arc<Child>, link: Link) -> Self {
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
    pub(crate) fn outcome(&self, culprit: &dyn Fn() -> Culprit) -> Result<Vec<u8>> {
        let heard = lock(&self.heard).take().map(|(outcome, _)| Ok(outcome));
        match heard.or_else(|| self.receive()) {
            Some(outcome) => read_outcome(outcome?, culprit),
            None => Err(self.child.obituary(culprit())),
        }
    }

    /// The outcome, if it is there.
    fn receive(&self) -> Option<Result<Vec<u8>>> {
        loop {
            match self.link.receive_or(OnShortage::Leave, Deadline::now()) {
                Ok(Incoming::Message(bytes, _)) if bytes == UP => self.child.note_up(),
                Ok(Incoming::Message(bytes, _)) => return Some(Ok(bytes)),
                Ok(Incoming::NotYet | Incoming::Gone) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

fn read_outcome(mut bytes: Vec<u8>, culprit: &dyn Fn() -> Culprit) -> Result<Vec<u8>> {
    match bytes.split_first() {
        Some((0, _)) => {
            bytes.remove(0);
            Ok(bytes)
        }
        Some((_, error)) => {
            let error: Error = wire::decode_own(error, Vec::new(), "a child's error")?;
            Err(error.or_by(culprit))
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
            let culprit = || Culprit::Worker { pid: 7 };
            match read_outcome(bytes.clone(), &culprit) {
                Ok(result) => prop_assert_eq!((0, &result[..]), (bytes[0], &bytes[1..])),
                Err(error) => prop_assert!(!error.to_string().is_empty()),
            }
        }
    }
}

//! Starting a child, by one of two ways.
//!
//! The parent makes a pair of sockets, and either puts the [letter] into one of them and executes the program again with
//! the other as standard input; or has a child forked with that by a [template](crate::template), which is itself
//! executed so, and sends it the letter. What a child does with it: [`life`](crate::life). Nothing of this has a name in
//! the file system or the environment.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Culprit, Error, Result};
use crate::letter::{self, GREETING};
use crate::link::{Incoming, Link, Message, Sent};
use crate::supervisor::{self, Child, Order};
use crate::sys::fault::{self, Point};
use crate::sys::poll::Deadline;
use crate::task::{Call, TaskId};
use crate::template::{Spare, UP};
use crate::wire::{self, Pages, Travels};

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
    F: Call<Args>,
    Args: Serialize + DeserializeOwned,
{
    let task = TaskId::of(function)?;
    post_letter(name, Some(task), args)
}

fn post_letter<Args: Travels>(name: String, task: Option<TaskId>, args: &Args) -> Result<Posted> {
    let (body, descriptors) = letter::write(&name, task, args)?;
    fault::at(Point::LetterWritten);
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
        Ok(Started { child, link: ours })
    }

    /// The letter, for a spare; none if it is too much for one packet with what goes with it.
    pub(crate) fn for_spare(&self) -> Option<&Message> {
        self.letter.can_take_more().then_some(&self.letter)
    }

    /// Takes on a spare that has been given it.
    pub(crate) fn adopt(self, spare: Spare) -> Result<Started> {
        let Spare { pid, pidfd, link } = spare;
        let child = supervisor::adopt(pid, pidfd, self.name, link.handle())?;
        Ok(Started { child, link })
    }
}

/// Executes the program again to be a template ([`crate::template`]), which shares this memory with us. Does not wait
/// until it is up.
pub(crate) fn exec_template(page: &Pages, deadline: Deadline) -> Result<(Link, Arc<Child>)> {
    let posted = post_letter("fork-server".to_owned(), None, page)?;
    let Started { child, link } = posted.exec(None, deadline)?;
    Ok((link, child))
}

/// A child that has a task, and the socket on which it will say what became of that.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) child: Arc<Child>,
    link: Link,
}

impl Started {
    /// What became of the task, once the child has ended: its encoded result, or why there is none.
    pub(crate) fn outcome(&self, culprit: &dyn Fn() -> Culprit) -> Result<Vec<u8>> {
        while let Incoming::Message(bytes, _) = self.link.receive(Deadline::now())? {
            if bytes == UP {
                self.child.note_up();
                continue;
            }
            return read_outcome(bytes, culprit);
        }
        Err(self.child.obituary(culprit()))
    }
}

fn read_outcome(mut bytes: Vec<u8>, culprit: &dyn Fn() -> Culprit) -> Result<Vec<u8>> {
    match bytes.split_first() {
        Some((0, _)) => {
            bytes.remove(0);
            Ok(bytes)
        }
        Some((_, error)) => {
            let error: Error = wire::decode(error, Vec::new(), "a child's error")?;
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

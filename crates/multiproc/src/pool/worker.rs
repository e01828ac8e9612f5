//! A worker's life: take the next item, run it, leave its result.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::link::Link;
use crate::mailbox::{Lobby, Mailbox, POSTED, TASK, VALUE, WorkerEnd};
use crate::sys::original::Original;
use crate::sys::process::leave;
use crate::task::{Task, TaskId};
use crate::wire::{self, Handle};

/// What every worker of a pool runs first.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Initializer {
    pub(crate) task: TaskId,
    pub(crate) args: Vec<u8>,
    pub(crate) descriptors: Vec<Handle>,
}

/// What a worker has in common with its pool.
#[derive(Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) mailbox: Mailbox,
    pub(crate) link: Link,
    pub(crate) lobby: Lobby,
    /// How long to look for items before sleeping.
    pub(crate) spin: Duration,
}

/// The task of a worker process. Ends when the pool closes the mailbox.
pub(crate) fn serve(place: Place, initializer: Option<Initializer>) -> Result<()> {
    if let Some(initializer) = initializer {
        let original = Original::new()?;
        initializer.run()?;
        if !original.is_here() {
            leave(0); // a copy that the initializer has forked and let return here
        }
    }
    let mut mailbox = WorkerEnd::new(place.mailbox, place.link, place.lobby, place.spin)?;
    mailbox.be_ready();
    let mut task = Err(Error::decode("an item", "it is not said what it is for"));
    loop {
        match mailbox.next() {
            Some(TASK) => {
                task = mailbox.read(|id| wire::decode::<TaskId>(id, Vec::new(), "a task")?.find());
                if mailbox.next() == Some(TASK) {
                    return Err(Error::decode("an item", "there are only notes where it should be"));
                }
            }
            Some(VALUE) => match &task {
                Ok(task) => task.run_items(&mut mailbox),
                Err(error) => refuse(&mut mailbox, error)?,
            },
            Some(POSTED) => run_posted(&mut mailbox, &task),
            Some(_) => return Err(Error::decode("an item", "it begins with no known mark")),
            None if mailbox.wait()? => {}
            None => return Ok(()),
        }
    }
}

impl Initializer {
    fn run(self) -> Result<()> {
        let descriptors = self.descriptors.into_iter().map(Handle::into_descriptor).collect::<Result<_>>()?;
        self.task.find()?.run(&self.args, descriptors, &mut Vec::new())
    }
}

/// Ends an item that there is no function for.
fn refuse(mailbox: &mut WorkerEnd, error: &Error) -> Result<()> {
    mailbox.read(|_| Ok(()))?;
    mailbox.fail(error.clone());
    Ok(())
}

/// Runs an item that came as a message.
fn run_posted(mailbox: &mut WorkerEnd, task: &Result<Task>) {
    let mut result = Vec::new();
    let run = mailbox.receive().and_then(|(args, descriptors)| {
        let task = task.clone()?;
        args.look(|args| task.run(args, descriptors, &mut result))
    });
    match run.and_then(|()| mailbox.write(VALUE, &result)) {
        Ok(()) => mailbox.finish(),
        Err(error) => mailbox.fail(error),
    }
}

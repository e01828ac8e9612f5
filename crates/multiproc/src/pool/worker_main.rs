//! A worker's life: take the next item, run it, leave its result.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::call::Note;
use crate::error::{Error, Result};
use crate::ipc::packet::Link;
use crate::ipc::wire::{self, Handle};
use crate::pool::worker_rings::{Lobby, Mailbox, POSTED, TASK, VALUE, WorkerEnd};
use crate::spawn::bootstrap;
use crate::sys::failpoint::{self, Failpoint};
use crate::sys::fork_detect::Original;
use crate::sys::limit::limit_memory;
use crate::sys::process::leave;
use crate::task::{Task, TaskId};

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
    /// Which of its workers it is, counted from 0.
    pub(crate) index: usize,
    pub(crate) mailbox: Mailbox,
    pub(crate) link: Link,
    pub(crate) lobby: Lobby,
    /// How long to look for items before sleeping.
    pub(crate) spin: Duration,
    /// How many bytes of memory it may have.
    pub(crate) memory_limit: Option<u64>,
}

/// The task of a worker process. Ends when the pool closes the mailbox.
pub(crate) fn serve(place: Place, initializer: Option<Initializer>) -> Result<()> {
    bootstrap::become_worker(place.index);
    if let Some(bytes) = place.memory_limit {
        limit_memory(bytes)?;
    }
    if let Some(initializer) = initializer {
        failpoint::hit(Failpoint::Initializing);
        let original = Original::new()?;
        initializer.run()?;
        if !original.is_here() {
            leave(0); // a copy that the initializer has forked and let return here
        }
    }
    let mut mailbox = WorkerEnd::new(place.mailbox, place.link, place.lobby, place.spin)?;
    mailbox.be_ready();
    let mut task = Err(Error::decode("an item", "it is not said what it is for"));
    let mut is_timed = false;
    loop {
        match mailbox.next() {
            Some(TASK) => {
                task = mailbox.read(|note| {
                    let note: Note = wire::decode_own(note, Vec::new(), "a note")?;
                    is_timed = note.is_timed;
                    note.task.find()
                });
                if mailbox.next() == Some(TASK) {
                    return Err(Error::decode("an item", "there are only notes where it should be"));
                }
            }
            Some(kind @ (VALUE | POSTED)) => match &task {
                Ok(task) if kind == VALUE && !is_timed => task.run_items(&mut mailbox),
                task => run_one(&mut mailbox, kind, task.clone(), is_timed),
            },
            Some(_) => return Err(Error::decode("an item", "it begins with no known mark")),
            None if mailbox.wait()? => {}
            None => {
                failpoint::hit(Failpoint::ShutdownRequested);
                return Ok(());
            }
        }
    }
}

impl Initializer {
    fn run(self) -> Result<()> {
        let descriptors = self.descriptors.into_iter().map(Handle::into_descriptor).collect::<Result<_>>()?;
        self.task.find()?.run(&self.args, descriptors, &mut Vec::new())
    }
}

/// Runs an item that needs more care than most: it came as a message, its time is counted, or there is no function for it.
fn run_one(mailbox: &mut WorkerEnd, kind: u32, task: Result<Task>, is_timed: bool) {
    if is_timed {
        mailbox.start_clock();
    }
    let mut result = Vec::new();
    let run = if kind == POSTED {
        mailbox.receive().and_then(|(args, descriptors)| {
            failpoint::hit(Failpoint::ItemReceived);
            let task = task?;
            args.look(|args| task.run(args, descriptors, &mut result))
        })
    } else {
        mailbox.read(|args| task?.run(args, Vec::new(), &mut result))
    };
    let run = run.and_then(|()| mailbox.write(VALUE, &result));
    if is_timed {
        mailbox.flush_running();
        mailbox.stop_clock();
    }
    match run {
        Ok(()) => mailbox.finish(),
        Err(error) => mailbox.fail(error),
    }
}

//! A worker's life: take a chunk, run its items, report.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::outbox::{Outbox, ROOM};
use super::protocol::{ERROR, Frames, Order, VALUE, Word, begin_frame, finish_frame};
use crate::error::{Culprit, Error, Result};
use crate::link::{Incoming, Link, Message, Sent};
use crate::sys::poll::Deadline;
use crate::sys::process::{leave, own_pid};
use crate::task::{Task, TaskId};
use crate::wire::{self, Handle};

/// A worker that has been busy with a chunk for so long gives back what it has not begun, so that no item waits
/// behind more than one slow one while other workers are idle.
const PATIENCE: Duration = Duration::from_millis(10);

/// What every worker of a pool runs first.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Initializer {
    pub(crate) task: TaskId,
    pub(crate) args: Vec<u8>,
    pub(crate) descriptors: Vec<Handle>,
}

/// The task of a worker process. Ends when the pool closes its end of the link.
pub(crate) fn serve(link: Link, outbox: Outbox, initializer: Option<Initializer>) -> Result<()> {
    let pid = own_pid();
    if let Some(initializer) = initializer {
        initializer.run()?;
        stay_only_one(pid);
    }
    let mut worker = Worker { link, outbox, pid, report: Vec::new(), serial: 0, first: 0, next: 0 };
    if worker.say(&Word::Ready, &Message::inline(Vec::new()))? == Sent::Gone {
        return Ok(());
    }
    while let Incoming::Message(bytes, descriptors) = worker.link.receive(Deadline::Never)? {
        if worker.run_chunk(&bytes, descriptors)? == Sent::Gone {
            break;
        }
    }
    Ok(())
}

impl Initializer {
    fn run(self) -> Result<()> {
        let descriptors = self.descriptors.into_iter().map(Handle::into_descriptor).collect::<Result<_>>()?;
        self.task.find()?.run(&self.args, descriptors, &mut Vec::new())
    }
}

struct Worker {
    link: Link,
    outbox: Outbox,
    pid: u32,
    /// Results that are not reported yet, as they also stand in the outbox, since item `first`.
    report: Vec<u8>,
    serial: u32,
    first: u32,
    /// The item that comes next.
    next: u32,
}

impl Worker {
    fn run_chunk(&mut self, bytes: &[u8], mut descriptors: Vec<OwnedFd>) -> Result<Sent> {
        let (order, frames): (Order, _) = wire::decode_front(bytes, Vec::new(), "a chunk")?;
        let begun = Instant::now();
        (self.serial, self.first, self.next) = (order.serial, 0, 0);
        self.outbox.clear(0);
        self.outbox.started(order.serial, 0);
        let task = order.task.find();
        if !descriptors.is_empty() {
            self.outbox.started(order.serial, 1); // lest it be sent again without its descriptors
            if self.say(&Word::Began { serial: order.serial }, &Message::inline(Vec::new()))? == Sent::Gone {
                return Ok(Sent::Gone);
            }
        }
        for item in Frames(frames).take(order.count as usize) {
            self.outbox.started(order.serial, self.next + 1);
            let result = self.run_item(&task, item, std::mem::take(&mut descriptors));
            self.next += 1;
            if self.keep(result)? == Sent::Gone {
                return Ok(Sent::Gone);
            }
            if begun.elapsed() > PATIENCE {
                break;
            }
        }
        self.send_report(self.next, true, u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// Runs one item; gives the frame with its result.
    fn run_item(&self, task: &Result<Task>, item: &[u8], descriptors: Vec<OwnedFd>) -> Vec<u8> {
        let mut frame = Vec::with_capacity(64);
        begin_frame(&mut frame);
        frame.push(VALUE);
        let result = task.clone().and_then(|task| task.run(item, descriptors, &mut frame));
        stay_only_one(self.pid);
        let _ = std::io::stdout().flush(); // what a task has printed is seen when it is done, line end or not
        match result {
            Ok(()) => {
                finish_frame(&mut frame, 0);
                frame
            }
            Err(error) => self.error_frame(error),
        }
    }

    fn error_frame(&self, error: Error) -> Vec<u8> {
        let mut frame = Vec::with_capacity(256);
        begin_frame(&mut frame);
        frame.push(ERROR);
        let error = error.or_by(|| Culprit::Worker { pid: self.pid });
        let _ = wire::encode(&error, &mut frame, "an error"); // of strings and numbers: nothing can refuse
        finish_frame(&mut frame, 0);
        frame
    }

    /// Keeps the result of the item before `next` for the coming report, where it outlives this process. One that
    /// is too large for that is reported by itself.
    fn keep(&mut self, frame: Vec<u8>) -> Result<Sent> {
        let fits = self.report.len() + frame.len() <= ROOM;
        if !fits && self.send_report(self.next - 1, false, 0)? == Sent::Gone {
            return Ok(Sent::Gone);
        }
        if frame.len() <= ROOM {
            self.outbox.put(self.first, self.report.len(), &frame);
            self.report.extend_from_slice(&frame);
            return Ok(Sent::Yes);
        }
        match Message::new(frame, Vec::new()) {
            Ok(message) => self.say_report(message, self.next, false, 0),
            Err(error) => self.keep(self.error_frame(error)),
        }
    }

    fn send_report(&mut self, until: u32, end: bool, nanos: u64) -> Result<Sent> {
        if until == self.first && !end {
            return Ok(Sent::Yes);
        }
        let message = Message::inline(std::mem::take(&mut self.report));
        self.say_report(message, until, end, nanos)
    }

    /// Reports results from item `first` until before `until`. The outbox is cleared after that: one who is killed
    /// in between has reported them twice, which the parent can tell; the other order would lose them.
    fn say_report(&mut self, results: Message, until: u32, end: bool, nanos: u64) -> Result<Sent> {
        let (serial, first, count) = (self.serial, self.first, until - self.first);
        let sent = self.say(&Word::Report { serial, first, count, end, nanos }, &results)?;
        self.first = until;
        self.outbox.clear(until);
        Ok(sent)
    }

    fn say(&self, word: &Word, results: &Message) -> Result<Sent> {
        let mut prefix = Vec::new();
        wire::encode(word, &mut prefix, "a report")?;
        self.link.send_with_prefix(&prefix, results, Deadline::Never)
    }
}

/// Where a task has forked and both return, only the worker itself goes on.
fn stay_only_one(pid: u32) {
    if own_pid() != pid {
        leave(0);
    }
}

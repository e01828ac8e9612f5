//! Starting a child, and being one.
//!
//! The parent makes a pair of sockets, puts the [`Letter`] into one of them and executes the program again with the
//! other as standard input. The child finds the letter in [`init`], answers [`UP`], runs the task, answers with its
//! outcome and exits. Nothing of this has a name in the file system or the environment.

use std::io::Write;
use std::os::fd::AsFd;
use std::process::exit;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Cause, Culprit, Error, Result};
use crate::link::{Incoming, Link, Message, Sent};
use crate::supervisor::{self, Child, Order};
use crate::sys::entry;
use crate::sys::poll::Deadline;
use crate::sys::process::{self, become_child, die_with, leave, start_socket};
use crate::task::{Call, TaskId, note_panics};
use crate::wire::{self, Handle};

/// How long a child may take to reach [`init`], unless the caller says otherwise.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// What a child is told at birth, in front of the task's arguments.
#[derive(Serialize, Deserialize)]
struct Letter {
    build: u64,
    name: String,
    parent_name: String,
    task: TaskId,
}

/// The first bytes of every letter, looked at before anything is believed.
const GREETING: &[u8] = b"multiproc start 1\n";
/// A child's first message.
const UP: &[u8] = b"up";

/// Who this process is among the library's processes.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) name: String,
    pub(crate) parent: Option<(String, u32)>,
}

static IDENTITY: OnceLock<Identity> = OnceLock::new();

/// Makes this program able to have child processes. **Call it as the first line of `main`.**
///
/// A child process is this program, executed again. In a child, this function runs the child's task and exits; it
/// never returns there. In the program that the user started, it returns at once. What stands before it in `main`
/// runs in every child, too. Without it, starting a child is an error that says so, so a program that forgets it
/// does not start copies of itself without end.
///
/// In a child, standard input is empty, standard output and error are the parent's, every other inherited descriptor
/// is closed, no signal is blocked, and [`std::env::args`] are the parent's. When the parent ends, however it ends,
/// the child is killed.
///
/// ```
/// use multiproc::Process;
///
/// fn main() -> multiproc::Result<()> {
///     multiproc::init();
///     println!("printed once: a child does not come here");
///     Process::spawn(|| println!("printed by the child"), ())?.join()
/// }
/// ```
pub fn init() {
    if IDENTITY.get().is_some() {
        return;
    }
    if let Some(socket) = start_socket(&[&[0], GREETING].concat()) {
        match become_child() {
            Ok(()) => live(&Link::from_socket(socket)),
            Err(error) => fail_to_start(&error),
        }
    }
    let _ = IDENTITY.set(Identity { name: "main".to_owned(), parent: None });
}

/// Who this process is, once [`init`] was called.
pub(crate) fn identity() -> Option<&'static Identity> {
    IDENTITY.get()
}

/// A child that has a task, and the socket on which it will say what became of that.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) child: Arc<Child>,
    link: Link,
}

/// Starts a child that calls `function` with these arguments.
pub(crate) fn call<F, Args>(name: String, function: F, args: &Args, patience: Duration) -> Result<Started>
where
    F: Call<Args>,
    Args: Serialize + DeserializeOwned,
{
    let task = TaskId::of(function)?;
    let mut bytes = Vec::new();
    let descriptors = wire::encode_with_descriptors(args, &mut bytes, "the arguments")?;
    start(name, task, &bytes, descriptors, patience)
}

fn start(
    name: String,
    task: TaskId,
    args: &[u8],
    descriptors: Vec<Handle>,
    patience: Duration,
) -> Result<Started> {
    let own = identity().ok_or_else(|| Error::new(Cause::NotInitialised))?;
    let (ours, theirs) = Link::pair()?;
    let letter = Letter { build: entry::build(), name: name.clone(), parent_name: own.name.clone(), task };
    let mut body = Vec::new();
    wire::encode(&letter, &mut body, "a child's start")?;
    body.extend_from_slice(args);
    // The greeting goes by itself: it must be in the packet even when the letter is too large for one.
    let deadline = Deadline::after(patience);
    for message in [Message::new(GREETING.to_vec(), Vec::new())?, Message::new(body, descriptors)?] {
        if ours.send(&message, deadline)? != Sent::Yes {
            return Err(Error::timeout("hand a child its task")); // of descriptors, the system takes only so many
        }
    }
    let socket = theirs.as_fd().try_clone_to_owned().map_err(|e| Error::io("copy a descriptor", &e))?;
    drop(theirs);
    let child = supervisor::start(Order { name, socket, lifeline: ours.handle(), patience })?;
    Ok(Started { child, link: ours })
}

impl Started {
    /// What became of the task, once the child has ended: its encoded result, or why there is none.
    pub(crate) fn outcome(&self, culprit: &dyn Fn() -> Culprit) -> Result<Vec<u8>> {
        let mut came_up = false;
        while let Incoming::Message(bytes, _) = self.link.receive(Deadline::now())? {
            if bytes == UP {
                came_up = true;
                continue;
            }
            return match bytes.split_first() {
                Some((0, result)) => Ok(result.to_vec()),
                Some((_, error)) => {
                    let error: Error = wire::decode(error, Vec::new(), "a child's error")?;
                    Err(error.or_by(culprit))
                }
                None => Err(Error::decode("a child's outcome", "it is empty")),
            };
        }
        Err(self.child.obituary(culprit(), came_up))
    }
}

/// A child's whole life.
fn live(link: &Link) -> ! {
    let me = process::own_pid();
    let (letter, args, descriptors) = match read_letter(link) {
        Ok(read) => read,
        Err(error) => refuse_to_start(link, &error),
    };
    process::show_name(&letter.name);
    let parent = (letter.parent_name, std::os::unix::process::parent_id());
    let _ = IDENTITY.set(Identity { name: letter.name, parent: Some(parent) });
    note_panics();
    let up = die_with(link.as_fd()).and_then(|()| Message::new(UP.to_vec(), Vec::new()));
    let up = up.and_then(|up| send(link, &up));
    if up.is_err() {
        leave(1); // the parent is gone, and so shall we be
    }
    let mut outcome = vec![0];
    let result = letter.task.find().and_then(|task| task.run(&args, descriptors, &mut outcome));
    if process::own_pid() != me {
        leave(0); // a copy that the task forked and let return here: it has nothing to say
    }
    let _ = std::io::stdout().flush();
    match result {
        Ok(()) => {
            let message = Message::new(outcome, Vec::new());
            exit(message.map_or_else(|error| report(link, &error), |outcome| deliver(link, &outcome, 0)))
        }
        Err(error) => exit(report(link, &error)),
    }
}

fn read_letter(link: &Link) -> Result<(Letter, Vec<u8>, Vec<std::os::fd::OwnedFd>)> {
    let next = || match link.receive(Deadline::now())? {
        Incoming::Message(bytes, descriptors) => Ok((bytes, descriptors)),
        Incoming::NotYet | Incoming::Gone => Err(Error::decode("a child's start", "it is not there")),
    };
    next()?; // the greeting, which `start_socket` has compared
    let (body, descriptors) = next()?;
    let (letter, args): (Letter, _) = wire::decode_front(&body, Vec::new(), "a child's start")?;
    if letter.build != entry::build() {
        return Err(Error::new(Cause::Start(
            "parent and child are different builds of the program".to_owned(),
        )));
    }
    Ok((letter, args.to_vec(), descriptors))
}

/// Tells the parent of an error; gives the exit code that goes with it.
fn report(link: &Link, error: &Error) -> i32 {
    let code = if error.is_panic() { 101 } else { 1 }; // 101, as a panic in main would give
    let mut outcome = vec![1];
    let message =
        wire::encode(error, &mut outcome, "an error").and_then(|()| Message::new(outcome, Vec::new()));
    message.map_or(code, |outcome| deliver(link, &outcome, code))
}

/// Sends the outcome to whoever may still want it: a detached child's parent does not, and that is no error.
fn deliver(link: &Link, outcome: &Message, code: i32) -> i32 {
    let _ = send(link, outcome);
    code
}

fn refuse_to_start(link: &Link, error: &Error) -> ! {
    report(link, error);
    leave(1)
}

/// The child has no way yet to tell its parent, so it tells the user.
fn fail_to_start(error: &Error) -> ! {
    let _ = writeln!(std::io::stderr(), "a child process did not start: {error}");
    leave(1)
}

/// Sends what surely has room; a parent that is gone is an error.
fn send(link: &Link, message: &Message) -> Result<()> {
    match link.send(message, Deadline::Never)? {
        Sent::Yes => Ok(()),
        Sent::NotYet | Sent::Gone => Err(Error::disconnected("parent")),
    }
}

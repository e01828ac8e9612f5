//! Starting a child, and being one.
//!
//! The parent makes a pair of sockets, and either puts the [`Letter`] into one of them and executes the program again with
//! the other as standard input; or has a child forked with that by a [template](crate::template), which is itself
//! executed so, and sends it the letter. One that was executed finds the letter in [`init`] and answers [`UP`]; one that
//! was forked is up when it begins. The child runs the task, answers with its outcome and exits. Nothing of this has a
//! name in the file system or the environment.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::process::exit;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Cause, Culprit, Error, Result};
use crate::link::{self, Incoming, Link, Message, Sent};
use crate::supervisor::{self, Child, Order, lock};
use crate::sys::entry;
use crate::sys::fault::{self, Point};
use crate::sys::fork::{close_streams, flush_c_streams, install};
use crate::sys::memory::Shared;
use crate::sys::poll::Deadline;
use crate::sys::process::{self, become_child, die_with, leave, start_socket};
use crate::task::{Call, Task, TaskId, note_panics};
use crate::template::{self, FAILED, Need, Spare, UP};
use crate::wire::{self, Handle, Pages};

/// How long a child may take to reach [`init`], unless the caller says otherwise.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// What a child is told at birth, in front of the task's arguments.
#[derive(Serialize, Deserialize)]
struct Letter {
    build: u64,
    name: String,
    parent_name: String,
    /// A template has none.
    task: Option<TaskId>,
}

/// What stands in front of every letter, looked at before anything is believed.
const GREETING: &[u8] = b"multiproc start 1\n";

/// Who this process is among the library's processes.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) name: String,
    pub(crate) parent: Option<(String, u32)>,
}

static IDENTITY: Mutex<Option<Arc<Identity>>> = Mutex::new(None);

/// Makes this program able to have child processes. **Call it as the first line of `main`.**
///
/// A child process is this program, executed again, or the copy of one that was ([`StartMethod`](crate::StartMethod)).
/// In a child, this function runs the child's task and exits; it never returns there. In the program that the user
/// started, it returns at once, and a second call does nothing. What stands before it in `main` runs in every process
/// that is executed. Without it, starting a child is an error that says so, so a program that forgets it does not start
/// copies of itself without end. (A test that starts processes needs a `main` of its own, with `harness = false` in
/// `Cargo.toml`: the standard one does not call this.)
///
/// In a child, standard input is empty, standard output and error are the parent's, every other inherited descriptor
/// is closed, no signal is blocked, and [`std::env::args`] are the parent's. When the parent ends, however it ends,
/// the child is killed.
///
/// Ctrl-C is for the program that the user started. A terminal sends SIGINT to all its processes, but in a child that
/// does nothing, unless the program ignores it or has set up a handler before this call. If the program dies of it, so do
/// the children; if it handles it, they go on, and it can end its work in good order. Another program that a child
/// executes has the default again.
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
    if identity().is_some() {
        return;
    }
    if let Some(socket) = start_socket(|packet| link::prefix(packet).starts_with(GREETING)) {
        live(Link::from_socket(socket));
    }
    become_known(Identity { name: "main".to_owned(), parent: None });
}

/// Who this process is, once [`init`] was called.
pub(crate) fn identity() -> Option<Arc<Identity>> {
    lock(&IDENTITY).clone()
}

fn become_known(identity: Identity) {
    *lock(&IDENTITY) = Some(Arc::new(identity));
}

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

fn post_letter<Args: Serialize>(name: String, task: Option<TaskId>, args: &Args) -> Result<Posted> {
    let (body, descriptors) = write_letter(&name, task, args)?;
    fault::at(Point::LetterWritten);
    Ok(Posted { name, letter: Message::new(body, descriptors)? })
}

fn write_letter<Args: Serialize>(
    name: &str,
    task: Option<TaskId>,
    args: &Args,
) -> Result<(Vec<u8>, Vec<Handle>)> {
    let own = identity().ok_or_else(|| Error::new(Cause::NotInitialised))?;
    let letter = Letter { build: entry::build(), name: name.to_owned(), parent_name: own.name.clone(), task };
    let mut body = Vec::new();
    wire::encode(&letter, &mut body, "a child's start")?;
    let descriptors = wire::encode_with_descriptors(args, &mut body, "the arguments")?;
    Ok((body, descriptors))
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

/// The whole life of a process that was executed: that of a child, or a template's.
fn live(link: Link) -> ! {
    fault::at(Point::Born);
    note_panics();
    let birth = become_child().and_then(|()| receive_letter(&link));
    let birth = birth.unwrap_or_else(|error| refuse_to_start(&link, &error));
    process::show_name(&birth.name);
    if birth.task.is_none() {
        live_as_template(link, birth);
    }
    if let Err(error) = die_with(link.as_fd()).and_then(|()| send(&link, &Message::inline(UP.to_vec()))) {
        refuse_to_start(&link, &error); // mostly the parent is gone, and nobody hears it
    }
    exit(work(&link, birth))
}

/// A template's life; and, from the moment on at which they are forked, that of its children.
fn live_as_template(link: Link, birth: Birth) -> ! {
    let page = wire::decode(&birth.args, birth.descriptors, "a template's start").map(Pages::into_mapping);
    let page = page.unwrap_or_else(|error| refuse_to_start(&link, &error));
    fault::at(Point::TemplateUp);
    if let Err(error) = send(&link, &Message::inline(UP.to_vec())) {
        refuse_to_start(&link, &error); // mostly the program is gone, and nobody hears it
    }
    let rehearsal = post_letter_to_nobody().unwrap_or_default();
    rehearse(&rehearsal);
    let (link, number, need) = template::serve(link, &page);
    fault::at(Point::Born);
    process::show_name(SPARE);
    if need == Need::Later {
        rehearse(&rehearsal);
    }
    live_as_spare(&link, page, number)
}

fn live_as_spare(link: &Link, page: Arc<Shared>, number: u64) -> ! {
    close_streams();
    fault::at(Point::Spare);
    let birth = receive_streams_and_letter(link).unwrap_or_else(|error| refuse_to_start(link, &error));
    process::show_name(&birth.name);
    template::await_parent(&page, number, link);
    if die_with(link.as_fd()).is_err() {
        leave(1);
    }
    drop(page); // the task must not be able to write there
    let code = work(link, birth);
    flush_c_streams();
    // Exit handlers are the template's, who lives on. To run them in each copy would cost as much as the fork itself.
    leave(code)
}

/// What the system shows as the name of a spare.
const SPARE: &str = "fork-spare";

/// Waits for what a spare is to be. Ends it when nobody holds the other end any more.
fn receive_streams_and_letter(link: &Link) -> Result<Birth> {
    let Incoming::Message(packet, descriptors) = link.receive_packet(Deadline::Never)? else { leave(0) };
    fault::at(Point::LetterTaken);
    let mut descriptors = descriptors.into_iter();
    // The streams arrive where they belong, as a rule, since these are the lowest numbers that are free.
    for number in [1, 2] {
        let stream =
            descriptors.next().ok_or_else(|| Error::decode("a child's start", "it has no streams"))?;
        install(stream, number).map_err(|errno| Error::system("set up a standard stream", errno))?;
    }
    read_letter(&packet, descriptors.collect())
}

/// A letter for a task that does nothing.
fn post_letter_to_nobody() -> Result<Vec<u8>> {
    let (body, _) = write_letter(SPARE, TaskId::of::<_, ()>(|| ()).ok(), &())?;
    Ok(link::packet(&body))
}

/// Does what comes with a letter, such as that one. What is made at the first use is so made once, in the template; and a
/// spare that waits anyway has all pages at hand that it will need, for each of which the system takes as long as for
/// several calls.
fn rehearse(packet: &[u8]) {
    let task = read_letter(packet, Vec::new()).ok().and_then(|birth| birth.task?.ok());
    let _ = task.map(|task| task.run(&[], Vec::new(), &mut Vec::new()));
    let _ = std::io::stdout().flush();
    flush_c_streams();
}

/// Runs the task, says what became of it; gives the exit code that goes with that.
fn work(link: &Link, birth: Birth) -> i32 {
    let Birth { task, args, descriptors, .. } = birth;
    let me = process::own_pid();
    let mut outcome = vec![0];
    let task = task.unwrap_or_else(|| Err(Error::decode("a child's start", "it has no task")));
    fault::at(Point::LetterRead);
    let result = task.and_then(|task| task.run(&args, descriptors, &mut outcome));
    if process::own_pid() != me {
        leave(0); // a copy that the task forked and let return here: it has nothing to say
    }
    fault::at(Point::Returned);
    let _ = std::io::stdout().flush();
    match result.and_then(|()| Message::new(outcome, Vec::new())) {
        Ok(outcome) => deliver(link, &outcome, 0),
        Err(error) => report(link, &error),
    }
}

/// What a child is born with: its letter, read.
struct Birth {
    name: String,
    /// Found in this program, if it is there. A template has none.
    task: Option<Result<Task>>,
    args: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

fn receive_letter(link: &Link) -> Result<Birth> {
    match link.receive_packet(Deadline::now())? {
        Incoming::Message(packet, descriptors) => read_letter(&packet, descriptors),
        Incoming::NotYet | Incoming::Gone => Err(Error::decode("a child's start", "it is not there")),
    }
}

/// Reads a letter; this process is known by what it says from now on.
fn read_letter(packet: &[u8], descriptors: Vec<OwnedFd>) -> Result<Birth> {
    let (parent, birth) = open_letter(packet, descriptors)?;
    let parent = (parent, std::os::unix::process::parent_id());
    become_known(Identity { name: birth.name.clone(), parent: Some(parent) });
    Ok(birth)
}

/// The parent's name, and what the child is born with.
fn open_letter(packet: &[u8], descriptors: Vec<OwnedFd>) -> Result<(String, Birth)> {
    let (bytes, descriptors) = link::unpack(packet, descriptors)?;
    let body = bytes.strip_prefix(GREETING).unwrap_or(&bytes);
    let (letter, args): (Letter, _) = wire::decode_front(body, Vec::new(), "a child's start")?;
    if letter.build != entry::build() {
        return Err(Error::new(Cause::Start(
            "parent and child are different builds of the program".to_owned(),
        )));
    }
    let task = letter.task.map(TaskId::find);
    Ok((letter.parent_name, Birth { name: letter.name, task, args: args.to_vec(), descriptors }))
}

/// Tells the parent of an error; gives the exit code that goes with it.
fn report(link: &Link, error: &Error) -> i32 {
    let code = if error.is_panic() { 101 } else { 1 }; // 101, as a panic in main would give
    let mut outcome = vec![FAILED];
    let message =
        wire::encode(error, &mut outcome, "an error").and_then(|()| Message::new(outcome, Vec::new()));
    message.map_or(code, |outcome| deliver(link, &outcome, code))
}

/// Sends the outcome to whoever may still want it: a detached child's parent does not, and that is no error. Where the
/// system refuses it, says so, if that can be sent.
fn deliver(link: &Link, outcome: &Message, code: i32) -> i32 {
    let sent = link.send(outcome, Deadline::Never);
    fault::at(Point::OutcomeSent);
    match sent {
        Err(error) if code == 0 => report(link, &error),
        _ => code,
    }
}

fn refuse_to_start(link: &Link, error: &Error) -> ! {
    report(link, error);
    leave(1)
}

/// Sends what surely has room; a parent that is gone is an error.
fn send(link: &Link, message: &Message) -> Result<()> {
    match link.send(message, Deadline::Never)? {
        Sent::Yes => Ok(()),
        Sent::NotYet | Sent::Gone => Err(Error::disconnected("parent")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{any_bytes, cases, descriptors};

    fn letter(build: u64) -> Vec<u8> {
        let task = Some(TaskId::of::<_, ()>(|| ()).unwrap());
        let letter = Letter { build, name: "child".to_owned(), parent_name: "parent".to_owned(), task };
        let mut packet = [&[0][..], GREETING].concat();
        wire::encode(&letter, &mut packet, "a letter").unwrap();
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
            let mut damaged = letter(entry::build());
            for (at, byte) in damage {
                let at = at.index(damaged.len());
                damaged[at] = byte;
            }
            let _ = open_letter(&damaged, descriptors(&choice));
            let _ = open_letter(&damaged[..cut.index(damaged.len())], descriptors(&choice));
            let _ = open_letter(&bytes, descriptors(&choice));
        }

        #[test]
        fn any_bytes_are_an_outcome_or_an_error(bytes in any_bytes(200)) {
            let culprit = || Culprit::Worker { pid: 7 };
            match read_outcome(bytes.clone(), &culprit) {
                Ok(result) => prop_assert_eq!((0, &result[..]), (bytes[0], &bytes[1..])),
                Err(error) => prop_assert!(!error.to_string().is_empty()),
            }
        }
    }

    #[test]
    fn a_letter_from_another_build_is_refused() {
        let open = |build| open_letter(&letter(build), Vec::new());
        let (parent, birth) = open(entry::build()).unwrap();
        assert_eq!(
            (parent.as_str(), birth.name.as_str(), &birth.args[..]),
            ("parent", "child", &b"arguments"[..])
        );
        assert!(birth.task.unwrap().is_ok());
        let error = open(entry::build() ^ 1).err().unwrap();
        assert!(error.is_start() && error.to_string().contains("different builds"), "{error}");
    }
}

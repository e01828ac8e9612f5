//! The life of a child, and of a zygote.
//!
//! A child that was executed finds its [bootstrap message](super::bootstrap) in [`init`], where it comes to life and says `READY`. One
//! that a zygote has forked is up when it begins, and waits for its bootstrap message. It runs the task, answers
//! with its outcome and exits.

use std::os::fd::AsFd;
use std::process::exit;
use std::sync::{Arc, Mutex, OnceLock};

use crate::error::{Error, Result};
use crate::ipc::packet::{self, Incoming, Message, PacketSocket, Sent};
use crate::ipc::panic::{catch_panic, install_panic_hook};
use crate::ipc::wire::{self, SharedMemory};
use crate::spawn::bootstrap::{self, ChildStart, Identity, MAGIC, ZYGOTE};
use crate::spawn::fork_server;
use crate::spawn::supervisor::lock;
use crate::spawn::zygote::{self, FAILED, Priority, READY};
use crate::sys::coverage;
use crate::sys::failpoint::{self, Failpoint};
use crate::sys::fork::{close_stdio, dup_onto, redirect_stdio_to_null, serve_on_fresh_thread};
use crate::sys::mapping::SharedMapping;
use crate::sys::output::{expect_one_thread_in_children, flush_all, flush_alone};
use crate::sys::poll::Deadline;
use crate::sys::process::{
    self, check_rights, exit_immediately, kill_on_hangup, setup_child, take_bootstrap_socket,
};
use crate::sys::socket::SocketOwner;
use crate::task::{RunOnce, TaskId};

/// Makes this program able to have child processes. **Call it as the first line of `main`.**
///
/// A child process is this program, executed again, or the copy of one that was
/// ([`StartMethod`](crate::StartMethod)). In a child, this function runs the child's task and exits; it never
/// returns there. In the program that the user started, it returns at once, and a second call does nothing.
/// What stands before it in `main` runs in every process that is executed, and a child that is not
/// ([`ForkServer`](crate::StartMethod::ForkServer)) has a copy of what it left in statics: for random numbers
/// that are drawn or seeded there see [`at_start`]. Without it, starting a child is an error that says so, so
/// a program that forgets it does not start copies of itself without end. (A test that starts processes needs
/// a `main` of its own, with `harness = false` in `Cargo.toml`: the standard one does not call this.)
///
/// `main` itself is a plain function. Under `#[tokio::main]` this call stands inside of a runtime, so a task
/// that makes one panics ("Cannot start a runtime from within a runtime"), and with threads before this call
/// each child is executed. Call this first, and then `tokio::runtime::Runtime::new()?.block_on(…)`.
///
/// With `panic = "abort"` in `Cargo.toml`, a task that panics ends its process: its error is that of a child
/// killed by SIGABRT, and [`Error::is_panic`] is false. The message of the panic is on standard error only.
///
/// In a child, standard input is empty, standard output and error are the parent's, every other inherited descriptor
/// is closed (before the program begins, so what stands before this call may open what it likes), no signal
/// is blocked, and [`std::env::args`] are the parent's. When the parent ends, however it ends,
/// the child is killed.
///
/// A child has no more rights than its parent has at its start. Where executing the program would give it
/// more (the file is set-uid or set-gid or has capabilities, and the program has given these rights up; a
/// security module decides so; root has given up capabilities), the child runs under `no_new_privs`, and so
/// does all that it executes: `sudo` and the like do not work there. Elsewhere they do. A program that has
/// gained rights when it was executed takes no task from whoever executed it.
///
/// A program that was not started by this library and has some other socket as standard input keeps that.
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
    #[cfg(multiproc_faults)]
    crate::sys::failpoint_control::install();
    if bootstrap::identity().is_some() {
        return;
    }
    if let Some((socket, maker)) = take_bootstrap_socket(|packet| packet::prefix(packet).starts_with(MAGIC)) {
        run_child(PacketSocket::from_socket(socket), maker);
    }
    bootstrap::set_identity(Identity { name: "main".to_owned(), parent: None, worker_index: None });
}

/// Has `function` called in every child process, before anything else that runs there: before the task of a
/// [`Process`](crate::Process), and before a pool worker's [initializer](crate::pool::PoolBuilder::initializer).
/// **Call it before [`init`].** Several functions are called in the order of these calls.
///
/// It is for what `main` sets up before [`init`] and every process needs for itself. Children that are forked
/// ([`StartMethod::ForkServer`](crate::StartMethod::ForkServer)) have copies of the *statics* that were set
/// there. So two children of a program that seeds a static generator of random numbers would draw the same
/// numbers, and a function for this call would seed it again: C's `rand`, a `static SEED: OnceLock<u64>`, a
/// `static` random state of `ahash` or of a map, the context of an id generator. Generators that are kept for
/// each thread need nothing: they are not seeded yet in a child, whatever `main` has done (`rand::rng()`,
/// `fastrand`, the keys of `HashMap`s).
///
/// A function that panics is that child's error, as if its task had panicked.
///
/// # Errors
/// After `init`, where it would have no effect.
///
/// ```
/// use std::process::id;
/// use std::sync::atomic::{AtomicU32, Ordering};
///
/// use multiproc::Process;
///
/// static SEED: AtomicU32 = AtomicU32::new(0);
///
/// fn seed() {
///     SEED.store(id(), Ordering::Relaxed); // or better a random number
/// }
///
/// fn main() -> multiproc::Result<()> {
///     seed();
///     multiproc::at_start(seed)?;
///     multiproc::init();
///     let child = Process::spawn(|| SEED.load(Ordering::Relaxed), ())?;
///     let pid = child.pid();
///     assert_eq!(child.join()?, pid);
///     Ok(())
/// }
/// ```
pub fn at_start(function: fn()) -> Result<()> {
    if bootstrap::identity().is_some() {
        return Err(Error::invalid("at_start was called after multiproc::init(), where no child calls it"));
    }
    lock(&AT_START).push(function);
    Ok(())
}

static AT_START: Mutex<Vec<fn()>> = Mutex::new(Vec::new());

/// Those that children call. To read them changes no page of a child, as to lock a mutex would.
static START_FUNCTIONS: OnceLock<Vec<fn()>> = OnceLock::new();

fn call_start_functions() -> Result<()> {
    START_FUNCTIONS.get().into_iter().flatten().try_for_each(catch_panic)
}

/// The whole life of a process that was executed: that of a child, or a zygote's.
fn run_child(link: PacketSocket, maker: SocketOwner) -> ! {
    failpoint::hit(Failpoint::ChildStarted);
    install_panic_hook();
    let _ = START_FUNCTIONS.set(std::mem::take(&mut *lock(&AT_START)));
    let birth = check_rights(maker).and_then(|()| setup_child()).and_then(|()| receive_bootstrap(&link));
    let birth = birth.unwrap_or_else(|error| fail_start(&link, &error));
    process::set_comm(&birth.name);
    if birth.task.is_none() {
        run_zygote(link, birth);
    }
    if let Err(error) =
        kill_on_hangup(link.as_fd()).and_then(|()| send(&link, &Message::inline(READY.to_vec())))
    {
        fail_start(&link, &error); // mostly the parent is gone, and nobody hears it
    }
    exit(run_task(&link, birth))
}

/// A zygote's life; and, from the moment on at which they are forked, that of its children. It goes on in
/// another thread.
fn run_zygote(link: PacketSocket, birth: ChildStart) -> ! {
    let page =
        wire::decode_own(&birth.args, birth.descriptors, "a zygote's start").map(SharedMemory::into_mapping);
    let page = page.unwrap_or_else(|error| fail_start(&link, &error));
    failpoint::hit(Failpoint::ZygoteStarted);
    if let Err(error) = send(&link, &Message::inline(READY.to_vec())) {
        fail_start(&link, &error); // mostly the program is gone, and nobody hears it
    }
    // Before the first flush: what `main` has printed before `init`, and no stream has written yet, the
    // program prints itself. From here it must neither come once more, nor from each child; nor may a full
    // pipe keep this process waiting.
    redirect_stdio_to_null();
    // Not moved into the thread, for where there can be none, the program is to be told.
    let control = Arc::new(Mutex::new(Some((link, page))));
    let take = |control: &Mutex<Option<_>>| lock(control).take();
    let its_control = Arc::clone(&control);
    let errno = serve_on_fresh_thread(move || {
        if let Some((link, page)) = take(&its_control) {
            serve(link, page)
        }
    });
    if let Some((link, _)) = take(&control) {
        fail_start(&link, &Error::system("start a child process", errno));
    }
    exit_immediately(1)
}

/// What a zygote does, and then each of its children.
fn serve(link: PacketSocket, page: Arc<SharedMapping>) -> ! {
    process::set_comm(ZYGOTE);
    expect_one_thread_in_children();
    let rehearsal = dummy_bootstrap().unwrap_or_default();
    prefault(&rehearsal);
    let (link, number, need) = zygote::serve(link, &page);
    failpoint::hit(Failpoint::ChildStarted);
    process::set_comm(PREFORKED);
    if need == Priority::Ahead {
        prefault(&rehearsal);
    }
    run_preforked(&link, page, number)
}

fn run_preforked(link: &PacketSocket, page: Arc<SharedMapping>, number: u64) -> ! {
    coverage::begin();
    close_stdio();
    failpoint::hit(Failpoint::PreforkedIdle);
    let birth = receive_stdio_and_bootstrap(link).unwrap_or_else(|error| fail_start(link, &error));
    process::set_comm(&birth.name);
    zygote::wait_for_release(&page, number, link);
    if kill_on_hangup(link.as_fd()).is_err() {
        exit_immediately(1);
    }
    drop(page); // the task must not be able to write there
    let code = run_task(link, birth);
    // Exit handlers are the zygote's, who lives on. To run them in each copy would cost as much as the fork itself.
    flush_all();
    coverage::write();
    exit_immediately(code)
}

/// What the system shows as the name of a preforked child.
const PREFORKED: &str = "mp-preforked";

/// Waits for what a preforked child is to be. Ends it when nobody holds the other end any more.
fn receive_stdio_and_bootstrap(link: &PacketSocket) -> Result<ChildStart> {
    let Incoming::Message(packet, descriptors) = link.receive_packet(Deadline::Never)? else {
        exit_immediately(0)
    };
    failpoint::hit(Failpoint::BootstrapReceived);
    let mut descriptors = descriptors.into_iter();
    // The streams arrive where they belong, as a rule, since these are the lowest numbers that are free.
    for number in [1, 2] {
        let stream =
            descriptors.next().ok_or_else(|| Error::decode("a child's start", "it has no streams"))?;
        dup_onto(stream, number).map_err(|errno| Error::system("set up a standard stream", errno))?;
    }
    bootstrap::receive(&packet, descriptors.collect())
}

/// A bootstrap message for a task that does nothing.
fn dummy_bootstrap() -> Result<Vec<u8>> {
    let encode = |body: &mut Vec<u8>| wire::encode_with_descriptors(&(), body, "the arguments");
    let (body, _) = bootstrap::encode(PREFORKED, TaskId::of::<RunOnce, _, ()>(|| ()).ok(), encode)?;
    Ok(packet::packet(&body))
}

/// Does what comes with a bootstrap message, such as that one. What is made at the first use is so made once, in the zygote; and a
/// preforked child that waits anyway has all pages at hand that it will need, for each of which the system takes as long as for
/// several calls.
fn prefault(packet: &[u8]) {
    let task = bootstrap::receive(packet, Vec::new()).ok().and_then(|birth| birth.task?.ok());
    let _ = task.map(|task| task.run(&[], Vec::new(), &mut Vec::new()));
    flush_alone();
}

fn receive_bootstrap(link: &PacketSocket) -> Result<ChildStart> {
    match link.receive_packet(Deadline::now())? {
        Incoming::Message(packet, descriptors) => bootstrap::receive(&packet, descriptors),
        Incoming::TimedOut | Incoming::Disconnected => {
            Err(Error::decode("a child's start", "it is not there"))
        }
    }
}

/// Runs the task, says what became of it; gives the exit code that goes with that. What the task has printed
/// is flushed after that, at the end of the process, for which the parent waits before it takes the outcome.
fn run_task(link: &PacketSocket, birth: ChildStart) -> i32 {
    let ChildStart { task, args, descriptors, .. } = birth;
    let me = process::own_pid();
    let mut outcome = vec![0];
    let task = task.unwrap_or_else(|| Err(Error::decode("a child's start", "it has no task")));
    failpoint::hit(Failpoint::BootstrapDecoded);
    let result = call_start_functions().and(task).and_then(|task| task.run(&args, descriptors, &mut outcome));
    if process::own_pid() != me {
        exit_immediately(0); // a copy that the task forked and let return here: it has nothing to say
    }
    failpoint::hit(Failpoint::Returned);
    let code = match result.and_then(|()| Message::new(outcome, Vec::new())) {
        Ok(outcome) => deliver(link, &outcome, 0),
        Err(error) => report(link, &error),
    };
    fork_server::close();
    code
}

/// Tells the parent of an error; gives the exit code that goes with it.
fn report(link: &PacketSocket, error: &Error) -> i32 {
    let code = if error.is_panic() { 101 } else { 1 }; // 101, as a panic in main would give
    let mut outcome = vec![FAILED];
    let message =
        wire::encode_own(error, &mut outcome, "an error").and_then(|()| Message::new(outcome, Vec::new()));
    message.map_or(code, |outcome| deliver(link, &outcome, code))
}

/// Sends the outcome to whoever may still want it: a detached child's parent does not, and that is no error. Where the
/// system refuses it, says so, if that can be sent.
fn deliver(link: &PacketSocket, outcome: &Message, code: i32) -> i32 {
    let sent = link.send(outcome, Deadline::Never);
    failpoint::hit(Failpoint::ResultReported);
    match sent {
        Err(error) if code == 0 => report(link, &error),
        _ => code,
    }
}

fn fail_start(link: &PacketSocket, error: &Error) -> ! {
    report(link, error);
    exit_immediately(1)
}

/// Sends what surely has room; a parent that is gone is an error.
fn send(link: &PacketSocket, message: &Message) -> Result<()> {
    match link.send(message, Deadline::Never)? {
        Sent::Done => Ok(()),
        Sent::TimedOut | Sent::Disconnected => Err(Error::disconnected("parent")),
    }
}

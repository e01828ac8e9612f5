//! The functions that a program calls first in `main`, and last: `init`, `at_start`, `stop_fork_server`; and
//! `init_for_tests`, which runs before `main`.

use crate::error::{Error, Result};
use crate::ipc::packet::{self, PacketSocket};
use crate::record;
use crate::replay;
use crate::spawn::bootstrap::{self, MAGIC, ProcessIdentity};
use crate::spawn::child_main::run_child;
use crate::spawn::{fork_server, run_task};
use crate::sys::entry;
use crate::sys::signals::ignore_sigpipe;
use crate::sys::start_socket::take_bootstrap_socket;
use crate::trace;

/// Makes this program able to have child processes. **Call it as the first line of `main`.**
///
/// A child process is this program, executed again, or a forked copy of one that was
/// ([`StartMethod`](crate::StartMethod)). In a child, this function runs the child's task and exits; it never
/// returns there. In the program that the user started, it returns at once, and a second call does nothing.
///
/// What `main` does before this call happens in every process that is executed. A forked child
/// ([`ForkServer`](crate::StartMethod::ForkServer)) has a copy of the statics that it set; for random numbers
/// that are drawn or seeded there see [`at_start`].
///
/// Without this call, starting a child is an error that says so: a program that forgets it does not start
/// copies of itself without end. A child also fails to start if `main` has closed or replaced standard input
/// before this call: the child's task arrives there. The standard test harness does not make this call: see
/// [`init_for_tests`](crate::init_for_tests).
///
/// In an asynchronous program, the runtime starts after this call, and `main` is a plain function:
///
/// ```
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     multiproc::init(); // before the runtime starts its threads
///     tokio::runtime::Runtime::new()?.block_on(async {
///         let pool = multiproc::Pool::new(4)?;
///         assert_eq!(pool.submit(u64::pow, (2, 10))?.await?, 1024);
///         Ok(())
///     })
/// }
/// ```
///
/// Under `#[tokio::main]` this call is inside a runtime. Tasks run. But if the runtime has threads, each child is
/// executed, since a process with threads cannot be forked, and starts that runtime first; and a task that
/// starts a runtime of its own in an executed child panics with tokio's message ("Cannot start a runtime from
/// within a runtime"). With `flavor = "current_thread"` children are forked as otherwise.
///
/// With `panic = "abort"` in `Cargo.toml`, a task that panics aborts its process: the error is that of a
/// child killed by SIGABRT, [`Error::is_panic`] is false, and only standard error has the panic's message.
///
/// # What a child inherits
///
/// Its standard input is empty, standard output and error are the parent's, and every other inherited
/// descriptor is closed (before the program begins, so code before this call may open files). No signal is
/// blocked, and [`std::env::args`] are the parent's. When the parent ends in any way, the child is killed.
///
/// A child has no more privileges than its parent has at its start. It runs under `no_new_privs`, as does all
/// that it executes (`sudo` does not work there), if executing the program would give it more: the file is
/// set-uid or set-gid or has capabilities, and the program has given these privileges up; a security module
/// decides so; root has given up capabilities. A program that has gained privileges when it was executed
/// takes no task from the process that executed it.
///
/// A program that was not started by this library, and has another socket as standard input, keeps that.
///
/// # Replay
///
/// If the environment variable `MULTIPROC_REPLAY` names a file that
/// [`PoolBuilder::record`](crate::pool::PoolBuilder::record) has written, this function runs the task of that
/// file in this process, and ends it.
///
/// # Ctrl-C
///
/// Ctrl-C is for the program that the user started. A terminal sends SIGINT to all its processes; in a child
/// it does nothing, unless the program ignores it or has set up a handler before this call. If the program
/// dies of it, so do its children; if it handles it, they go on, and it can finish its work. Programs that a
/// child executes have the default again.
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
    init_process(|| ());
}

/// Initialises this process. A child calls `prepare` first.
fn init_process(prepare: fn()) {
    #[cfg(multiproc_faults)]
    crate::sys::failpoint_control::install();
    if bootstrap::identity().is_some() {
        return;
    }
    if let Some((socket, owner)) = take_bootstrap_socket(|packet| packet::prefix(packet).starts_with(MAGIC)) {
        prepare();
        run_child(PacketSocket::from_socket(socket), owner);
    }
    bootstrap::set_identity(ProcessIdentity { name: "main".to_owned(), parent: None, worker_index: None });
    entry::build(); // found now: a copy that is forked while another thread looks would wait for that thread
    record::wanted_directory(); // a relative path is one of here, wherever the program goes
    trace::start_from_environment();
    replay::replay_if_wanted();
}

/// What [`init_for_tests`](crate::init_for_tests) has called before `main`.
#[doc(hidden)]
pub extern "C" fn init_before_main() {
    // A child does not reach what the standard library sets up before `main`.
    init_process(ignore_sigpipe);
}

/// Lets plain `#[test]` functions start processes: calls [`init`] before the test harness begins. Write it
/// once in each test program, at the level of items.
///
/// | tests | where |
/// |---|---|
/// | of a library or a program (`src/`) | `#[cfg(test)] multiproc::init_for_tests!();` in `lib.rs` or `main.rs` |
/// | in `tests/` | in each file `tests/NAME.rs`, and in `tests/NAME/main.rs` |
/// | in the documentation | nowhere: each of them is a program, which begins with [`init`] |
///
/// Tests run in threads of one process as usual, or with `cargo nextest` each in a process of its own. They
/// may start processes and pools at the same time.
///
/// ```standalone_crate
/// multiproc::init_for_tests!();
///
/// #[test]
/// fn a_pool_maps() -> multiproc::Result<()> {
///     let pool = multiproc::Pool::new(2)?;
///     assert_eq!(pool.map(|n: u32| n + 1, [1, 2])?, [2, 3]);
///     Ok(())
/// }
/// # fn main() -> multiproc::Result<()> { multiproc::Process::spawn(|| (), ())?.join() }
/// ```
///
/// # What is different in a child
///
/// It runs before `main`, from an entry of the executable's `.init_array` section. The standard library
/// promises little about that moment, and the tests of this crate check what a task needs: arguments,
/// environment, standard streams, thread-local values, threads, panics. Missing are:
///
/// - the message of a stack overflow in a task's first thread: it is a death by SIGSEGV, not by SIGABRT;
/// - with [`Spawn`](crate::StartMethod::Spawn), the name `main` in a panic's message;
/// - [`std::env::args`] with a C library other than GNU's: it is empty;
/// - what other entries of `.init_array` do that come later, of the program or of a crate such as `ctor` or
///   `inventory`; and an [`at_start`] function, which would have to be added before.
///
/// The harness captures the output of tests in its own process. That of children is printed at once, as it is
/// for any program that a test executes.
///
/// A program that people run should call [`init`] in its `main`.
#[allow(clippy::test_attr_in_doctest, reason = "it shows how a test is written")]
#[macro_export]
macro_rules! init_for_tests {
    () => {
        const _: () = {
            #[used]
            #[unsafe(link_section = ".init_array")]
            static INIT_BEFORE_MAIN: extern "C" fn() = $crate::init_before_main;
        };
    };
}

/// Has `function` called in every child process, before anything else that runs there: before the task of a
/// [`Process`](crate::Process), and before a pool worker's
/// [initializer](crate::pool::PoolBuilder::initializer). **Call it before [`init`].** Several functions are
/// called in the order of these calls.
///
/// It is for state that `main` sets up before [`init`] and every process needs for itself. Forked children
/// ([`StartMethod::ForkServer`](crate::StartMethod::ForkServer)) have copies of the *statics* that were set
/// there. Two children of a program that seeds a static random number generator would draw the same numbers,
/// and `function` seeds it again: C's `rand`, a `static SEED: OnceLock<u64>`, a `static` random state of
/// `ahash` or of a map, the context of an id generator. Thread-local generators need nothing (`rand::rng()`,
/// `fastrand`, the keys of `HashMap`s): they are not seeded yet in a child, whatever `main` has done.
///
/// If a function panics, that is the child's error, as if its task had panicked.
///
/// # Errors
/// After `init`, when it would have no effect.
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
        return Err(Error::invalid("at_start was called after multiproc::init(), when it has no effect"));
    }
    run_task::add_start_function(function);
    Ok(())
}

/// Ends this process's fork server, and the children that it has forked ahead, and reaps them. Children that
/// were started live on, and the next start makes another fork server.
///
/// The fork server ([`StartMethod::ForkServer`](crate::StartMethod::ForkServer)) and the processes that it
/// has forked ahead are children of this process that [`active_children`](crate::active_children) does not
/// list. A program needs this call:
///
/// - before it waits for *all* its children, by `while wait() > 0` or `waitpid(-1, …)`, which otherwise
///   blocks while the fork server lives, and takes its status away;
/// - before it executes another program in its own place, or itself again: the children of a process stay its
///   children through `exec`, but the new program does not know of them, so they would remain as zombies. It
///   should also have joined its children and pools;
/// - after it was moved to another control group, or has changed something else that later children should
///   inherit and that is not checked before each start: see [`ForkServer`](crate::StartMethod::ForkServer).
///
/// It ends those of pools with a preloaded state, too; such a pool makes its own again when it needs a worker. Without
/// a fork server it does nothing. A start in another thread at the same time may make a new one.
///
/// Blocks until these processes have ended: for a moment, or 3 seconds at most.
///
/// # Errors
/// When other threads are busy with starts for 1 second, or a killed process has not ended after 1 second.
///
/// ```
/// use multiproc::Process;
///
/// fn main() -> multiproc::Result<()> {
///     multiproc::init();
///     Process::spawn(|| (), ())?.join()?;
///     multiproc::stop_fork_server()?;
///     // Now this process has no child at all: std::process::Command::new("/proc/self/exe").exec()
///     Ok(())
/// }
/// ```
pub fn stop_fork_server() -> Result<()> {
    fork_server::stop()
}

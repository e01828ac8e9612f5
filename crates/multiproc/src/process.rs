//! `Process`: a child that runs one function, started, watched and joined as a thread is.

use std::ffi::OsStr;
use std::fmt;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_core::Serialize;
use serde_core::de::DeserializeOwned;

use crate::error::{Error, Origin, Result};
use crate::ipc::panic;
use crate::logs;
use crate::spawn::options::SpawnOptions;
use crate::spawn::process_or_thread::ProcessOrThread;
use crate::spawn::supervisor::OnChange;
use crate::start_method::StartMethod;
use crate::sys::pidfd::Exit;
use crate::sys::poll::Deadline;
use crate::task::RemoteFn;
use crate::trace;

/// A child process that runs one function.
///
/// Dropping it detaches the child, as with a thread: it goes on, and its result is lost. But a child never
/// outlives the process that started it: when that ends, however it ends, the child is killed.
///
/// ```
/// use multiproc::Process;
///
/// fn cube(number: u64) -> u64 {
///     number.pow(3)
/// }
///
/// fn main() -> multiproc::Result<()> {
///     multiproc::init();
///     let child = Process::spawn(cube, (4,))?;
///     assert_eq!(child.join()?, 64);
///     Ok(())
/// }
/// ```
#[must_use = "dropping a `Process` detaches the child, and its result is lost: call `join`"]
pub struct Process<T> {
    started: ProcessOrThread,
    joined: bool,
    result: PhantomData<fn() -> T>,
}

impl Process<()> {
    /// Starts a child process that calls `function` with a tuple of arguments.
    ///
    /// Returns when the child is started, not when it is done: after 0.2 to 0.4 ms, after 1 to 2 ms for this
    /// process's first child, and after 1 to 1.5 ms with [`StartMethod::Spawn`]. If the [fork
    /// server](StartMethod::ForkServer) has to start first, or does not answer, this blocks for at most the
    /// [start timeout](ProcessBuilder::start_timeout). Arguments that hold ends of queues or pipes are moved:
    /// this process keeps no copy.
    ///
    /// # Errors
    /// When [`init`](crate::init()) was not called, when an argument cannot be encoded, or when the kernel
    /// refuses a process, a descriptor or memory. If the program does not reach `init`, that is an error of
    /// this call, or of [`join`](Self::join) if the child itself was executed.
    pub fn spawn<F, Args>(function: F, args: Args) -> Result<Process<F::Output>>
    where
        F: RemoteFn<Args>,
        Args: Serialize + DeserializeOwned,
    {
        Self::builder().spawn(function, args)
    }

    /// Options beyond the function: a name, the environment, a start timeout, a start method, inline mode.
    ///
    /// ```
    /// use multiproc::Process;
    ///
    /// fn main() -> multiproc::Result<()> {
    ///     multiproc::init();
    ///     let child = Process::builder().name("A").spawn(|| multiproc::current().name().to_owned(), ())?;
    ///     assert_eq!(child.name(), "A");
    ///     assert_eq!(child.join()?, "A");
    ///     Ok(())
    /// }
    /// ```
    pub fn builder() -> ProcessBuilder {
        ProcessBuilder { name: None, options: SpawnOptions::default() }
    }
}

/// Options for a child. Made by [`Process::builder`].
#[derive(Clone, Debug)]
pub struct ProcessBuilder {
    name: Option<String>,
    options: SpawnOptions,
}

impl ProcessBuilder {
    /// The child's name in errors, in [`current`](crate::current), and (its first 15 bytes) in `ps` and
    /// `top`. The default is `Process-1`, `Process-2` and so on.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// The time within which the child must be forked, or reach [`init`](crate::init()). After it the child
    /// is killed, and [`spawn`](Self::spawn) or [`Process::join`] returns an error. The default is 10
    /// seconds.
    ///
    /// Programs are executed one at a time. If a child is stopped (SIGSTOP) before it has executed the
    /// program, other starts wait, each for its own timeout, until that child continues or is killed.
    #[must_use]
    pub fn start_timeout(mut self, time: Duration) -> Self {
        self.options.timeout = time;
        self
    }

    /// The start method. The default is [`StartMethod::default`].
    ///
    /// ```
    /// use multiproc::{Process, StartMethod};
    ///
    /// fn main() -> multiproc::Result<()> {
    ///     multiproc::init();
    ///     let child = Process::builder().start_method(StartMethod::Spawn).spawn(|| 4_u32.pow(3), ())?;
    ///     assert_eq!(child.join()?, 64);
    ///     Ok(())
    /// }
    /// ```
    #[must_use]
    pub fn start_method(mut self, method: StartMethod) -> Self {
        self.options.method = Some(method);
        self
    }

    /// Sets a variable of the child's environment, which is otherwise this process's at the start. The child
    /// has it from its first instruction, so it reaches what reads the environment once (`OMP_NUM_THREADS`,
    /// `LD_LIBRARY_PATH`). Therefore such a child is executed also under [`StartMethod::ForkServer`]. Its own
    /// children inherit the variable. No effect in [inline mode](Self::inline).
    ///
    /// A name that is empty or holds `=`, and a zero byte, are an error of [`spawn`](Self::spawn).
    ///
    /// ```
    /// use multiproc::Process;
    ///
    /// fn main() -> multiproc::Result<()> {
    ///     multiproc::init();
    ///     let builder = Process::builder().env("LEVEL", "7").env_remove("HOME");
    ///     let child = builder.spawn(|| (std::env::var("LEVEL").ok(), std::env::var("HOME").ok()), ())?;
    ///     assert_eq!(child.join()?, (Some("7".to_owned()), None));
    ///     Ok(())
    /// }
    /// ```
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.options.environment.change(name.as_ref(), Some(value.as_ref()));
        self
    }

    /// Removes a variable from the child's environment. See [`env`](Self::env).
    #[must_use]
    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Self {
        self.options.environment.change(name.as_ref(), None);
        self
    }

    /// Whether the function runs in this process, in a thread with the child's name, so that a debugger or a
    /// profiler that watches this process sees it. By default, if the environment variable `MULTIPROC_INLINE`
    /// is `1`; the variable concerns the whole program.
    ///
    /// It begins at once, and runs beside its caller, with which it may exchange messages as a child would.
    /// Arguments and result are encoded and decoded as for a child, and a panic is an error of
    /// [`join`](Process::join). Different are:
    ///
    /// - [`pid`](Process::pid) is this process's, [`current`](crate::current) and statics are this process's;
    ///   [`active_children`](crate::active_children) does not list it. [`at_start`](crate::at_start) has no
    ///   effect;
    /// - [`kill`](Process::kill) and [`terminate`](Process::terminate) are errors while it runs;
    /// - a crash or an `exit` in it ends the whole program. Before an exit, a message on standard error says
    ///   so;
    /// - the end of the program ends it, as it does a child.
    ///
    /// A pool in inline mode runs its tasks one after the other:
    /// [`PoolBuilder::inline`](crate::pool::PoolBuilder::inline).
    ///
    /// ```
    /// use multiproc::Process;
    ///
    /// fn main() -> multiproc::Result<()> {
    ///     multiproc::init();
    ///     let child = Process::builder().inline(true).spawn(std::process::id, ())?;
    ///     assert_eq!(child.join()?, std::process::id());
    ///     Ok(())
    /// }
    /// ```
    #[must_use]
    pub fn inline(mut self, inline: bool) -> Self {
        self.options.inline = Some(inline);
        self
    }

    /// Starts the child. See [`Process::spawn`].
    ///
    /// # Errors
    /// Those of [`Process::spawn`].
    pub fn spawn<F, Args>(self, function: F, args: Args) -> Result<Process<F::Output>>
    where
        F: RemoteFn<Args>,
        Args: Serialize + DeserializeOwned,
    {
        static COUNT: AtomicU64 = AtomicU64::new(1);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = self.name.unwrap_or_else(|| format!("Process-{number}"));
        let started = ProcessOrThread::new(&self.options, name, function, &args)?;
        Ok(Process { started, joined: false, result: PhantomData })
    }
}

impl<T: DeserializeOwned> Process<T> {
    /// Waits until the child has ended; returns what its function returned.
    ///
    /// Blocks while the child lives, but only until 5 to 6 s after its function has returned. A child lives
    /// on that long if it cannot write its output, because standard output is a full pipe, or if it has slow
    /// exit handlers. Then it goes on as if this had been dropped, and can still write its output.
    ///
    /// With the feature `log` it then blocks until this process's logger has the child's [log
    /// records](crate#log-records), but for at most 1 to 2 s in which the logger takes none.
    ///
    /// # Errors
    /// When the function panicked, when the child was killed or exited before the function returned, when it
    /// did not start in time, or when the result could not be encoded or decoded. The error says which.
    pub fn join(mut self) -> Result<T> {
        trace::waiting("join", || self.started.wait(Deadline::Never))?;
        self.wait_for_result(Deadline::Never)
    }

    /// As [`join`](Self::join), but waits at most for `time`; then returns `None`, and the child goes on.
    ///
    /// If the child has ended and the time is over before the logger has its records (feature `log`), this
    /// returns the result.
    ///
    /// # Errors
    /// Those of [`join`](Self::join), and when an earlier call has returned the result. If this process lacks
    /// descriptors for a result, a later call can return it.
    pub fn join_timeout(&mut self, time: Duration) -> Result<Option<T>> {
        let deadline = Deadline::after(time);
        if trace::waiting("join", || self.started.wait(deadline))? {
            self.wait_for_result(deadline).map(Some)
        } else {
            Ok(None)
        }
    }

    fn wait_for_result(&mut self, deadline: Deadline) -> Result<T> {
        logs::deliver(deadline);
        if self.joined {
            return Err(Error::invalid("the process was joined already"));
        }
        let origin = || self.origin();
        let outcome = self.started.result(&origin);
        // After a shortage of descriptors the result can still be received.
        self.joined = !outcome.as_ref().is_err_and(Error::is_shortage_of_descriptors);
        let (result, descriptors) = outcome?;
        panic::decode(&result, descriptors, "the result").map_err(|error| error.with_origin(self.origin()))
    }
}

impl<T> Process<T> {
    /// The child's process id. (The kernel may reuse it once the child has ended.)
    pub fn pid(&self) -> u32 {
        self.started.pid()
    }

    /// The child's name.
    pub fn name(&self) -> &str {
        self.started.name()
    }

    /// Whether the child lives. Does not block.
    pub fn is_alive(&self) -> bool {
        self.started.is_alive()
    }

    /// The child's exit code: 0 if its function returned, 101 if it panicked. `None` while it lives, and when
    /// a signal killed it. Does not block.
    pub fn exit_code(&self) -> Option<i32> {
        match self.started.exit() {
            Some(Exit::Code(code)) => Some(code),
            _ => None,
        }
    }

    /// The signal that killed the child; `None` while it lives, and when it exited. Does not block.
    ///
    /// ```
    /// use multiproc::Process;
    ///
    /// fn main() -> multiproc::Result<()> {
    ///     multiproc::init();
    ///     let mut child = Process::spawn(|| std::thread::park(), ())?;
    ///     assert_eq!(child.signal(), None);
    ///     child.kill()?;
    ///     let _ = child.join_timeout(std::time::Duration::from_secs(60));
    ///     assert_eq!((child.signal(), child.exit_code()), (Some(9), None));
    ///     Ok(())
    /// }
    /// ```
    pub fn signal(&self) -> Option<i32> {
        match self.started.exit() {
            Some(Exit::Signal(signal)) => Some(signal),
            _ => None,
        }
    }

    /// Sends the child SIGTERM, and SIGCONT, without which a stopped child would not receive it. Does not
    /// wait. A child that has ended is no error.
    ///
    /// # Errors
    /// When the kernel refuses the signal, for example because the child has become another user's; in [inline
    /// mode](ProcessBuilder::inline), when the task runs; and in a forked copy of this process.
    pub fn terminate(&self) -> Result<()> {
        self.started.terminate()
    }

    /// Sends the child SIGKILL, also when it is another user's. Does not wait. No error if it has ended.
    ///
    /// # Errors
    /// In [inline mode](ProcessBuilder::inline), when the task runs; and in a forked copy of this process.
    pub fn kill(&self) -> Result<()> {
        self.started.kill()
    }

    /// Has `on_change` called when the child has ended, and now, since it may have already.
    pub(crate) fn set_on_change(&self, on_change: OnChange) {
        self.started.set_on_change(on_change);
    }

    fn origin(&self) -> Origin {
        Origin::Process { name: self.name().to_owned(), pid: self.pid() }
    }
}

/// The child's pidfd (`pidfd_open(2)`), for `poll`: it is readable once the child has ended.
impl<T> AsFd for Process<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.started.as_fd()
    }
}

impl<T> fmt::Debug for Process<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process")
            .field("name", &self.name())
            .field("pid", &self.pid())
            .finish_non_exhaustive()
    }
}

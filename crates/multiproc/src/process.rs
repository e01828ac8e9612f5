//! One child process: started, watched, joined.

use std::fmt;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Origin, Result};
use crate::ipc::panic;
use crate::spawn::bootstrap;
use crate::spawn::exec::SpawnedChild;
use crate::spawn::options::SpawnOptions;
use crate::spawn::supervisor;
use crate::start_method::StartMethod;
use crate::sys::poll::Deadline;
use crate::sys::process::{Exit, own_pid};
use crate::task::RemoteFn;

/// A child process that runs one function, and what that returns.
///
/// Dropping it detaches the child, as with a thread: it goes on, and its result is lost. But a child never outlives
/// the process that started it: when that ends, however it ends, the child is killed.
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
    started: SpawnedChild,
    joined: bool,
    result: PhantomData<fn() -> T>,
}

impl Process<()> {
    /// Starts a child process that calls `function` with a tuple of arguments.
    ///
    /// Returns as soon as the child is started, not when it is done: after 0.2 to 0.4 ms, after 1 to 2 ms where it is
    /// this process's first, and after 1 to 1.5 ms with [`StartMethod::Spawn`]. Where the
    /// [fork server](StartMethod::ForkServer) has to come up first, or does not answer, this blocks no longer than the
    /// child [may take](ProcessBuilder::start_timeout). Arguments that hold ends of queues or pipes are moved: this process
    /// keeps no copy.
    ///
    /// # Errors
    /// When [`init`](crate::init) was not called, when an argument cannot be encoded, or when the system refuses a
    /// process, a descriptor or memory. That a program does not reach `init` is an error of this call, or of
    /// [`join`](Self::join) where the child itself was executed.
    pub fn spawn<F, Args>(function: F, args: Args) -> Result<Process<F::Output>>
    where
        F: RemoteFn<Args>,
        Args: Serialize + DeserializeOwned,
    {
        Self::builder().spawn(function, args)
    }

    /// Sets a name, a start timeout or a start method before starting.
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
    /// Names the child, for errors, for [`current`], and (15 bytes of it) for `ps` and `top`. The default is
    /// `Process-1`, `Process-2` and so on.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// How long the child may take to reach [`init`](crate::init), or to be forked; then there is none, and
    /// [`spawn`](Self::spawn) or [`Process::join`] says so. The default is 10 seconds.
    ///
    /// (The system executes one program after another. Should somebody stop a child before it has executed the program,
    /// no other is executed until that goes on or is killed, and each start fails in its own time.)
    #[must_use]
    pub fn start_timeout(mut self, time: Duration) -> Self {
        self.options.timeout = time;
        self
    }

    /// How the child is started. The default is [`StartMethod::default`].
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
        let started = self.options.spawn(name, function, &args)?;
        Ok(Process { started, joined: false, result: PhantomData })
    }
}

impl<T: DeserializeOwned> Process<T> {
    /// Waits until the child has ended; gives what its function returned. Blocks as long as the child lives,
    /// but no longer than 5 to 6 s after its function has returned. A child lives on for that long if it
    /// cannot write out what it has printed, because standard output is a full pipe, or if it has slow exit
    /// handlers. Then it goes on as if it had been dropped: nothing of its output is lost as long as this
    /// process lives.
    ///
    /// # Errors
    /// When the function panicked, when the child was killed or exited before the function returned, when it did
    /// not come up in time, or when the result could not be encoded or decoded. The error says which.
    pub fn join(mut self) -> Result<T> {
        self.started.child.check_here()?;
        self.started.wait(Deadline::Never);
        self.wait_for_result()
    }

    /// As [`join`](Self::join), but waits no longer than `time`; then gives `None`, and the child goes on.
    /// (So a child that lives on for 5 s after its function has returned counts as ended here, too.)
    ///
    /// # Errors
    /// Those of [`join`](Self::join); and when an earlier call has given the result already. A result for which no
    /// descriptor is left can be had by a later call.
    pub fn join_timeout(&mut self, time: Duration) -> Result<Option<T>> {
        self.started.child.check_here()?;
        if self.started.wait(Deadline::after(time)) { self.wait_for_result().map(Some) } else { Ok(None) }
    }

    fn wait_for_result(&mut self) -> Result<T> {
        if self.joined {
            return Err(Error::invalid("the process was joined before"));
        }
        let origin = || self.origin();
        let outcome = self.started.result(&origin);
        self.joined = !outcome.as_ref().is_err_and(Error::is_shortage_of_descriptors); // then it is still there
        panic::decode(&outcome?, Vec::new(), "the result").map_err(|error| error.with_origin(self.origin()))
    }
}

impl<T> Process<T> {
    /// The child's process id. (It may come to mean another process once the child has ended.)
    pub fn pid(&self) -> u32 {
        self.started.child.pid()
    }

    /// The child's name.
    pub fn name(&self) -> &str {
        self.started.child.name()
    }

    /// Whether the child has not ended yet. Does not block.
    pub fn is_alive(&self) -> bool {
        self.started.child.is_alive()
    }

    /// The code that the child exited with; `None` while it lives, and when a signal killed it. Does not block.
    ///
    /// A function that returned gives 0, one that panicked 101.
    pub fn exit_code(&self) -> Option<i32> {
        match self.started.child.exit() {
            Some(Exit::Code(code)) => Some(code),
            _ => None,
        }
    }

    /// The number of the signal that killed the child; `None` while it lives, and when it exited. Does not
    /// block.
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
        match self.started.child.exit() {
            Some(Exit::Signal(signal)) => Some(signal),
            _ => None,
        }
    }

    /// Asks the child to end, with SIGTERM; a stopped one is made to go on, so that it hears. Does not wait.
    /// A child that has ended already is no error.
    ///
    /// # Errors
    /// When the system refuses the signal, for example because the child has become another user's.
    pub fn terminate(&self) -> Result<()> {
        self.started.child.terminate()
    }

    /// Kills the child, with SIGKILL, also when it has become another user's. Does not wait. A child that has ended
    /// already is no error.
    ///
    /// # Errors
    /// None today; a `Result` as that of [`terminate`](Self::terminate), beside which it is used.
    pub fn kill(&self) -> Result<()> {
        self.started.child.kill();
        Ok(())
    }

    fn origin(&self) -> Origin {
        Origin::Process { name: self.name().to_owned(), pid: self.pid() }
    }
}

/// The child's process descriptor (see `pidfd_open(2)`), for `poll`: it is readable once the child has ended.
impl<T> AsFd for Process<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.started.child.as_fd()
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

/// A process of this library, by name and number: [`current`], its [`parent`], or one of the [`active_children`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessInfo {
    name: String,
    pid: u32,
    worker_index: Option<usize>,
}

impl ProcessInfo {
    /// Its name; the program's first process is called `main`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// In a pool's worker, the [`current`] process's place in its pool: from 0 up to the number of workers.
    /// `None` in any other process, and for any process but the current one.
    ///
    /// Of the workers that run tasks no two have the same index at a time. A worker that takes the place of
    /// another has that one's index, so it can name what each of them has for itself: a file, a port, a
    /// device.
    ///
    /// ```
    /// use multiproc::Pool;
    ///
    /// fn main() -> multiproc::Result<()> {
    ///     multiproc::init();
    ///     assert_eq!(multiproc::current().worker_index(), None);
    ///     let pool = Pool::new(3)?;
    ///     let places = pool.map(|_: u32| multiproc::current().worker_index(), 0..100)?;
    ///     assert!(places.iter().all(|place| place.is_some_and(|index| index < 3)));
    ///     Ok(())
    /// }
    /// ```
    pub fn worker_index(&self) -> Option<usize> {
        self.worker_index
    }
}

/// The process that calls this.
///
/// ```
/// use multiproc::Process;
///
/// fn main() -> multiproc::Result<()> {
///     multiproc::init();
///     assert_eq!(multiproc::current().name(), "main");
///     let child = Process::builder().name("Anna").spawn(|| multiproc::current().name().to_owned(), ())?;
///     assert_eq!(child.join()?, "Anna");
///     Ok(())
/// }
/// ```
pub fn current() -> ProcessInfo {
    let identity = bootstrap::identity();
    let name = identity.as_ref().map_or_else(|| "main".to_owned(), |identity| identity.name.clone());
    ProcessInfo { name, pid: own_pid(), worker_index: identity.and_then(|identity| identity.worker_index) }
}

/// The process that started this one with this library; the program's first process has none.
///
/// ```
/// use multiproc::Process;
///
/// fn main() -> multiproc::Result<()> {
///     multiproc::init();
///     assert_eq!(multiproc::parent(), None);
///     let parents_pid = || multiproc::parent().map(|parent| parent.pid());
///     assert_eq!(Process::spawn(parents_pid, ())?.join()?, Some(std::process::id()));
///     Ok(())
/// }
/// ```
pub fn parent() -> Option<ProcessInfo> {
    let (name, pid) = bootstrap::identity()?.parent.clone()?;
    Some(ProcessInfo { name, pid, worker_index: None })
}

/// The children of this process that are alive at this moment, workers of pools included.
///
/// ```
/// use multiproc::Pool;
///
/// fn main() -> multiproc::Result<()> {
///     multiproc::init();
///     let pool = Pool::new(2)?;
///     assert_eq!(multiproc::active_children().len(), 2);
///     pool.join();
///     assert!(multiproc::active_children().is_empty());
///     Ok(())
/// }
/// ```
pub fn active_children() -> Vec<ProcessInfo> {
    let children = supervisor::children().into_iter();
    let info = |child: Arc<supervisor::Child>| ProcessInfo {
        name: child.name().to_owned(),
        pid: child.pid(),
        worker_index: None,
    };
    children.map(info).collect()
}

//! The start methods: fork server, and executing the program.

use std::ffi::OsStr;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::error::{Error, Result};
use crate::sys::privileges::is_secure;
use crate::sys::process_local::ProcessLocal;

/// How a child process is started, chosen for a [process](crate::ProcessBuilder::start_method), for a
/// [pool](crate::pool::PoolBuilder::start_method), or for a program: in its code by [`set_start_method`], or
/// else by the environment variable `MULTIPROC_START_METHOD`: `fork-server` (or `forkserver`, as in Python)
/// or `spawn`. Another value is an error at the first start. Children, and programs that they execute,
/// inherit the variable.
///
/// With both methods a child shares no memory with its parent, has only the descriptors that it was given,
/// and dies with its parent. What the kernel keeps for each *thread* is that of the thread that makes the
/// program's first start: niceness, scheduling policy, CPU affinity, capabilities, `no_new_privs`, sandboxes,
/// namespaces, timer slack.
///
/// **No method forks the running program**: with threads, any lock (such as the allocator's) may stay locked
/// in the copy, which then blocks; and the fork of a large program is slow.
///
/// ```
/// use multiproc::{Pool, StartMethod};
///
/// fn main() -> multiproc::Result<()> {
///     multiproc::init();
///     let pool = Pool::builder().workers(2).start_method(StartMethod::Spawn).build()?;
///     assert_eq!(pool.map(|n: u32| n + 1, [1, 2])?, [2, 3]);
///     Ok(())
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartMethod {
    /// Forks the child from a *zygote*, a small process that has executed the program as far as
    /// [`init`](crate::init()). The fastest method, however large the program is.
    ///
    /// - The first start makes the zygote. Once a start has had to wait, two children are forked ahead
    ///   (`mp-preforked` in `ps`). [`active_children`](crate::active_children) lists none of these.
    /// - A new zygote is made when this process has changed its environment, current or root directory, user
    ///   or groups, process group or session, resource limits, or usual ignored signals. After other changes,
    ///   of all threads at once (`taskset -a`, `TSYNC`), control groups, umask, `oom_score_adj`, I/O
    ///   priority, keyrings, `coredump_filter`, or other ignored signals, call
    ///   [`stop_fork_server`](crate::stop_fork_server).
    /// - What `main` does before `init` happens once; its buffered output is not printed again. All children
    ///   have copies of the statics: **a random number generator in a `static` gives all the same numbers**
    ///   unless [`at_start`](crate::at_start) seeds it. Thread-local ones (`rand::rng()`, `fastrand`,
    ///   `HashMap`) are fresh.
    /// - A child waits for a locked stream for 1 second at most when it flushes, and runs no exit (`atexit`)
    ///   or fork (`pthread_atfork`) handlers, nor destructors of thread-locals. Its first thread is `main`, with a
    ///   stack of at most 1 GiB, and of less where memory is limited (`ulimit -v`, `-d`) and the stack is not.
    ///
    /// It needs Linux 5.4 with `CONFIG_CHECKPOINT_RESTORE`, the GNU C library, and no other thread in the
    /// zygote, before `init` or later. Otherwise all further children are executed.
    ForkServer,
    /// Executes the program again for each child, with what `main` does before `init`.
    Spawn,
}

/// The program's, by [`set_start_method`] or else by `MULTIPROC_START_METHOD`;
/// [`ForkServer`](Self::ForkServer) if that is unset or invalid.
impl Default for StartMethod {
    fn default() -> Self {
        Self::of_program().unwrap_or(Self::ForkServer)
    }
}

/// Sets the start method of this process's later starts whose builder names none. It overrides the environment variable
/// `MULTIPROC_START_METHOD`. A pool and a server keep the method that they began with.
///
/// What stands before [`init`](crate::init()) runs in children, too. So a call there also concerns the starts
/// of children; a later one concerns this process alone.
///
/// ```
/// use multiproc::{Process, StartMethod, set_start_method};
///
/// fn main() -> multiproc::Result<()> {
///     set_start_method(StartMethod::Spawn);
///     multiproc::init();
///     let child = Process::spawn(|| StartMethod::default() == StartMethod::Spawn, ())?;
///     assert!(child.join()?); // the child's children are executed, too
///     Ok(())
/// }
/// ```
pub fn set_start_method(method: StartMethod) {
    OF_CODE.store(method as u8 + 1, Ordering::Relaxed);
}

/// The method that the program's code has set, plus 1; 0 if none.
static OF_CODE: AtomicU8 = AtomicU8::new(0);

impl StartMethod {
    /// The method of a start whose builder has none.
    pub(crate) fn of_program() -> Result<Self> {
        let code = OF_CODE.load(Ordering::Relaxed);
        let set = [Self::ForkServer, Self::Spawn].into_iter().find(|&method| method as u8 + 1 == code);
        set.map_or_else(Self::from_environment, Ok)
    }

    fn from_environment() -> Result<Self> {
        // Whoever executes a program with more privileges than their own chooses nothing there.
        fn read() -> Result<StartMethod> {
            StartMethod::parse(std::env::var_os("MULTIPROC_START_METHOD").filter(|_| !is_secure()).as_deref())
        }
        static METHOD: ProcessLocal<Result<StartMethod>> =
            ProcessLocal::new(|inherited| inherited.map_or_else(read, Clone::clone));
        METHOD.get().clone()
    }

    fn parse(text: Option<&OsStr>) -> Result<Self> {
        let Some(text) = text else { return Ok(Self::ForkServer) };
        match text.to_str() {
            Some("fork-server" | "forkserver") => Ok(Self::ForkServer),
            Some("spawn") => Ok(Self::Spawn),
            _ => Err(Error::invalid(format!(
                "the environment variable MULTIPROC_START_METHOD is \"{}\", not \"fork-server\" or \"spawn\"",
                text.display()
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_names_a_method_or_it_is_an_error() {
        let parse = |text: &str| StartMethod::parse(Some(OsStr::new(text)));
        assert_eq!(StartMethod::parse(None).unwrap(), StartMethod::ForkServer);
        assert_eq!(parse("fork-server").unwrap(), StartMethod::ForkServer);
        assert_eq!(parse("forkserver").unwrap(), StartMethod::ForkServer);
        assert_eq!(parse("spawn").unwrap(), StartMethod::Spawn);
        for other in ["", "fork", "Spawn", "spawn "] {
            assert!(parse(other).unwrap_err().to_string().contains("MULTIPROC_START_METHOD"), "{other:?}");
        }
    }
}

//! The two ways to start a child: the fork server, and executing the program.

use std::ffi::OsStr;
use std::sync::OnceLock;

use crate::error::{Error, Result};

/// How a child process is started: per process ([`ProcessBuilder::start_method`](crate::ProcessBuilder::start_method)), per pool
/// ([`PoolBuilder`](crate::pool::PoolBuilder::start_method)), or for a whole program by the environment variable
/// `MULTIPROC_START_METHOD`, which may be `fork-server` (or, as in Python, `forkserver`) or `spawn`. Anything else in it is
/// an error at the first start.
/// That variable is the user's, so it is passed on as any other: to children, and to whatever programs they execute.
///
/// A child is the same under both: it shares no memory with its parent, has no descriptor that it was not
/// given, and dies with it. What the system keeps for each *thread* it has from the program's first start of
/// a child, or before: set it up before that. These are niceness, scheduling policy and processors to run on,
/// capabilities, `no_new_privs`, filters of system calls and other sandboxes, namespaces, timer slack and
/// personality. (The children are executed by a thread of the library, which has these from the thread that
/// makes the first start.)
///
/// **There is no start by forking the running program.** A copy of a program with threads may do almost nothing before
/// it executes another: any lock that another thread held at that moment, in the allocator for instance, stays locked in
/// the copy for ever. And the copy takes the longer the more memory the program has, even with the lightest of children.
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
    /// Forks the child from a zygote: a small process, in which the program has been executed
    /// as far as [`init`](crate::init), and that has never run anything of the user's beyond that. The quickest way,
    /// about as quick as a fork of a small program, however large this one is.
    ///
    /// The first start of the process makes the zygote, which takes about as long as a start by
    /// [`Spawn`](Self::Spawn). Once a start has had to wait for a fork, two children are forked ahead, which
    /// wait for a task (`fork-preforked child` in a list of processes). A new zygote is made when the old one was
    /// killed (its children live on), and when this process has changed what a program inherits: the
    /// environment, the current or root directory, user or groups, process group or session, resource limits,
    /// and which of the usual signals it ignores. What costs too much to look at is as it was when the
    /// zygote was made: the **control groups** that the program is in, the umask, `oom_score_adj`, which of
    /// the less usual signals are ignored, the I/O priority, the keyrings, what a core dump holds
    /// (`coredump_filter`), and what was changed for all threads at once (by `taskset -a` or `renice` from
    /// outside, or a seccomp filter with `TSYNC`). Call [`stop_fork_server`](crate::stop_fork_server) after a
    /// change of one of these: then the next start makes a zygote that has it.
    ///
    /// What stands before `init` in `main` runs in the zygote, and not again in each child. So what it
    /// leaves in statics and on the heap, addresses included, is the same in all of them: **a generator of
    /// random numbers in a `static` that is seeded there gives all children the same numbers**.
    /// [`at_start`](crate::at_start) seeds it for each. What is kept for each thread is fresh, since a child
    /// is forked from a thread of its own that has not run any of the program: `rand::rng()`, `fastrand` and
    /// the keys of `HashMap`s differ from child to child in any case.
    ///
    /// That thread is the first of the child. Its name is `main`, and its stack is as large as the limit on
    /// stacks (1 GiB where there is none). To the allocator of the GNU C library it is a thread like any
    /// other: tasks that allocate hundreds of megabytes in small pieces do so as quickly as in a thread,
    /// which takes up to half as long again as in the first thread of a program.
    ///
    /// What `main` has printed before `init` and no stream has written yet, the program prints, and no child.
    ///
    /// A child whose function has returned writes out what it has printed and is gone: handlers that C code
    /// has registered to run at exit (`atexit`) do not run. It waits for a stream's lock that another of its
    /// threads holds for a second at most. In a program built with `-C instrument-coverage`, it also writes
    /// its profile. Nor do handlers for forks (`pthread_atfork`),
    /// since the C library has no part in this fork; at that moment, no lock is held that they could protect.
    ///
    /// The zygote is a child of this process that [`active_children`](crate::active_children) does not
    /// list; of a program that waits for all its children, or executes another program in its own place, see
    /// [`stop_fork_server`](crate::stop_fork_server).
    ///
    /// Where the system cannot do it, this is the same as `Spawn`. It needs Linux 5.4 built with
    /// `CONFIG_CHECKPOINT_RESTORE`, the GNU C library, and a zygote without threads: where one was started
    /// before `init`, or appears in the zygote later, as that of an allocator that works in the background,
    /// all further children of this process are executed.
    ForkServer,
    /// Executes the program again for each child; nothing is shared with anyone. What stands before `init` in
    /// `main` runs in each.
    Spawn,
}

/// What `MULTIPROC_START_METHOD` says; where it says nothing (or nothing sensible, which a start will complain about),
/// [`ForkServer`](StartMethod::ForkServer).
impl Default for StartMethod {
    fn default() -> Self {
        Self::from_environment().unwrap_or(Self::ForkServer)
    }
}

impl StartMethod {
    pub(crate) fn from_environment() -> Result<Self> {
        static METHOD: OnceLock<Result<StartMethod>> = OnceLock::new();
        METHOD.get_or_init(|| Self::parse(std::env::var_os("MULTIPROC_START_METHOD").as_deref())).clone()
    }

    fn parse(text: Option<&OsStr>) -> Result<Self> {
        let Some(text) = text else { return Ok(Self::ForkServer) };
        match text.to_str() {
            Some("fork-server" | "forkserver") => Ok(Self::ForkServer),
            Some("spawn") => Ok(Self::Spawn),
            _ => Err(Error::invalid(format!(
                "the environment variable MULTIPROC_START_METHOD is \"{}\": it may be \"fork-server\" or \"spawn\"",
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

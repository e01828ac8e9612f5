//! A copy of a caller that the program has forked by itself: it lacks the thread of the cluster.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;

use multiproc::Result;
use multiproc_cluster::{Cluster, PoolStats};
use nix::libc;
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, alarm, fork};

use crate::server::Server;
use crate::support::{Outcome, TEST_TIMEOUT, cannot_run, child, trials};
use crate::work::{HOUR, sleep, square};

trials![
    a_forked_copy_gets_errors_and_takes_nothing_away,
    a_forked_copy_waits_for_no_lock_that_was_held_at_the_fork,
    a_forked_copy_with_the_pid_of_the_original_gets_errors,
];

fn a_forked_copy_gets_errors_and_takes_nothing_away() -> Outcome {
    let server = Server::start();
    let _agent = server.agent("a");
    let cluster = server.cluster().connect()?;
    let pool = cluster.pool("forked")?;
    let mut results = pool.imap(square, 0..1000);
    assert_eq!(results.next().unwrap()?, 0);
    let task = pool.submit(sleep, (HOUR,))?;
    let mut made = Some((results, task, pool, cluster));
    let is_good = in_fork(|| {
        let (mut results, mut task, pool, cluster) = made.take().unwrap();
        let good = [
            refuses(cluster.pool("other")),
            refuses(pool.submit(square, (3,))),
            refuses(pool.apply(square, (3,))),
            refuses(pool.map(square, 0..3)),
            refuses(task.get_timeout(HOUR)),
            results.by_ref().any(refuses),
            results.next().is_none(),
            !task.cancel(),
        ];
        drop((results, task, pool, cluster));
        good == [true; 8]
    });
    assert!(is_good, "the copy hangs, or has something without an error");
    let (mut results, task, pool, _cluster) = made.unwrap();
    assert!(results.by_ref().map(Result::unwrap).eq((1..1000).map(square)));
    assert_eq!(pool.apply(square, (3,))?, 9);
    assert!(task.cancel());
    Ok(())
}

/// Without a host: what is submitted stays out.
fn a_forked_copy_waits_for_no_lock_that_was_held_at_the_fork() -> Outcome {
    let server = Server::start();
    let pool = server.cluster().lease(HOUR).connect()?.pool("locked")?;
    let mut results = pool.imap(square, 0..1000);
    assert!(results.next_timeout(Duration::ZERO).is_none());
    // The more are out, the longer `stats` holds the lock.
    let tasks = (0..1000).map(|_| pool.submit(sleep, (HOUR,))).collect::<Result<Vec<_>>>()?;
    let (task, is_over) = (&tasks[0], AtomicBool::new(false));
    let is_good = thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Relaxed) {
                pool.stats();
            }
        });
        scope.spawn(|| {
            while !is_over.load(Relaxed) {
                task.is_ready();
            }
        });
        let mut copies = (0..8).map(|_| {
            in_fork(|| {
                let good = [
                    pool.hosts().is_empty(),
                    pool.stats() == PoolStats::default(),
                    refuses(pool.wait_for_hosts(1, HOUR)),
                    task.is_ready(),
                    !task.is_running(),
                    !task.cancel(),
                    results.by_ref().any(refuses),
                    results.next().is_none(),
                ];
                good == [true; 8]
            })
        });
        let is_good = copies.all(|is_good| is_good);
        is_over.store(true, Relaxed);
        is_good
    });
    assert!(is_good, "a copy hangs, or has something without an error");
    assert!(pool.stats().pending > 1000);
    Ok(())
}

/// Each is the first process of its namespace.
fn a_forked_copy_with_the_pid_of_the_original_gets_errors() -> Outcome {
    let server = Server::start();
    let status = child(&std::env::current_exe()?).env(FIRST_PROCESS, server.url()).status()?;
    if status.code() == Some(NO_NAMESPACE.into()) {
        cannot_run("this needs the right to make a pid namespace");
    } else {
        assert!(status.success(), "{status}");
    }
    Ok(())
}

/// With this variable, the test's program forks the first process of a namespace, which is a caller of that server.
pub(crate) const FIRST_PROCESS: &str = "CLUSTER_TEST_FIRST_PROCESS";
const NO_NAMESPACE: u8 = 77;

pub(crate) fn fork_first_process(url: &str) -> ExitCode {
    const NEW: CloneFlags = CloneFlags::CLONE_NEWPID;
    if unshare(NEW).or_else(|_| unshare(NEW | CloneFlags::CLONE_NEWUSER)).is_err() {
        return ExitCode::from(NO_NAMESPACE);
    }
    alarm::set(u32::try_from(TEST_TIMEOUT.as_secs()).unwrap());
    let is_good = in_fork(|| {
        set_pdeathsig(Signal::SIGKILL).unwrap(); // a first process survives its alarm
        let cluster = Cluster::connect(url).unwrap();
        let pool = cluster.pool("first").unwrap();
        let task = pool.submit(square, (3,)).unwrap();
        unshare(NEW).unwrap();
        in_fork(|| std::process::id() == 1 && refuses(task.get()) && refuses(cluster.pool("second")))
    });
    ExitCode::from(u8::from(!is_good))
}

fn refuses<T>(outcome: Result<T>) -> bool {
    outcome.is_err_and(|error| error.to_string().contains("this is a forked copy"))
}

/// Runs this in a forked copy of the process; returns whether it returns true, and does not hang.
#[allow(unsafe_code)]
fn in_fork(act: impl FnOnce() -> bool) -> bool {
    // SAFETY: what the copy does takes no lock of the original but the allocator's, which the C library keeps in order,
    // and those whose owner, this library, must do so: that is what is tested.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            alarm::set(u32::try_from(TEST_TIMEOUT.as_secs()).unwrap()); // ends it if it hangs
            let is_good = catch_unwind(AssertUnwindSafe(act)).unwrap_or(false);
            // SAFETY: ends the process at once.
            unsafe { libc::_exit(i32::from(!is_good)) }
        }
        ForkResult::Parent { child } => matches!(waitpid(child, None), Ok(WaitStatus::Exited(_, 0))),
    }
}

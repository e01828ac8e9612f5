//! Tasks that spoil, end, fork or leak their process: one clear error each, and everything else goes on.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::Duration;

use multiproc::{Error, Pool, Process, RemoteFn, Result, pipe};
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{Uid, setuid};

use crate::support::{Latch, Outcome, TEST_TIMEOUT, alone, children, eventually, trials};

trials![
    tasks_that_spoil_their_process_return_all_the_same,
    tasks_that_end_their_process_are_one_error_each,
    tasks_that_fork_answer_once_whatever_becomes_of_the_copy,
    a_worker_that_becomes_another_user_goes_on_and_ends,
    a_pool_that_a_task_leaks_ends_with_its_worker,
];

/// Runs a task as that of a process and as one of a pool, alone and among others; all goes on, and no process
/// is left.
fn goes_on<F: RemoteFn<(), Output = u32>>(task: F, check: impl Fn(Result<u32>)) -> Result<()> {
    check(Process::spawn(task, ())?.join());
    let pool = Pool::new(2)?;
    check(pool.apply(task, ()));
    let handles: Vec<_> = (0..20).map(|number| pool.submit(|number: u32| number, (number,))).collect();
    check(pool.submit(task, ())?.get());
    for (number, handle) in (0..).zip(handles) {
        assert_eq!(handle?.get()?, number);
    }
    assert!(pool.map(|number: u32| number, 0..1000)?.into_iter().eq(0..1000));
    drop(pool);
    eventually("only a fork server is left", || children().iter().all(|(_, name)| name == "fork-server"));
    Ok(())
}

fn returns<F: RemoteFn<(), Output = u32>>(task: F) -> Result<()> {
    goes_on(task, |outcome| assert_eq!(outcome.unwrap(), 7))
}

fn dies<F: RemoteFn<(), Output = u32>>(task: F) -> Result<()> {
    goes_on(task, |outcome| {
        let error = outcome.unwrap_err();
        assert!(error.exit_code().is_some() || error.signal().is_some(), "{error}");
    })
}

fn tasks_that_spoil_their_process_return_all_the_same() -> Outcome {
    alone(|| {
        returns(|| {
            std::env::set_current_dir("/proc").unwrap();
            7
        })?;
        returns(|| {
            tests::handle_signals();
            7
        })?;
        returns(|| {
            tests::clear_environment();
            7
        })?;
        returns(|| {
            for limit in [
                Resource::RLIMIT_NOFILE,
                Resource::RLIMIT_NPROC,
                Resource::RLIMIT_FSIZE,
                Resource::RLIMIT_CORE,
            ] {
                setrlimit(limit, 0, 0).unwrap();
            }
            7
        })?;
        returns(|| {
            multiproc::init();
            7
        })?;
        returns(|| {
            for _ in 0..3 {
                thread::spawn(|| thread::sleep(Duration::from_secs(3600)));
            }
            7
        })?;
        returns(|| {
            let _ = thread::spawn(|| panic!("a thread of a task")).join();
            7
        })
    })
}

#[allow(unconditional_recursion)]
fn fall(depth: u64) -> u64 {
    std::hint::black_box(fall(std::hint::black_box(depth + 1))) + 1
}

fn tasks_that_end_their_process_are_one_error_each() -> Outcome {
    alone(|| {
        dies(|| std::process::exit(3))?;
        dies(|| std::process::exit(0))?;
        dies(|| std::process::abort())?;
        dies(|| -> u32 { tests::exit_at_once() })?;
        dies(|| u32::try_from(fall(0)).unwrap_or(0))?;
        dies(|| {
            thread::spawn(|| std::process::exit(4)).join().unwrap();
            7
        })?;
        // The executed program replaces the worker, and closes its socket to the pool.
        goes_on(
            || -> u32 { panic!("cannot execute: {}", Command::new("true").exec()) },
            |outcome| assert!(!outcome.unwrap_err().is_panic()),
        )?;
        // Among these are its sockets to the pool and to its parent.
        goes_on(
            || {
                for descriptor in 0..10 {
                    let _ = nix::unistd::close(descriptor);
                }
                7
            },
            drop,
        )
    })
}

static COPIES: AtomicU32 = AtomicU32::new(0);

/// Forks three times: one copy exits at once, one returns from the task, one lives until the latch is
/// dropped.
fn fork_three(latch: Latch) -> u32 {
    tests::in_fork(|| ());
    tests::in_fork(move || drop(latch.recv()));
    if !tests::fork_and_wait() {
        return 8;
    }
    COPIES.fetch_add(1, SeqCst) + 1
}

fn tasks_that_fork_answer_once_whatever_becomes_of_the_copy() -> Outcome {
    alone(|| {
        let mut latches = Vec::new();
        let mut theirs = || {
            let (ours, theirs) = pipe()?;
            latches.push(ours);
            Ok::<_, Error>(theirs)
        };
        assert_eq!(Process::spawn(fork_three, (theirs()?,))?.join()?, 1);
        let pool = Pool::new(1)?;
        for times in 1..5 {
            assert_eq!(pool.apply(fork_three, (theirs()?,))?, times, "the worker is the one that it was");
            assert_eq!(pool.map(|number: u32| number, 0..3)?, [0, 1, 2]);
        }
        pool.join();
        for latch in latches {
            assert!(!latch.poll(Duration::ZERO)?, "the copy lives on, which has the other end");
            drop(latch);
        }
        Ok(())
    })
}

fn a_worker_that_becomes_another_user_goes_on_and_ends() -> Outcome {
    alone(|| {
        if !Uid::effective().is_root() {
            return Ok(()); // only root can
        }
        returns(|| {
            if Uid::effective().is_root() {
                setuid(Uid::from_raw(65_534)).unwrap();
            }
            7
        })
    })
}

fn a_pool_that_a_task_leaks_ends_with_its_worker() -> Outcome {
    alone(|| {
        let (latch, theirs) = pipe()?;
        let leak = |latch: Latch| {
            let inner = Pool::new(2).unwrap();
            // After this only the inner worker holds the end.
            std::mem::forget(inner.submit(crate::support::block, (latch,)).unwrap());
            std::mem::forget(inner);
        };
        let pool = Pool::new(1)?;
        pool.apply(leak, (theirs,))?;
        latch.recv()?;
        assert_eq!(pool.map(|number: u32| number, 0..3)?, [0, 1, 2]);
        pool.join();
        assert!(latch.poll(TEST_TIMEOUT)?, "the inner pool lives on");
        assert!(latch.recv().unwrap_err().is_disconnected());
        Ok(())
    })
}

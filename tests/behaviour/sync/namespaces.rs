//! Holders in a PID namespace other than that of the process that has made the lock.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use multiproc::sync::{Atomic, Mutex, RwLock, Semaphore};
use multiproc::{Connection, Process, Result, pipe};
use nix::libc;
use nix::sched::{CloneFlags, unshare};

use crate::forked_copies::in_fork;
use crate::support::{Outcome, TEST_TIMEOUT, cannot_run, trials};

trials![
    a_holder_in_another_namespace_counts_as_living,
    a_copy_that_is_the_first_process_of_another_namespace_does_not_have_its_original_s_permit,
];

/// Reports whether it can make a namespace and has taken the locks there, and holds them until the end is told.
type Stage = Connection<bool, ()>;

type Locks = (Mutex<u64>, Mutex<[u64]>, RwLock<u64>, Semaphore);

/// No thread of the namespace of this process has the holder's number.
fn a_holder_in_another_namespace_counts_as_living() -> Outcome {
    let (mutex, slice, lock, semaphore) =
        (Mutex::new(1_u64)?, Mutex::zeroed(1)?, RwLock::new(1)?, Semaphore::new(1)?);
    let (ours, theirs): (Connection<(), bool>, Stage) = pipe()?;
    let handles = (mutex.clone(), slice.clone(), lock.clone(), semaphore.clone());
    let child = Process::spawn(hold_in_a_namespace, (handles, theirs))?;
    assert!(ours.poll(TEST_TIMEOUT)?, "no process holds them");
    if !ours.recv()? {
        cannot_run("this user may not make a PID namespace");
        return Ok(child.join().map(drop)?);
    }
    let time = Duration::from_millis(50);
    assert!(mutex.lock_timeout(time).unwrap_err().error().is_timeout());
    assert!(slice.lock_timeout(time).unwrap_err().error().is_timeout());
    assert!(lock.write_timeout(time).unwrap_err().error().is_timeout());
    assert!(semaphore.acquire_timeout(time).unwrap_err().is_timeout());
    ours.send(())?;
    assert!(child.join()?, "the holder has ended early");
    assert_eq!((*mutex.lock()?, slice.lock()?.get(0), *lock.read()?), (7, Some(7), 7));
    drop(semaphore.acquire()?);
    Ok(())
}

fn hold_in_a_namespace(locks: Locks, stage: Stage) -> bool {
    // A user namespace is for a process without other threads. The second copy is the first process of the
    // PID namespace, with which its other processes end.
    in_fork(|| {
        if can_unshare(CloneFlags::CLONE_NEWPID) {
            in_fork(|| (0..5_000).any(|_| in_fork(|| has_free_number() && hold(&locks, &stage).is_ok())))
        } else {
            stage.send(false).is_ok()
        }
    })
}

/// Whether no process outside of the namespace, which `/proc` shows, has the number of this one.
fn has_free_number() -> bool {
    !Path::new("/proc").join(std::process::id().to_string()).exists()
}

fn hold((mutex, slice, lock, semaphore): &Locks, stage: &Stage) -> Result<()> {
    let _permit = semaphore.acquire()?;
    let (mut first, mut second, mut third) = (mutex.lock()?, slice.lock()?, lock.write()?);
    assert_eq!(mutex.lock().unwrap_err().error().os_error(), Some(libc::EDEADLK));
    stage.send(true)?;
    assert!(stage.poll(TEST_TIMEOUT)?);
    stage.recv()?;
    (*first, *third) = (7, 7);
    second.set(0, 7);
    Ok(())
}

fn can_unshare(namespaces: CloneFlags) -> bool {
    let user = CloneFlags::CLONE_NEWUSER;
    [CloneFlags::empty(), user].into_iter().any(|more| unshare(namespaces | more).is_ok())
}

/// The original is the first process of a namespace as well, so both have the number 1.
fn a_copy_that_is_the_first_process_of_another_namespace_does_not_have_its_original_s_permit() -> Outcome {
    let can_run = Atomic::new(0_u32)?;
    let is_kept = Process::spawn(keep_a_permit_in_namespaces, (can_run.clone(),))?.join()?;
    if can_run.load(SeqCst) == 0 {
        cannot_run("this user may not make a PID namespace with a /proc of its own");
        return Ok(());
    }
    assert!(is_kept, "the copy has given the permit back");
    Ok(())
}

fn keep_a_permit_in_namespaces(can_run: Atomic<u32>) -> bool {
    in_fork(|| {
        can_unshare(CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS)
            && in_fork(|| {
                let is_private = mount(&["--make-rprivate", "/"]) && mount(&["-t", "proc", "proc", "/proc"]);
                is_private && keep_a_permit(&can_run).unwrap()
            })
    })
}

fn mount(arguments: &[&str]) -> bool {
    Command::new("mount").args(arguments).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

fn keep_a_permit(can_run: &Atomic<u32>) -> Result<bool> {
    let semaphore = Semaphore::new(1)?;
    let mut permit = Some(semaphore.acquire()?);
    if unshare(CloneFlags::CLONE_NEWPID).is_err() {
        return Ok(false);
    }
    can_run.store(1, SeqCst);
    let mut drop_permit = || {
        drop(permit.take());
        std::process::id() == 1
    };
    Ok(std::process::id() == 1 && in_fork(&mut drop_permit) && semaphore.available() == 0)
}

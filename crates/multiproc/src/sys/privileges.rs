//! Whether executing this program gives privileges: set-uid, set-gid, file capabilities, a security module.
//!
//! A child has no more privileges than its parent. Where executing would give more, the parent sets
//! `no_new_privs` first; a process that may have gained privileges without that takes no task.

use std::ffi::CStr;
use std::ptr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicI32};

use nix::errno::Errno;
use nix::libc;
use nix::sys::prctl::get_no_new_privs;
use nix::sys::stat::stat;
use nix::unistd::{Pid, getresgid, getresuid, gettid};

use super::program::EXECUTED;

/// Whether executing the file at `path` may give privileges that this thread does not have.
pub(super) fn exec_gains_privileges(path: &CStr) -> bool {
    let (Ok(user), Ok(group), Ok(file)) = (getresuid(), getresgid(), stat(path)) else { return true };
    let sets = |bit| file.st_mode & bit != 0;
    has_capabilities(path)
        || sets(libc::S_ISUID) && file.st_uid != user.effective.as_raw()
        || sets(libc::S_ISGID) && file.st_gid != group.effective.as_raw()
        || (user.real.is_root() || user.effective.is_root()) && lacks_capabilities()
        || is_secure() && !is_setid()
}

/// Whether this process may have gained privileges by being executed, beside those of a user or a group.
///
/// The kernel also says so of a file with capabilities from which `no_new_privs` has kept them.
pub(super) fn may_have_gained_privileges() -> bool {
    is_secure() && !WAS_RESTRICTED.load(Relaxed) && (has_capabilities(EXECUTED) || !is_setid())
}

/// Whether this program was executed under `no_new_privs`. A program can set that later, in its `main`, and keep
/// what it has gained.
static WAS_RESTRICTED: AtomicBool = AtomicBool::new(false);

/// Runs before `main`, and before [`init_for_tests`](crate::init_for_tests): entries with a number come first.
#[used]
#[unsafe(link_section = ".init_array.00098")]
static READ_AT_LOAD: extern "C" fn() = {
    extern "C" fn read() {
        WAS_RESTRICTED.store(get_no_new_privs().unwrap_or(false), Relaxed);
    }
    read
};

/// Whether the kernel says that this process gained privileges when it was executed, or ran under two
/// identities.
pub(crate) fn is_secure() -> bool {
    // SAFETY: takes a number.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

/// Whether the effective user or group differs from the real one.
fn is_setid() -> bool {
    let users = getresuid().is_ok_and(|user| user.real != user.effective);
    users || getresgid().is_ok_and(|group| group.real != group.effective)
}

fn has_capabilities(path: &CStr) -> bool {
    let name = c"security.capability";
    // SAFETY: two C strings; a size of 0 asks for the length of the value, and nothing is written.
    unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), ptr::null_mut(), 0) > 0 }
}

/// Whether this thread lacks a capability that root gains by executing a file: one in its bounding set.
fn lacks_capabilities() -> bool {
    let Ok(permitted) = permitted_capabilities(Pid::from_raw(0)) else { return true };
    // Asks only about the few capabilities that this thread lacks, since each question is a system call. The
    // first number that the kernel does not know ends the loop.
    let is_bound = |capability: u64| {
        // SAFETY: takes a number.
        unsafe { libc::prctl(libc::PR_CAPBSET_READ, capability) }
    };
    let lacking = (0..64_u64).filter(|capability| permitted & (1 << capability) == 0);
    lacking.map(is_bound).take_while(|&answer| answer >= 0).any(|answer| answer == 1)
}

/// Those of a thread, or of the calling one for 0.
fn permitted_capabilities(thread: Pid) -> nix::Result<u64> {
    const VERSION: u32 = 0x2008_0522; // of records with 64 capabilities
    let (header, mut sets) = ([VERSION, thread.as_raw().cast_unsigned()], [0_u32; 6]);
    // SAFETY: the kernel reads a header and writes two records: effective, permitted, inheritable.
    Errno::result(unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), sets.as_mut_ptr()) })?;
    Ok(u64::from(sets[1]) | u64::from(sets[4]) << 32)
}

/// The thread that executes children: capabilities belong to a thread. 0 until there is one.
static EXECUTING_THREAD: AtomicI32 = AtomicI32::new(0);

/// From now on children are executed by this thread.
pub(crate) fn execute_by_this_thread() {
    EXECUTING_THREAD.store(gettid().as_raw(), Relaxed);
}

/// The permitted capabilities that children have when they are executed.
pub(super) fn inherited_capabilities() -> nix::Result<u64> {
    permitted_capabilities(Pid::from_raw(EXECUTING_THREAD.load(Relaxed)))
}

#[cfg(test)]
mod tests {
    use std::thread;

    use nix::unistd::Uid;

    use super::*;
    use crate::spawn::supervisor;
    use crate::sys::inherited_state::{fingerprint, privileges};

    fn drop_capabilities() {
        let (header, none) = ([0x2008_0522_u32, 0], [0_u32; 6]);
        // SAFETY: the kernel reads a header of this version and the two records that go with it.
        assert_eq!(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) }, 0);
    }

    #[test]
    fn the_fingerprint_has_the_capabilities_of_the_thread_that_executes() {
        if !Uid::effective().is_root() {
            println!("skipped: this user has no capabilities");
            assert!(std::env::var_os("MULTIPROC_TEST_ALL").is_none(), "`MULTIPROC_TEST_ALL` is set");
            return;
        }
        let _ = supervisor::children(); // starts its thread, or another test might later
        while EXECUTING_THREAD.load(Relaxed) == 0 {
            thread::yield_now();
        }
        let seen = || (privileges(), fingerprint());
        let before = seen();
        let of_another_thread = || {
            drop_capabilities();
            let unchanged = seen();
            let executing = EXECUTING_THREAD.swap(gettid().as_raw(), Relaxed);
            let changed = seen();
            EXECUTING_THREAD.store(executing, Relaxed);
            (unchanged, changed)
        };
        let (unchanged, changed) = thread::scope(|scope| scope.spawn(of_another_thread).join().unwrap());
        assert_eq!(unchanged, before);
        assert!(changed.0 != before.0 && changed.1 != before.1);
    }
}

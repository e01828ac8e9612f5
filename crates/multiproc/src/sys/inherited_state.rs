//! A hash of the state that an executed program inherits from the process that starts it.

use std::hash::{DefaultHasher, Hash, Hasher};

use nix::errno::Errno;
use nix::libc;
use nix::sys::stat::stat;
use nix::unistd::{getpgrp, getresgid, getresuid, getsid};

use super::privileges::inherited_capabilities;

/// A hash of the [privileges], the environment, the current and the root directory, process group and session,
/// resource limits, and ignored signals.
pub(crate) fn fingerprint() -> u64 {
    let mut hasher = DefaultHasher::new();
    hash_privileges(&mut hasher);
    std::env::vars_os().for_each(|variable| variable.hash(&mut hasher));
    [".", "/"].map(|folder| stat(folder).map(|it| (it.st_dev, it.st_ino)).ok()).hash(&mut hasher);
    (getpgrp(), getsid(None).ok()).hash(&mut hasher);
    (0..LIMITS).for_each(|resource| limit(resource).ok().hash(&mut hasher));
    IGNORABLE.map(is_ignored).hash(&mut hasher);
    hasher.finish()
}

/// A hash of user and groups, and of the capabilities that children inherit.
pub(crate) fn privileges() -> u64 {
    let mut hasher = DefaultHasher::new();
    hash_privileges(&mut hasher);
    hasher.finish()
}

fn hash_privileges(hasher: &mut DefaultHasher) {
    getresuid().map(|it| [it.real, it.effective, it.saved]).ok().hash(hasher);
    getresgid().map(|it| [it.real.as_raw(), it.effective.as_raw(), it.saved.as_raw()]).ok().hash(hasher);
    groups().ok().hash(hasher);
    inherited_capabilities().ok().hash(hasher);
}

/// Not through `nix`, which asks the C library for the maximum, and that opens a file to find out.
fn groups() -> nix::Result<Vec<libc::gid_t>> {
    // SAFETY: with a size of 0, nothing is written.
    let count = Errno::result(unsafe { libc::getgroups(0, std::ptr::null_mut()) })?;
    let mut groups = vec![0; usize::try_from(count).unwrap_or(0)];
    // SAFETY: the kernel writes at most `count` numbers, for which there is room.
    Errno::result(unsafe { libc::getgroups(count, groups.as_mut_ptr()) })?;
    Ok(groups)
}

/// The number of limited resources (`RLIM_NLIMITS`).
const LIMITS: libc::__rlimit_resource_t = 16;

/// The signals that programs usually ignore for their children, too. Asking for all 64 doubles the time.
const IGNORABLE: [i32; 10] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGTERM,
    libc::SIGCHLD,
    libc::SIGTSTP,
    libc::SIGTTOU,
];

/// By number, since `nix` does not have all of them; and by the older call, which is twice as fast.
fn limit(resource: libc::__rlimit_resource_t) -> nix::Result<(u64, u64)> {
    let mut limit = [0_u64; 2];
    // SAFETY: the kernel writes two numbers to the array.
    Errno::result(unsafe { libc::syscall(libc::SYS_getrlimit, resource, limit.as_mut_ptr()) })?;
    Ok(limit.into())
}

fn is_ignored(signal: i32) -> bool {
    // SAFETY: all-zero bytes are a valid sigaction.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: a null pointer changes nothing; the record for the answer is ours.
    let result = unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut action) };
    result == 0 && action.sa_sigaction == libc::SIG_IGN
}

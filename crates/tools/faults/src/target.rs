//! Target processes: only descendants of this program are ever signalled.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::OwnedFd;
use std::time::Duration;

use procfs::process::{Process, StatFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// A process, held by a pidfd so that a reused process id cannot be hit.
#[derive(Debug)]
pub(crate) struct TargetProcess {
    pub(crate) pid: u32,
    pidfd: OwnedFd,
}

impl TargetProcess {
    /// `None` if there is no such process, or it is no descendant of this program.
    pub(crate) fn open(pid: u32) -> Option<Self> {
        let pidfd = pidfd_open(Pid::from_raw(pid.cast_signed())?, PidfdFlags::empty()).ok()?;
        // Checked after the pidfd is open: if the process id was reused since it was read, this finds out.
        is_descendant(pid).then_some(Self { pid, pidfd })
    }

    /// Sends a signal; returns whether the process was alive.
    pub(crate) fn signal(&self, signal: Signal) -> bool {
        !self.has_ended(Duration::ZERO) && pidfd_send_signal(&self.pidfd, signal).is_ok()
    }

    /// Waits up to `patience` for the process to end; returns whether it has.
    pub(crate) fn has_ended(&self, patience: Duration) -> bool {
        let mut ended = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let patience = Timespec::try_from(patience).ok();
        poll(&mut ended, patience.as_ref()).is_ok_and(|count| count == 1)
    }

    /// All current descendants.
    pub(crate) fn descendants(&self) -> Vec<Self> {
        let mut descendants: Vec<Self> = children_of(self.pid).into_iter().filter_map(Self::open).collect();
        descendants.extend(descendants.iter().flat_map(Self::descendants).collect::<Vec<_>>());
        descendants
    }
}

/// The children of a process, zombies included.
pub(crate) fn children_of(pid: u32) -> BTreeSet<u32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return BTreeSet::new() };
    // Threads may exit meanwhile.
    let lists =
        tasks.flatten().map(|task| fs::read_to_string(task.path().join("children")).unwrap_or_default());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// The children of a process, their children, and so on.
#[cfg(multiproc_faults)]
pub(crate) fn descendants_of(pid: u32) -> BTreeSet<u32> {
    let children = children_of(pid);
    let grandchildren: Vec<_> = children.iter().copied().flat_map(descendants_of).collect();
    children.into_iter().chain(grandchildren).collect()
}

/// The name of a process.
pub(crate) fn name_of(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

/// The fork server of this process. A child that it has just forked has the same name for a moment, but was
/// not executed.
pub(crate) fn fork_server() -> Option<u32> {
    let is_it = |&pid: &u32| name_of(pid) == "fork-server" && was_executed(pid);
    children_of(std::process::id()).into_iter().find(is_it)
}

/// The pre-forked children of this process.
pub(crate) fn preforked() -> Vec<u32> {
    children_of(std::process::id()).into_iter().filter(|&pid| name_of(pid) == "mp-preforked").collect()
}

fn was_executed(pid: u32) -> bool {
    let status = Process::new(pid.cast_signed()).and_then(|process| process.stat());
    status.is_ok_and(|status| !StatFlags::from_bits_truncate(status.flags).contains(StatFlags::PF_FORKNOEXEC))
}

fn is_descendant(pid: u32) -> bool {
    let own = std::process::id().cast_signed();
    let parent = |&pid: &i32| Process::new(pid).and_then(|process| process.stat()).ok().map(|stat| stat.ppid);
    std::iter::successors(parent(&pid.cast_signed()), parent).any(|ancestor| ancestor == own)
}

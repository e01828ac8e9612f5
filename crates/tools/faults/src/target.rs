//! Processes that are struck: only such as this program, or one of its children, has started.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::OwnedFd;
use std::time::Duration;

use procfs::process::{Process, StatFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// A process, and no other that may come by its number.
#[derive(Debug)]
pub(crate) struct TargetProcess {
    pub(crate) pid: u32,
    pidfd: OwnedFd,
}

impl TargetProcess {
    /// `None` when there is no such process, or none of this program's.
    pub(crate) fn open(pid: u32) -> Option<Self> {
        let pidfd = pidfd_open(Pid::from_raw(pid.cast_signed())?, PidfdFlags::empty()).ok()?;
        // Looked at only now: should the number mean another process since it was read, that is seen here.
        is_descendant(pid).then_some(Self { pid, pidfd })
    }

    /// Sends it a signal; says whether it was alive.
    pub(crate) fn signal(&self, signal: Signal) -> bool {
        !self.has_ended(Duration::ZERO) && pidfd_send_signal(&self.pidfd, signal).is_ok()
    }

    /// Whether it has ended; waits for that, but no longer than this.
    pub(crate) fn has_ended(&self, patience: Duration) -> bool {
        let mut ended = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let patience = Timespec::try_from(patience).ok();
        poll(&mut ended, patience.as_ref()).is_ok_and(|count| count == 1)
    }

    /// All that it has started, and they in turn, at this moment.
    pub(crate) fn descendants(&self) -> Vec<Self> {
        let mut descendants: Vec<Self> = children_of(self.pid).into_iter().filter_map(Self::open).collect();
        descendants.extend(descendants.iter().flat_map(Self::descendants).collect::<Vec<_>>());
        descendants
    }
}

/// The children of a process, dead ones that nobody has buried included.
pub(crate) fn children_of(pid: u32) -> BTreeSet<u32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return BTreeSet::new() };
    // Threads may end meanwhile.
    let lists =
        tasks.flatten().map(|task| fs::read_to_string(task.path().join("children")).unwrap_or_default());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// What a process is called.
pub(crate) fn name_of(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

/// The process from which the children of this one are forked. What it has just forked is called the same
/// until it knows its own name; but it has not been executed.
pub(crate) fn fork_server() -> Option<u32> {
    let is_it = |&pid: &u32| name_of(pid) == "fork-server" && was_executed(pid);
    children_of(std::process::id()).into_iter().find(is_it)
}

/// What that has ready.
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

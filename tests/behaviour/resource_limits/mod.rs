//! **Resource limits**: descriptors, processes, memory and file sizes run out.
//!
//! Each call works, or says what it could not have; nothing is left half made; and when there is enough
//! again, all works.

mod descriptors;
mod every_call;
mod mappings;
mod starts;

use std::fs;

use libtest_mimic::Trial;
use multiproc::Result;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::support::{METHODS, children, eventually, open_without_children, with};

pub(crate) fn trials() -> Vec<Trial> {
    let trials = [descriptors::trials(), every_call::trials(), mappings::trials(), starts::trials()];
    trials.into_iter().flatten().collect()
}

const LARGE: &[u8] = &[7; 100_000];

/// Runs `act` with a limit on a resource of this process, which children inherit.
fn limited<R>(resource: Resource, limit: u64, act: impl FnOnce() -> R) -> R {
    let (before, most) = getrlimit(resource).unwrap();
    setrlimit(resource, limit, most).unwrap();
    let result = act();
    setrlimit(resource, before, most).unwrap();
    result
}

/// How many descriptors are open, once children could be started. A fork server is there then.
fn open_when_all_is_well() -> Result<usize> {
    for method in METHODS {
        with(method).spawn(|| (), ())?.join()?;
    }
    eventually("there is no other child", || {
        children().iter().all(|(_, name)| name == "fork-server") && children().len() <= 1
    });
    Ok(open_without_children())
}

/// The size of this process's address space in bytes.
fn size() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

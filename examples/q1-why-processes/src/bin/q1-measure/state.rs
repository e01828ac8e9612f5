//! Global state, of which each process has its own.

use std::env;
use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Result;
use experiments::Finding;
use multiproc::Process;
use nix::sys::resource::{Resource, setrlimit};

static NUMBER: AtomicU32 = AtomicU32::new(0);

pub(crate) fn statics() -> Result<Finding> {
    let there = Process::spawn(change_number, ())?.join()?;
    let here = NUMBER.load(Ordering::Relaxed);
    Ok(Finding::new((there, here) == (7, 0), format!("there {there}, here {here}")))
}

fn change_number() -> u32 {
    NUMBER.store(7, Ordering::Relaxed);
    NUMBER.load(Ordering::Relaxed)
}

pub(crate) fn working_directory() -> Result<Finding> {
    let before = env::current_dir()?;
    let there = Process::spawn(go_away, ())?.join()?;
    let here = env::current_dir()?;
    let holds = there.as_deref() == Some("/proc".as_ref()) && here == before;
    Ok(Finding::new(holds, if here == before { "ours is as before" } else { "ours has changed" }))
}

fn go_away() -> Option<PathBuf> {
    env::set_current_dir("/proc").ok()?;
    env::current_dir().ok()
}

/// The right to open files stands for others that take a system's administrator to try: user, group,
/// capabilities.
pub(crate) fn rights() -> Result<Finding> {
    let there = Process::spawn(may_open_after_giving_up, ())?.join()?;
    let here = may_open();
    let words = |may| if may { "opens" } else { "refused" };
    Ok(Finding::new(!there && here, format!("there {}, here {}", words(there), words(here))))
}

fn may_open_after_giving_up() -> bool {
    let _ = setrlimit(Resource::RLIMIT_NOFILE, 0, 0); // without it, the file opens: that shows
    may_open()
}

fn may_open() -> bool {
    File::open("/proc/self/status").is_ok()
}

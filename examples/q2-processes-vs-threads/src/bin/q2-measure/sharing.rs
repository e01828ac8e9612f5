//! State that threads share, and processes do not.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use anyhow::{Result, anyhow};
use experiments::Finding;
use multiproc::Process;

static COUNT: AtomicU32 = AtomicU32::new(0);

fn count() {
    COUNT.fetch_add(1, Ordering::Relaxed);
}

pub(crate) fn statics() -> Result<Finding> {
    let threads: Vec<_> = (0..4).map(|_| thread::spawn(count)).collect();
    for thread in threads {
        thread.join().map_err(|_| anyhow!("a thread panicked"))?;
    }
    let by_threads = COUNT.swap(0, Ordering::Relaxed);
    let children: multiproc::Result<Vec<_>> = (0..4).map(|_| Process::spawn(count, ())).collect();
    for child in children? {
        child.join()?;
    }
    let by_processes = COUNT.load(Ordering::Relaxed);
    let holds = (by_threads, by_processes) == (4, 0);
    Ok(Finding::new(holds, format!("threads {by_threads}, processes {by_processes}")))
}

/// The thread's part is done in a child, so that this program stays where it is.
pub(crate) fn working_directory() -> Result<Finding> {
    let before = env::current_dir()?;
    let moved_by_thread = Process::spawn(thread_goes, ())?.join()?.as_deref() == Some(Path::new("/proc"));
    let child_went = Process::spawn(go, ())?.join()?.as_deref() == Some(Path::new("/proc"));
    let moved_by_child = env::current_dir()? != before;
    let changed = |changed| if changed { "changed" } else { "as before" };
    let figure = format!("thread: {}, process: {}", changed(moved_by_thread), changed(moved_by_child));
    Ok(Finding::new(moved_by_thread && child_went && !moved_by_child, figure))
}

fn thread_goes() -> Option<PathBuf> {
    thread::spawn(go).join().ok()??;
    env::current_dir().ok()
}

fn go() -> Option<PathBuf> {
    env::set_current_dir("/proc").ok()?;
    env::current_dir().ok()
}

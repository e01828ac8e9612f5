//! Ctrl-C: what runs is ended, and what came of it so far is told.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Result;

static CAME: AtomicBool = AtomicBool::new(false);

/// From now on it does not end the program.
pub(crate) fn heed() -> Result<()> {
    Ok(ctrlc::set_handler(|| CAME.store(true, Ordering::Relaxed))?)
}

pub(crate) fn came() -> bool {
    CAME.load(Ordering::Relaxed)
}

/// As [`came`], after a failure: a terminal interrupts the children, too, and theirs may be seen first.
pub(crate) fn comes() -> bool {
    thread::sleep(Duration::from_millis(100));
    came()
}

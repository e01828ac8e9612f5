//! Ctrl-C: ends the run, and prints the results so far.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Result;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Installs the handler: Ctrl-C no longer ends the program.
pub(crate) fn install() -> Result<()> {
    Ok(ctrlc::set_handler(|| INTERRUPTED.store(true, Ordering::Relaxed))?)
}

pub(crate) fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// As [`interrupted`], after a failure: a terminal interrupts the children too, and their failure may be seen
/// first.
pub(crate) fn interrupted_soon() -> bool {
    thread::sleep(Duration::from_millis(100));
    interrupted()
}

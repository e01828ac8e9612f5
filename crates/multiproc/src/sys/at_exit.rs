//! Exit handlers: `atexit(3)`.

use nix::libc;

/// Has `handler` called when this process exits, on the thread that calls `exit`. A refusal costs the call.
pub(crate) fn at_exit(handler: extern "C" fn()) {
    // SAFETY: a function that lives as long as the program.
    let _ = unsafe { libc::atexit(handler) };
}

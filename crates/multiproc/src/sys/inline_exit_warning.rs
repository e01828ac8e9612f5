//! A notice on standard error if a task that runs in the program's own process calls `exit`: it ends the
//! whole program, which would otherwise end without a word.

use std::cell::Cell;

use super::at_exit::at_exit;
use super::process_local::DoneOnce;
use super::stdio::print_error;

thread_local! {
    /// How many such tasks this thread runs, one within the other.
    static RUNNING: Cell<u32> = const { Cell::new(0) };
}

/// Calls `task`, and prints the notice if that calls `exit`.
pub(crate) fn with_exit_warning<T>(task: impl FnOnce() -> T) -> T {
    static REGISTERED: DoneOnce = DoneOnce::once();
    REGISTERED.get().call_once(|| at_exit(notice));
    RUNNING.set(RUNNING.get() + 1);
    let result = task();
    RUNNING.set(RUNNING.get() - 1);
    result
}

/// Exit handlers run on the thread that calls `exit`.
extern "C" fn notice() {
    if RUNNING.get() > 0 {
        print_error(
            "multiproc: a task called exit in inline mode (MULTIPROC_INLINE), where it ends the whole program",
        );
    }
}

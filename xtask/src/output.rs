//! Standard output and error that may be closed pipes, as in `cargo xtask verify | head -1`.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write, stderr, stdout};
use std::process::exit;
use std::sync::{Mutex, PoisonError};

/// The exit code that a shell shows for a program that SIGPIPE has ended.
const CLOSED_PIPE: i32 = 141;

type CleanUp = Box<dyn Fn() + Send>;

/// The cleanup before an early end of this program.
static CLEAN_UP: Mutex<Option<CleanUp>> = Mutex::new(None);

/// Prints a line to standard output, like `println!`. A closed pipe ends the program.
macro_rules! say {
    ($($what:tt)*) => { $crate::output::line(format_args!($($what)*)) };
}
pub(crate) use say;

/// Prints a line to standard output. A closed pipe ends the program.
pub fn line(text: Arguments) {
    if let Err(error) = writeln!(stdout(), "{text}") {
        if error.kind() != ErrorKind::BrokenPipe {
            complain(format_args!("error: cannot write to standard output: {error}"));
        }
        end_early(if error.kind() == ErrorKind::BrokenPipe { CLOSED_PIPE } else { 1 });
    }
}

/// Prints a line to standard error, if that is still there.
pub fn complain(text: Arguments) {
    _ = writeln!(stderr(), "{text}");
}

/// Sets what [`end_early`] does first.
pub(crate) fn set_clean_up(clean_up: impl Fn() + Send + 'static) {
    *CLEAN_UP.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(clean_up));
}

/// Cleans up and ends the program: on Ctrl-C, or when its output cannot be written.
pub(crate) fn end_early(code: i32) -> ! {
    if let Some(clean_up) = &*CLEAN_UP.lock().unwrap_or_else(PoisonError::into_inner) {
        clean_up();
    }
    exit(code)
}

//! A program whose children do not come up: what stands before `init` in `main` runs in them, too, and there
//! they sleep, or exit, or leave themselves too few descriptors, or close standard input, or both close it and sleep,
//! as the first argument says.

#![allow(clippy::unwrap_used, reason = "a fixture ends where something does not go as it should")]

use std::env::{set_var, var_os};
use std::process::exit;
use std::thread::sleep;
use std::time::Duration;

use multiproc::{Pool, Process, active_children};
use nix::libc;
use nix::sys::resource::{Resource, setrlimit};
use tests::{is_started_by_itself, watched};

/// A child of a child exits: else each would start children of its own if it did not know what it is.
#[allow(unsafe_code)]
fn close_stdin() {
    if var_os("LATE_INIT_CHILD").is_some() {
        exit(4);
    }
    // SAFETY: there is no other thread.
    unsafe { set_var("LATE_INIT_CHILD", "1") };
    // SAFETY: nothing of this program uses the descriptor.
    unsafe { libc::close(0) };
}

#[allow(unsafe_code)]
fn main() {
    let what = std::env::args().nth(1).unwrap();
    if is_started_by_itself() {
        match &what[..] {
            "exit" => exit(3),
            "closed" => close_stdin(),
            "silent" => {
                // SAFETY: nothing of this program uses the descriptor.
                unsafe { libc::close(0) };
                sleep(Duration::from_secs(100));
            }
            "poor" => setrlimit(Resource::RLIMIT_NOFILE, 4, 4).unwrap(),
            // Nothing ties such a child to its parent yet, so it must end by itself.
            _ => sleep(Duration::from_secs(100)),
        }
    }
    multiproc::init();
    watched("late_init", || {
        let patience =
            Duration::from_millis(if ["sleep", "silent"].contains(&&*what) { 200 } else { 30_000 });
        // Whether it is already an error to start it depends on the start method.
        let child = Process::builder().start_timeout(patience).spawn(|| (), ());
        println!("{}", child.and_then(Process::join).unwrap_err());
        let pool = Pool::builder().workers(2).start_timeout(patience).build();
        println!("{}", pool.and_then(|pool| pool.apply(|| (), ())).unwrap_err());
        println!("{} children left", active_children().len());
    });
}

//! A program whose children do not come up: what stands before `init` in `main` runs in them, too, and there they
//! sleep or exit, whichever the first argument says.

#![allow(clippy::unwrap_used, reason = "a fixture ends where something does not go as it should")]

use std::process::exit;
use std::thread::sleep;
use std::time::Duration;

use multiproc::{Pool, Process, active_children};
use tests::{is_started_by_itself, watched};

fn main() {
    if is_started_by_itself() {
        if std::env::args().nth(1).as_deref() == Some("exit") {
            exit(3);
        }
        sleep(Duration::from_secs(100)); // nothing ties such a child to its parent yet, so it must end by itself
    }
    multiproc::init();
    watched("late_init", || {
        let patience = Duration::from_millis(200);
        // Whether it is already an error to start it depends on the start method.
        let child = Process::builder().start_timeout(patience).spawn(|| (), ());
        println!("{}", child.and_then(Process::join).unwrap_err());
        let pool = Pool::builder().workers(2).start_timeout(patience).build();
        println!("{}", pool.and_then(|pool| pool.apply(|| (), ())).unwrap_err());
        println!("{} children left", active_children().len());
    });
}

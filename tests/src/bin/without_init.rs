//! A program that forgets `multiproc::init()`.

#![allow(clippy::unwrap_used, reason = "a fixture ends where something does not go as it should")]

use multiproc::{Pool, Process};
use nix::errno::Errno;
use nix::sys::wait::{WaitPidFlag, waitpid};

fn main() {
    tests::watched("without_init", || {
        println!("begins");
        println!("{}", Process::spawn(|| (), ()).unwrap_err());
        println!("{}", Pool::new(2).unwrap_err());
        // ECHILD says that there has been no child: no status was collected.
        assert_eq!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Err(Errno::ECHILD));
        println!("has no child");
    });
}

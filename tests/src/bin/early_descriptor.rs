//! A program that owns a descriptor from before `init`, which it has not marked to be closed when a program
//! is executed.

#![allow(clippy::unwrap_used, reason = "a fixture ends where something does not go as it should")]

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::OnceLock;

use multiproc::{Process, StartMethod};
use nix::sys::stat::fstat;
use nix::unistd::dup;

static EARLY: OnceLock<OwnedFd> = OnceLock::new();

fn main() {
    EARLY.set(dup(File::open("/dev/zero").unwrap()).unwrap()).unwrap();
    multiproc::init();
    let device = || fstat(EARLY.get().unwrap()).map(|status| status.st_rdev).map_err(|errno| errno as i32);
    for method in [StartMethod::ForkServer, StartMethod::Spawn] {
        let child = Process::builder().start_method(method).spawn(device, ()).unwrap();
        println!("{}", child.join().unwrap() == device());
    }
}

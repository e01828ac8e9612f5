//! A program that opens, in its children, as many files as it may before `init`: no descriptor is left for
//! the library.

#![allow(clippy::unwrap_used, reason = "a fixture ends where something does not go as it should")]

use std::fs::File;

use multiproc::{Process, StartMethod};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tests::{is_started_by_itself, watched};

fn main() {
    let mut files = Vec::new();
    if is_started_by_itself() {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, 32, hard).unwrap();
        while let Ok(file) = File::open("/dev/null") {
            files.push(file);
        }
    }
    multiproc::init();
    if !files.is_empty() {
        println!("a child runs what stands behind init");
        return;
    }
    watched("crowded", || {
        let child = Process::builder().start_method(StartMethod::Spawn).spawn(|| (), ());
        println!("{}", child.and_then(Process::join).unwrap_err());
    });
}

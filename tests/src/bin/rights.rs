//! A program that is executed with more rights than its user has, by its mode or its capabilities. It prints
//! the rights of its own, and those of a child by each start method. With the argument `drop` it gives up
//! first what its user has not.

#![allow(clippy::unwrap_used, reason = "a fixture ends where something does not go as it should")]

use std::fs;

use multiproc::{Process, StartMethod};
use nix::libc;
use nix::unistd::{getgid, getuid, setresgid, setresuid};

/// Users, groups and permitted capabilities of this process.
fn rights() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let told = ["Uid:", "Gid:", "Groups:", "CapPrm:"];
    let lines = status.lines().filter(|line| told.iter().any(|name| line.starts_with(name)));
    lines.flat_map(str::split_whitespace).collect::<Vec<_>>().join(" ")
}

#[allow(unsafe_code)]
fn drop_rights() {
    setresgid(getgid(), getgid(), getgid()).unwrap();
    setresuid(getuid(), getuid(), getuid()).unwrap();
    let (header, none) = ([0x2008_0522_u32, 0], [0_u32; 6]);
    // SAFETY: the kernel reads a header of this version and the two records that go with it.
    assert_eq!(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) }, 0);
}

fn main() {
    multiproc::init();
    if std::env::args().nth(1).as_deref() == Some("drop") {
        drop_rights();
    }
    println!("{}", rights());
    for method in [StartMethod::ForkServer, StartMethod::Spawn] {
        let child = Process::builder().start_method(method).spawn(rights, ());
        println!("{}", child.and_then(Process::join).unwrap_or_else(|error| error.to_string()));
    }
}

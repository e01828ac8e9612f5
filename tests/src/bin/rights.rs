//! A program that is executed with more rights than its user has, by its mode or its capabilities. It prints
//! the rights of its own, and those of a child by each start method. With the argument `drop` it gives up
//! first what its user has not; with `late`, when it has had children. It prints then, too, what a worker with
//! a preloaded state has that replaces another. With `process` it prints whether a child is a process.

#![allow(clippy::unwrap_used, reason = "a fixture ends where something does not go as it should")]

use std::{fs, process};

use multiproc::{Pool, Process, Result, StartMethod};
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
    match std::env::args().nth(1).as_deref() {
        Some("drop") => drop_rights(),
        Some("late") => return drop_late(),
        Some("process") => return println!("{}", child_pid().is_ok_and(|pid| pid != process::id())),
        _ => {}
    }
    println!("{}", rights());
    for method in [StartMethod::ForkServer, StartMethod::Spawn] {
        println!("{}", rights_of_child(method));
    }
}

fn rights_of_child(method: StartMethod) -> String {
    let child = Process::builder().start_method(method).spawn(rights, ());
    child.and_then(Process::join).unwrap_or_else(|error| error.to_string())
}

fn child_pid() -> Result<u32> {
    Process::spawn(process::id, ())?.join()
}

fn drop_late() {
    let methods = [StartMethod::ForkServer, StartMethod::Spawn];
    let before = methods.map(rights_of_child);
    let builder = Pool::builder().workers(1).max_tasks_per_worker(1).start_method(StartMethod::ForkServer);
    let pool = builder.preload(|| 7, ()).build().unwrap();
    let rights_of_worker = || pool.apply(|_: &mut u32| rights(), ()).unwrap();
    assert_eq!([rights_of_worker(), rights()], before);
    drop_rights();
    rights_of_worker(); // of one that may have been started before
    println!("{}", rights());
    for method in methods {
        println!("{}", rights_of_child(method));
    }
    println!("{}", rights_of_worker());
}

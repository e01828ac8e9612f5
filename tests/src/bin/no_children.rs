//! A program that stops its fork server when it has joined all its children: it waits for all children that
//! it has, and executes itself again, with nothing left over.

#![allow(clippy::unwrap_used, reason = "a fixture ends where something does not go as it should")]

use std::os::unix::process::CommandExt;
use std::process::{Command, id};

use multiproc::{Pool, Process, stop_fork_server};
use nix::errno::Errno;
use nix::sys::wait::wait;

fn start_and_join_some() {
    for number in 0..4 {
        assert_eq!(Process::spawn(|number: u32| number, (number,)).unwrap().join().unwrap(), number);
    }
    let pool = Pool::new(2).unwrap();
    assert_eq!(pool.map(|number: u32| number + 1, 0..3).unwrap(), [1, 2, 3]);
}

fn main() {
    multiproc::init();
    let generation: u32 = std::env::args().nth(1).map_or(0, |number| number.parse().unwrap());
    tests::watched("no_children", || {
        println!("{} children at first", tests::children_of(id()).len());
        stop_fork_server().unwrap(); // there is none
        start_and_join_some();
        let child = Process::spawn(std::thread::park, ()).unwrap();
        stop_fork_server().unwrap();
        assert!(child.is_alive());
        child.kill().unwrap();
        assert_eq!(child.join().unwrap_err().signal(), Some(9));
        while wait().is_ok() {
            println!("there was another child");
        }
        assert_eq!(wait(), Err(Errno::ECHILD));
        start_and_join_some();
        stop_fork_server().unwrap();
    });
    if generation < 2 {
        let error = Command::new("/proc/self/exe").arg((generation + 1).to_string()).exec();
        println!("{error}");
    }
}

//! Writes bootstrap messages to files, or starts children late. The first argument chooses.
//!
//! - `keep FILE`: starts a child, which writes its bootstrap message to that file and exits.
//! - `late`: starts children when it reads a line on standard input, and prints their results.
//! - `restricted`: as `late`, after it has given up to gain privileges (`no_new_privs`).

#![allow(clippy::unwrap_used, reason = "a fixture ends where something does not go as it should")]

use std::fs;
use std::io::stdin;
use std::os::fd::AsRawFd;
use std::process::exit;

use multiproc::{Process, StartMethod};
use nix::sys::prctl::set_no_new_privs;
use nix::sys::socket::{MsgFlags, recv};

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if let Some(file) = args.get(2)
        && tests::is_started_by_itself()
    {
        let mut packet = vec![0; 64 * 1024];
        let length = recv(stdin().as_raw_fd(), &mut packet, MsgFlags::MSG_PEEK).unwrap();
        fs::write(file, &packet[..length]).unwrap();
        exit(0);
    }
    if args[1] == "restricted" {
        set_no_new_privs().unwrap();
    }
    multiproc::init();
    match &args[1][..] {
        "keep" => {
            let child = Process::builder().start_method(StartMethod::Spawn);
            child.spawn(|| println!("the task runs"), ()).unwrap().join().unwrap_err();
        }
        "late" | "restricted" => {
            println!("ready");
            stdin().read_line(&mut String::new()).unwrap();
            for method in [StartMethod::ForkServer, StartMethod::Spawn] {
                let child = Process::builder().start_method(method).spawn(|| 4, ()).unwrap();
                println!("{}", child.join().unwrap());
            }
        }
        other => panic!("{other}?"),
    }
}

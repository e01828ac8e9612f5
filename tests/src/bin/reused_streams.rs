//! A program that closes its standard streams. By that, descriptors of the library get their numbers.

#![allow(clippy::unwrap_used, reason = "a fixture ends where something does not go as it should")]

use std::process::exit;
use std::time::Duration;

use multiproc::{Pool, Process, queue};
use nix::libc;

#[allow(unsafe_code)]
fn main() {
    multiproc::init();
    for number in [libc::STDOUT_FILENO, libc::STDERR_FILENO] {
        // SAFETY: no value owns a standard stream.
        unsafe { libc::close(number) };
    }
    tests::watched("reused_streams", || {
        let (sender, receiver) = queue::bounded::<u32>(4).unwrap(); // here
        let (gate, opened) = queue::bounded::<u32>(1).unwrap();
        let stay = |gate: queue::Receiver<u32>| gate.recv().is_err();
        let child = Process::spawn(stay, (opened,)).unwrap();
        drop(sender);
        let end = receiver.recv_timeout(Duration::from_secs(5));
        assert!(end.unwrap_err().is_disconnected(), "a child that has nothing to do with it holds the queue");
        drop(gate);
        assert!(child.join().unwrap());
        let print = |number: u32| {
            println!("something");
            number
        };
        for number in 0..10 {
            assert_eq!(Process::spawn(print, (number,)).unwrap().join().unwrap(), number);
        }
        assert_eq!(Pool::new(2).unwrap().map(print, 0..20).unwrap(), (0..20).collect::<Vec<_>>());
    });
    exit(42);
}

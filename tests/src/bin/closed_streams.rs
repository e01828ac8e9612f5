//! A program that works, and says so by its exit code alone, because its standard streams may be closed or
//! broken.

#![allow(clippy::unwrap_used, reason = "a fixture ends where something does not go as it should")]

use std::io::{Read, Write, stderr, stdin, stdout};
use std::process::exit;

use multiproc::{Pool, Process, queue};

/// Uses each stream; whether that does anything is not the question.
fn use_streams(number: u32) -> u32 {
    let _ = writeln!(stdout(), "a line");
    let _ = write!(stdout(), "the beginning of one");
    let _ = writeln!(stderr(), "a complaint");
    assert_eq!(stdin().read(&mut [0; 10]).unwrap(), 0, "standard input is empty");
    number + 1
}

fn main() {
    multiproc::init();
    tests::watched("closed_streams", || {
        let (sender, receiver) = queue::bounded(1).unwrap();
        let send = |sender: queue::Sender<u32>| sender.send(use_streams(0)).unwrap();
        Process::spawn(send, (sender,)).unwrap().join().unwrap();
        assert_eq!(receiver.recv().unwrap(), 1);
        let error = Process::spawn(|| -> () { panic!("on purpose") }, ()).unwrap().join().unwrap_err();
        assert!(error.to_string().contains("on purpose"));
        let pool = Pool::new(2).unwrap();
        assert_eq!(pool.map(use_streams, 0..5).unwrap(), [1, 2, 3, 4, 5]);
        pool.join();
    });
    exit(42);
}

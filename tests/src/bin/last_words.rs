//! A program that starts children at the ends of its threads, and of itself.

#![allow(clippy::unwrap_used, reason = "a fixture ends where something does not go as it should")]

use std::cell::Cell;
use std::thread;

use multiproc::{Pool, Process, queue};

struct AtEnd(&'static str);

impl Drop for AtEnd {
    fn drop(&mut self) {
        assert_eq!(Process::spawn(|| 7, ()).unwrap().join().unwrap(), 7);
        assert_eq!(
            Pool::new(1).unwrap().apply(|text: String| text.len(), ("x".repeat(100_000),)).unwrap(),
            100_000
        );
        let (sender, receiver) = queue::bounded(1).unwrap();
        sender.send(self.0.to_owned()).unwrap();
        println!("{}", receiver.recv().unwrap());
    }
}

thread_local! {
    static LAST: Cell<Option<AtEnd>> = const { Cell::new(None) };
}

extern "C" fn at_exit() {
    drop(AtEnd("the program"));
}

/// What is kept for a thread is destroyed in the order of its first uses: some of the library's before this,
/// some after.
fn live(name: &'static str) {
    Process::spawn(|| (), ()).unwrap().join().unwrap();
    LAST.set(Some(AtEnd(name)));
    Process::spawn(|| (), ()).unwrap().join().unwrap();
    Pool::new(1).unwrap().apply(|| (), ()).unwrap();
}

#[allow(unsafe_code)]
fn main() {
    multiproc::init();
    // SAFETY: the function may be called at any time, once.
    assert_eq!(unsafe { nix::libc::atexit(at_exit) }, 0);
    thread::spawn(|| live("a thread")).join().unwrap();
    live("the first thread");
}

//! A program with two functions for the start of its children, of which the second may panic.

#![allow(clippy::unwrap_used, reason = "a fixture ends where something does not go as it should")]

use std::sync::Mutex;

use multiproc::{Pool, Process, at_start};

/// Which functions this process has called.
static CALLED: Mutex<Vec<u32>> = Mutex::new(Vec::new());
/// The value that the initializer of a pool has seen.
static SEEN: Mutex<Vec<u32>> = Mutex::new(Vec::new());

fn call(number: u32) {
    CALLED.lock().unwrap().push(number);
}

fn called() -> Vec<u32> {
    CALLED.lock().unwrap().clone()
}

fn main() {
    at_start(|| call(1)).unwrap();
    at_start(|| {
        assert!(std::env::var_os("PANIC_AT_START").is_none(), "on purpose");
        call(2);
    })
    .unwrap();
    multiproc::init();
    tests::watched("at_start", || {
        println!("{:?}", Process::spawn(called, ()).unwrap().join().unwrap());
        let look = || *SEEN.lock().unwrap() = called();
        let pool = Pool::builder().workers(1).initializer(look, ()).build().unwrap();
        println!("{:?}", pool.apply(|| SEEN.lock().unwrap().clone(), ()).unwrap());
        tests::set_variable("PANIC_AT_START", "1");
        let error = Process::spawn(called, ()).unwrap().join().unwrap_err();
        println!("a panic: {}", error.is_panic());
        println!("{:?}", called());
    });
}

//! A program that ends with leaked pools: one idle, one at work, one unused.

#![allow(clippy::unwrap_used, reason = "a fixture ends where something does not go as it should")]

use std::mem::forget;
use std::thread::sleep;
use std::time::Duration;

use multiproc::{Pool, Process};

fn main() {
    multiproc::init();
    tests::watched("leaked_pool", || {
        let idle = Pool::new(2).unwrap();
        assert_eq!(idle.map(|number: u32| number + 1, 0..3).unwrap(), [1, 2, 3]);
        let busy = Pool::new(2).unwrap();
        for _ in 0..10 {
            forget(busy.submit(|| sleep(Duration::from_secs(100)), ()).unwrap());
        }
        forget((idle, busy, Pool::new(1).unwrap()));
        forget(Process::spawn(|| sleep(Duration::from_secs(100)), ()).unwrap());
        println!("ends");
    });
}

//! A program that prints the ids of its children of all kinds, and waits to be killed.

#![allow(clippy::unwrap_used, reason = "a fixture ends where something does not go as it should")]

use std::process::id;
use std::thread::sleep;
use std::time::{Duration, Instant};

use multiproc::queue::{Sender, bounded};
use multiproc::{Pool, Process};

/// How long children stay: much longer than the test takes; bounded, should the test fail.
const STAY: Duration = Duration::from_secs(100);

fn rest(ids: Sender<u32>) {
    ids.send(id()).unwrap();
    sleep(STAY);
}

fn toil(ids: Sender<u32>) {
    ids.send(id()).unwrap();
    let start = Instant::now();
    while start.elapsed() < STAY {}
}

/// A child that has a child of its own.
fn rear(ids: Sender<u32>) {
    ids.send(id()).unwrap();
    Process::spawn(rest, (ids,)).unwrap().join().unwrap();
}

fn main() {
    multiproc::init();
    tests::watched("orphans", || {
        let (ids, born) = bounded(5).unwrap();
        let pool = Pool::new(3).unwrap(); // two of them busy, one idle
        let _resting = pool.submit(rest, (ids.clone(),)).unwrap();
        let _toiling = pool.submit(toil, (ids.clone(),)).unwrap();
        let _child = Process::spawn(toil, (ids.clone(),)).unwrap();
        let _grandchild = Process::spawn(rear, (ids,)).unwrap();
        for _ in 0..5 {
            println!("{}", born.recv().unwrap());
        }
        for pid in pool.worker_pids() {
            println!("{pid}");
        }
        println!();
        sleep(STAY);
    });
}

//! A program that has its affinity set to the number of CPUs that it is given, if any, and prints how many
//! workers a pool has by default.

#![allow(clippy::unwrap_used, reason = "a fixture ends where something does not go as it should")]

use multiproc::Pool;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

fn restrict(count: usize) {
    let this = Pid::from_raw(0);
    let permitted = sched_getaffinity(this).unwrap();
    let mut fewer = CpuSet::new();
    let numbers = (0..CpuSet::count()).filter(|&cpu| permitted.is_set(cpu).unwrap());
    for cpu in numbers.take(count) {
        fewer.set(cpu).unwrap();
    }
    sched_setaffinity(this, &fewer).unwrap();
}

fn main() {
    if let Some(count) = std::env::args().nth(1) {
        restrict(count.parse().unwrap());
    }
    multiproc::init();
    tests::watched("cpus", || {
        println!("{}", Pool::builder().build().unwrap().worker_pids().len());
    });
}

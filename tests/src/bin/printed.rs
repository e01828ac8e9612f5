//! A program that looks at what its tasks have printed as soon as it has their results. Its standard output
//! is a file.

#![allow(clippy::unwrap_used, reason = "a fixture ends where something does not go as it should")]

use std::fs::File;
use std::hint::spin_loop;
use std::io::stdout;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use multiproc::Pool;
use tests::c_printf;

/// Works for this time, and prints one byte without a newline.
fn print(micros: u64) {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_micros(micros) {
        spin_loop();
    }
    print!(".");
}

/// As that, by C, whose buffer is another.
fn print_by_c(micros: u64) {
    print(micros);
    c_printf(c",");
}

fn main() {
    multiproc::init();
    let output = File::from(stdout().as_fd().try_clone_to_owned().unwrap());
    let printed = || output.metadata().unwrap().len();
    tests::watched("printed", || {
        let pool = Pool::builder().workers(1).initializer(print, (0,)).build().unwrap();
        for before in 1..=2_000 {
            pool.apply(print, (before % 60,)).unwrap();
            assert_eq!(printed(), before + 1, "what a task has printed is out before its result is seen");
        }
        for micros in 0..1_000 {
            pool.apply(print_by_c, (micros % 60,)).unwrap();
            assert_eq!(printed(), 2_001 + 2 * (micros + 1), "by whatever library");
        }
    });
}

//! A program whose tasks print without a line end, by Rust or (first argument `c`) by C; some of them end
//! their worker. Its standard output is a file, in which there must be what each task has printed whose
//! result is here.

#![allow(clippy::unwrap_used, reason = "a fixture ends where something does not go as it should")]

use std::env;
use std::fs;
use std::process::abort;
use std::thread;
use std::time::Duration;

use multiproc::{Pool, Result};
use tests::{c_printf, exit_at_once, watched};

const TASKS: u32 = 3_000;

fn print(number: u32) -> u32 {
    print!("[{number}]");
    number
}

fn print_by_c(number: u32) -> u32 {
    c_printf(&std::ffi::CString::new(format!("[{number}]")).unwrap());
    number
}

/// One task in a hundred ends its worker instead.
fn or_die(number: u32, print: fn(u32) -> u32) -> u32 {
    match number % 300 {
        57 => abort(),
        157 => exit_at_once(),
        257 => loop {
            thread::sleep(Duration::MAX); // until the time limit ends it
        },
        _ => print(number),
    }
}

fn run(by_c: bool, pool: &Pool, timeout: Option<Duration>, numbers: Vec<u32>) -> Vec<Result<u32>> {
    let call = timeout.into_iter().fold(pool.options(), multiproc::pool::CallOptions::timeout);
    if by_c {
        call.map_results(|number: u32| or_die(number, print_by_c), numbers).unwrap()
    } else {
        call.map_results(|number: u32| or_die(number, print), numbers).unwrap()
    }
}

fn main() {
    multiproc::init();
    let by_c = env::args().nth(1).as_deref() == Some("c");
    watched("unfinished_lines", || {
        let pool = Pool::new(2).unwrap();
        let (timed, untimed) = (0..TASKS).partition(|number| number / 300 % 2 == 0);
        let mut results = run(by_c, &pool, Some(Duration::from_secs(1)), timed);
        let is_endless = |number: &u32| number % 300 == 257;
        results.extend(run(by_c, &pool, None, untimed.into_iter().filter(|n| !is_endless(n)).collect()));
        let printed = fs::read_to_string("/proc/self/fd/1").unwrap();
        let given: Vec<u32> = results.into_iter().flatten().collect();
        assert!(given.len() > 2_000, "{}", given.len());
        let lost = given.iter().filter(|number| !printed.contains(&format!("[{number}]"))).count();
        assert_eq!(lost, 0, "of {} results that were given, the output of this many is lost", given.len());
    });
}

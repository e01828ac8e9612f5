//! The feature `log` with a logger that blocks. These tests stop the records of any child, so they have a
//! process of their own.

#![allow(clippy::unwrap_used, reason = "a test ends where something does not go as it should")]

#[allow(dead_code, reason = "the other tests use more of it")]
mod collector;

use std::io::stdout;
use std::thread;
use std::time::Duration;

use log::info;
use multiproc::{Pool, Process};
use tests::watched_for;

use self::collector::{GATE, alone, has_met_stdout, records_of, set_logger};

multiproc::init_for_tests!();

/// How long a test may take. It measures nothing: it turns a hang into a failure.
const LIMIT: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(100);

fn log_at_gate() {
    info!(target: "gate", "blocks the logger");
}

fn log_to_stdout() {
    info!(target: "stdout", "needs a lock");
}

#[test]
fn timed_calls_return_although_the_logger_blocks() {
    let _alone = alone();
    set_logger();
    watched_for(LIMIT, "timed", || {
        let gate = GATE.lock().unwrap();
        let mut child = Process::builder().name("timed").spawn(log_at_gate, ()).unwrap();
        while child.join_timeout(SHORT).unwrap().is_none() {}
        let pool = Pool::new(1).unwrap();
        pool.apply(log_at_gate, ()).unwrap();
        while !pool.join_timeout(SHORT) {}
        assert!(records_of("timed").is_empty(), "the logger blocks");
        drop(gate);
        drop(pool);
    });
    assert_eq!(records_of("timed").len(), 1);
}

#[test]
fn join_and_drop_return_although_the_logger_blocks() {
    let _alone = alone();
    set_logger();
    watched_for(LIMIT, "join and drop", || {
        let gate = GATE.lock().unwrap();
        let child = Process::builder().name("joined").spawn(log_at_gate, ()).unwrap();
        child.join().unwrap();
        let pool = Pool::new(1).unwrap();
        pool.apply(log_at_gate, ()).unwrap();
        drop(pool);
        assert!(records_of("joined").is_empty(), "the logger blocks");
        drop(gate);
        Process::builder().name("behind them").spawn(log_at_gate, ()).unwrap().join().unwrap();
    });
    assert!(["joined", "behind them"].map(|name| records_of(name).len()) == [1, 1]);
}

/// As in `writeln!(stderr().lock(), "{:?}", child.join())` with a logger that writes there.
#[test]
fn a_joining_thread_may_hold_a_lock_of_the_logger() {
    let _alone = alone();
    set_logger();
    watched_for(LIMIT, "lock of the logger", || {
        let out = stdout().lock(); // before the child can log
        let mut child = Process::builder().name("locked").spawn(log_to_stdout, ()).unwrap();
        while !has_met_stdout() {
            thread::sleep(Duration::from_millis(1));
        }
        while child.join_timeout(SHORT).unwrap().is_none() {}
        Process::spawn(log_to_stdout, ()).unwrap().join().unwrap();
        assert!(records_of("locked").is_empty(), "the logger blocks");
        drop(out);
        Process::spawn(log_to_stdout, ()).unwrap().join().unwrap();
    });
    assert_eq!(records_of("locked").len(), 1);
}

#[test]
fn a_logger_may_join_a_process_and_drop_a_pool() {
    let _alone = alone();
    set_logger();
    watched_for(LIMIT, "logger with children", || {
        let task = || info!(target: "children", "starts others");
        Process::builder().name("a logger's").spawn(task, ()).unwrap().join().unwrap();
    });
    assert_eq!(records_of("a logger's").len(), 1);
}

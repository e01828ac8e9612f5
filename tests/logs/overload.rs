//! The feature `log` when the ring is full, and among kills. These tests may lose records of any child, so
//! they have a process of their own.

#![allow(clippy::unwrap_used, reason = "a test ends where something does not go as it should")]

#[allow(dead_code, reason = "the other tests use more of it")]
mod collector;

use std::thread;
use std::time::Duration;

use log::info;
use multiproc::{Connection, Process, StartMethod, pipe};

use self::collector::{GATE, Kept, alone, own_records, records_of, set_logger};

multiproc::init_for_tests!();

/// The logger is slower than the child, for which the ring has no room.
#[test]
fn what_is_lost_is_counted() {
    const SENT: usize = 20_000;
    let _alone = alone();
    set_logger();
    let gate = GATE.lock().unwrap();
    let task = || {
        info!(target: "gate", "blocks the logger");
        (1..SENT).for_each(|number| info!("{number:0100}"));
    };
    let child = Process::builder().name("flood").spawn(task, ()).unwrap();
    while child.is_alive() {
        thread::sleep(Duration::from_millis(1)); // `join` would wait for the logger
    }
    drop(gate);
    child.join().unwrap();
    let arrived = records_of("flood").len();
    let count = |text: &str| text.split(' ').next().unwrap().parse::<usize>().unwrap();
    let lost: usize = own_records().iter().map(|record| count(&record.text)).sum();
    assert!(arrived > 1000, "the ring holds more than {arrived}");
    assert!(lost > 0 && lost >= SENT - arrived, "{arrived} arrived, {lost} were lost");
}

/// Logs until it is killed.
fn be_killed(begun: Connection<(), ()>) {
    info!("until killed");
    let _ = begun.send(());
    loop {
        info!("until killed");
    }
}

/// Children that are killed at any step of a record neither block the others nor damage their records.
#[test]
fn a_killed_writer_harms_no_other() {
    let _alone = alone();
    set_logger();
    let (latch, theirs) = pipe::<(), ()>().unwrap();
    let task = |latch: Connection<(), ()>| {
        let mut number = 0;
        while !latch.poll(Duration::from_micros(100)).unwrap_or(true) {
            number += 1;
            info!("{number}");
        }
        number
    };
    let other = Process::builder().name("survivor").spawn(task, (theirs,)).unwrap();
    for round in 0..40 {
        let method = [StartMethod::ForkServer, StartMethod::Spawn][round % 2];
        let (begun, theirs) = pipe::<(), ()>().unwrap();
        let victim = Process::builder().name("victim").start_method(method);
        let child = victim.spawn(be_killed, (theirs,)).unwrap();
        begun.recv().unwrap();
        child.kill().unwrap();
        assert_eq!(child.join().unwrap_err().signal(), Some(9));
    }
    drop(latch);
    let sent: u32 = other.join().unwrap();
    let numbers: Vec<u32> = records_of("survivor").iter().map(Kept::number).collect();
    assert!(
        numbers.is_sorted_by(|a, b| a < b) && numbers.iter().all(|number| *number <= sent),
        "{numbers:?}"
    );
    assert!(!numbers.is_empty());
    assert!(records_of("victim").iter().all(|record| record.text.ends_with("until killed")));
}

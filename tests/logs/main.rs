//! The feature `log`: records of children arrive in the logger of the first process.

#![allow(clippy::unwrap_used, reason = "a test ends where something does not go as it should")]

#[allow(dead_code, reason = "`overload.rs` uses the rest")]
mod collector;
mod programs;

use std::collections::HashMap;
use std::process::id;

use log::{Level, info, warn};
use multiproc::{Pool, Process, StartMethod};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use self::collector::{Kept, records_of, records_of_workers, set_logger};

multiproc::init_for_tests!();

const METHODS: [StartMethod; 2] = [StartMethod::ForkServer, StartMethod::Spawn];

#[test]
fn a_record_arrives_whole_before_join_returns() {
    set_logger();
    for (name, method) in ["whole 1", "whole 2"].into_iter().zip(METHODS) {
        let task = || warn!(target: "somewhere", number = 7, word = "seven"; "{} records", "two");
        let child = Process::builder().name(name).start_method(method).spawn(task, ()).unwrap();
        let pid = child.pid();
        child.join().unwrap();
        let [record] = &records_of(name)[..] else { panic!("{name}") };
        assert_eq!(record.text, format!("{name}[{pid}]: two records"));
        assert_eq!((record.level, &*record.target), (Level::Warn, "somewhere"));
        assert!(record.place.contains("main.rs:"), "{}", record.place);
        let values = [("process", name), ("pid", &pid.to_string()), ("number", "7"), ("word", "seven")];
        assert_eq!(record.values, values.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
    }
}

#[test]
fn records_of_a_child_keep_their_order() {
    set_logger();
    let children = ["order 1", "order 2", "order 3"].map(|name| {
        let task = || (0..300).for_each(|number| info!("{number}"));
        Process::builder().name(name).spawn(task, ()).unwrap()
    });
    for child in children {
        let name = child.name().to_owned();
        child.join().unwrap();
        let numbers: Vec<u32> = records_of(&name).iter().map(Kept::number).collect();
        assert_eq!(numbers, (0..300).collect::<Vec<_>>(), "{name}");
    }
}

#[test]
fn the_last_record_of_a_killed_child_arrives() {
    set_logger();
    for (name, method) in ["killed 1", "killed 2"].into_iter().zip(METHODS) {
        let task = || {
            info!("the last words");
            let _ = kill(Pid::this(), Signal::SIGKILL);
        };
        let child = Process::builder().name(name).start_method(method).spawn(task, ()).unwrap();
        assert_eq!(child.join().unwrap_err().signal(), Some(9));
        assert_eq!(records_of(name).len(), 1, "{name}");
    }
}

#[test]
fn a_record_of_a_worker_has_the_index_of_its_item() {
    set_logger();
    let pool = Pool::new(3).unwrap();
    let task = |number: u64| {
        if number.is_multiple_of(3) {
            info!("item of {number}");
        }
        number
    };
    assert_eq!(pool.map(task, 0..3000).unwrap().len(), 3000);
    assert_eq!(pool.imap_unordered(task, 0..30).count(), 30);
    let pids = pool.worker_pids();
    pool.apply(|| info!("one item of none"), ()).unwrap();
    pool.join();
    let mut seen: HashMap<u64, u32> = HashMap::new();
    for record in records_of_workers(&pids) {
        let Some(number) = record.text.split("item of ").nth(1).unwrap().parse::<u64>().ok() else {
            assert!(!record.values.contains_key("item") && record.text.contains("]: one"), "{}", record.text);
            continue;
        };
        assert!(record.text.contains(&format!("] item {number}: ")), "{}", record.text);
        assert_eq!(record.values["item"], number.to_string());
        *seen.entry(number).or_default() += 1;
    }
    assert_eq!(seen.len(), 1000);
    assert!((0..30).step_by(3).all(|number| seen[&number] == 2));
}

#[test]
fn an_initializer_can_log() {
    set_logger();
    let pool = Pool::builder().workers(2).initializer(|| info!("ready"), ()).build().unwrap();
    pool.map(|number: u32| number, 0..10).unwrap();
    let pids = pool.worker_pids();
    pool.join();
    let records = records_of_workers(&pids);
    assert_eq!(records.len(), 2);
    assert!(records.iter().all(|record| record.text.ends_with("]: ready")));
}

#[test]
fn a_child_of_a_child_sends_to_the_first_process() {
    set_logger();
    for (name, method) in ["parent 1", "parent 2"].into_iter().zip(METHODS) {
        let task = || {
            let name = multiproc::current().name().to_owned() + " child";
            Process::builder().name(name).spawn(|| info!("from below"), ())?.join()
        };
        let child = Process::builder().name(name).start_method(method).spawn(task, ()).unwrap();
        child.join().unwrap().unwrap();
        let [record] = &records_of(&format!("{name} child"))[..] else { panic!("{name}") };
        assert!(record.text.ends_with("from below"));
        assert_ne!(record.values["pid"], id().to_string());
    }
}

#[test]
fn a_child_has_the_level_of_the_first_process() {
    set_logger();
    let task = || {
        log::trace!("not wanted");
        log::max_level() == log::LevelFilter::Debug
    };
    assert!(Process::builder().name("level").spawn(task, ()).unwrap().join().unwrap());
    assert!(records_of("level").is_empty());
}

#[test]
fn what_tracing_emits_arrives() {
    set_logger();
    let task = || tracing::info!(target: "traced", answer = 42, "an event");
    Process::builder().name("tracing").spawn(task, ()).unwrap().join().unwrap();
    let [record] = &records_of("tracing")[..] else { panic!() };
    assert!(record.target == "traced" && record.text.ends_with("an event answer=42"), "{}", record.text);
}

#[test]
fn a_long_text_is_cut() {
    set_logger();
    let task = || info!("{}", "long ".repeat(1 << 18));
    Process::builder().name("long").spawn(task, ()).unwrap().join().unwrap();
    let [record] = &records_of("long")[..] else { panic!() };
    assert!(record.text.ends_with(" …") && record.text.len() > 60_000, "{}", record.text.len());
}

#[test]
fn a_panic_of_the_logger_costs_one_record() {
    set_logger();
    let task = || {
        info!("what the logger cannot bear");
        info!("what it can");
    };
    Process::builder().name("panics").spawn(task, ()).unwrap().join().unwrap();
    let records = records_of("panics");
    assert!(records.len() == 1 && records[0].text.ends_with("what it can"), "{records:?}");
}

//! The shared part of the programs of `cargo xtask faults --peers`: the tasks, the time of the fault, and the
//! report. (`crates/tools/bench-peers/python_faults.py` does the same in Python.)
//!
//! Processes write to files in the temporary folder, since the library under test cannot be relied on; each
//! run has its own folder.

use std::env;
use std::fmt::Display;
use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::process;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Deserializer, Serialize, de};

/// What a caller saw. A program prints each part as soon as it knows it, as the next call may hang.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Observation {
    /// The outcome of the call, in words.
    pub saw: Option<String>,
    /// How long after the fault the call was settled, in seconds.
    pub seconds: Option<f64>,
    /// Whether the same pool (or queue) worked afterwards.
    pub usable: Option<bool>,
}

impl Observation {
    /// Prints it as JSON on a line.
    pub fn print(&self) {
        println!("{}", serde_json::to_string(self).unwrap_or_else(|error| error.to_string()));
    }
}

/// Reports the outcome of the call, which was settled this moment.
pub fn report_outcome(saw: String) -> Result<()> {
    Observation { saw: Some(saw), seconds: Some(since_fault()?), usable: None }.print();
    Ok(())
}

/// Reports whether the same pool (or queue) still works.
pub fn report_reusable(usable: bool) {
    Observation { usable: Some(usable), ..Observation::default() }.print();
}

/// The number of items of a map, from 0 on.
pub const ITEMS: u64 = 20;
/// The item at which the fault happens: in the middle.
const FAULTY_ITEM: u64 = 10;
/// How long a task of the killed parent takes.
const BUSY: Duration = Duration::from_secs(3);

/// What a task returns.
#[derive(Debug, Serialize)]
pub struct Cube(u64);

const NOT_A_CUBE: u64 = 7;

/// One value can be encoded and not decoded.
impl<'de> Deserialize<'de> for Cube {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u64::deserialize(deserializer)? {
            NOT_A_CUBE => Err(de::Error::custom("that is not a cube")),
            number => Ok(Self(number)),
        }
    }
}

/// The undisturbed task.
pub fn cube(item: u64) -> Cube {
    thread::sleep(Duration::from_millis(2));
    Cube(item.pow(3))
}

pub fn killed(item: u64) -> Cube {
    if item == FAULTY_ITEM {
        mark_fault();
        kill_self();
    }
    cube(item)
}

pub fn exits(item: u64) -> Cube {
    if item == FAULTY_ITEM {
        mark_fault();
        process::exit(5);
    }
    cube(item)
}

pub fn undecodable(item: u64) -> Cube {
    if item == FAULTY_ITEM {
        mark_fault();
        return Cube(NOT_A_CUBE);
    }
    cube(item)
}

pub fn busy(item: u64) -> Cube {
    check_in();
    thread::sleep(BUSY);
    cube(item)
}

/// The initializer of a worker that dies in it.
pub fn die_at_start() {
    check_in();
    kill_self();
}

pub fn kill_self() -> ! {
    let _ = kill(Pid::this(), Signal::SIGKILL);
    process::abort()
}

/// Summarizes the outcomes of all items of a map, and checks the results.
pub fn summarize<E: Display>(results: &[Result<Cube, E>]) -> Result<String> {
    let mut errors = Vec::new();
    for (item, result) in (0..).zip(results) {
        match result {
            Ok(Cube(cube)) if *cube != u64::pow(item, 3) => bail!("the cube of {item} is not {cube}"),
            Ok(_) => {}
            Err(error) => errors.push(error),
        }
    }
    let all = results.len();
    Ok(match errors.as_slice() {
        [] => format!("all {all} tasks complete"),
        [one] => format!("one task fails ({one}), the other {} complete", all - 1),
        [first, ..] if errors.len() == all => format!("all {all} tasks fail ({first})"),
        [first, ..] => format!("{} of {all} tasks fail ({first})", errors.len()),
    })
}

/// Notes that the fault happens this moment.
pub fn mark_fault() {
    // If this fails, reading the time fails and reports it.
    let _ = fs::write(note("hit"), now().as_secs_f64().to_string());
}

fn since_fault() -> Result<f64> {
    let hit: f64 = fs::read_to_string(note("hit"))?.parse()?;
    Ok(now().as_secs_f64() - hit)
}

/// Notes that this process has started. `cargo xtask faults` counts these notes too.
pub fn check_in() {
    let file = File::options().append(true).create(true).open(note("present"));
    let _ = file.and_then(|mut file| file.write_all(b"."));
}

/// Waits until this many processes have checked in.
pub fn wait_for_check_ins(count: u64) {
    while fs::metadata(note("present")).map_or(0, |present| present.len()) < count {
        thread::sleep(Duration::from_millis(1));
    }
}

fn note(name: &str) -> PathBuf {
    env::temp_dir().join(name)
}

/// The time as all programs see it.
fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_became_of_a_map_is_told_and_held_against_what_it_must_be() {
        let of = |results: &[Result<u64, &str>]| {
            let results: Vec<_> = results.iter().map(|result| result.map(Cube)).collect();
            summarize(&results)
        };
        assert_eq!(of(&[Ok(0), Ok(1), Ok(8)]).unwrap(), "all 3 tasks complete");
        assert_eq!(
            of(&[Ok(0), Err("it died"), Ok(8)]).unwrap(),
            "one task fails (it died), the other 2 complete"
        );
        assert_eq!(of(&[Err("a"), Err("b")]).unwrap(), "all 2 tasks fail (a)");
        assert_eq!(of(&[Err("a"), Ok(1), Err("b")]).unwrap(), "2 of 3 tasks fail (a)");
        assert!(of(&[Ok(0), Ok(8)]).is_err());
    }
}

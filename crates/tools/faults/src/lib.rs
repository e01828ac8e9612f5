//! The results of the fault suite, as its program prints them for `cargo xtask faults`.

// A program either works or ends with the error's own words.
#![allow(clippy::missing_errors_doc)]

pub mod report;

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// The results of one kind of fault. The program prints each row as a line of JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// The part of the suite: `failpoints`, `random-kills`, `corruption`, `soak` or `large`.
    pub part: String,
    /// The fault and its target.
    pub fault: String,
    /// The number of different points it hit.
    pub points: u64,
    /// The number of times it hit.
    pub times: u64,
    /// The number of these after which all checks passed.
    pub survived: u64,
    /// The longest time until everything was settled, in milliseconds.
    pub worst: Option<f64>,
    /// The failed checks, and how to reproduce them.
    pub failures: Vec<String>,
}

impl Row {
    /// A row without any fault so far.
    pub fn new(part: &str, fault: impl Into<String>) -> Self {
        Self {
            part: part.to_owned(),
            fault: fault.into(),
            points: 0,
            times: 0,
            survived: 0,
            worst: None,
            failures: Vec::new(),
        }
    }

    /// Counts one survived fault, settled after `worst` milliseconds.
    pub fn passed(&mut self, worst: Option<f64>) {
        self.times += 1;
        self.survived += 1;
        self.worst = self.worst.into_iter().chain(worst).reduce(f64::max);
    }

    /// Counts several survived faults, all settled after `worst`.
    pub fn passed_all(&mut self, times: u64, worst: Option<Duration>) {
        self.times += times;
        self.survived += times;
        self.worst =
            self.worst.into_iter().chain(worst.map(|worst| worst.as_secs_f64() * 1e3)).reduce(f64::max);
    }

    /// Counts one fault that was not survived.
    pub fn fail(&mut self, failure: String) {
        self.times += 1;
        self.failures.push(failure);
    }

    /// Whether another row is about the same fault.
    pub fn same_fault(&self, other: &Self) -> bool {
        (&self.part, &self.fault) == (&other.part, &other.fault)
    }

    /// Adds the results of the same fault in another run.
    pub fn add(&mut self, other: Self) {
        self.points += other.points;
        self.times += other.times;
        self.survived += other.survived;
        self.worst = self.worst.into_iter().chain(other.worst).reduce(f64::max);
        self.failures.extend(other.failures);
    }

    /// Prints the row for `cargo xtask faults`.
    pub fn print(&self) {
        println!("{}", serde_json::to_string(self).unwrap_or_else(|error| error.to_string()));
    }
}

/// Parses a duration such as `30s` or `10m`.
pub fn parse_time(text: &str) -> Result<Duration> {
    let unit = text
        .find(|c: char| !c.is_ascii_digit())
        .with_context(|| format!("`{text}` has no unit: 30s, 10m"))?;
    let (number, unit) = text.split_at(unit);
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => bail!("there is no unit `{unit}`: 30s, 10m"),
    };
    Ok(Duration::from_secs(number.parse::<u64>()?.saturating_mul(seconds)))
}

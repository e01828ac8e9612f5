//! What `cargo xtask faults` runs, and the lines in which it says what came of it.

// A program either works or ends with the error's own words: there is nobody else to tell.
#![allow(clippy::missing_errors_doc)]

pub mod report;

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// What came of one kind of fault. A program prints each as JSON on a line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// The part of the suite: `points`, `kills`, `scribble` or `soak`.
    pub part: String,
    /// What was done, and to whom.
    pub fault: String,
    /// In how many different places it struck.
    pub places: u64,
    /// How many times.
    pub times: u64,
    /// After how many of these everything was as it must be.
    pub survived: u64,
    /// How long it took at most until everything was settled, in milliseconds.
    pub worst: Option<f64>,
    /// What was not as it must be, and how to have it again.
    pub failures: Vec<String>,
}

impl Row {
    /// A line for what has not happened yet.
    pub fn new(part: &str, fault: impl Into<String>) -> Self {
        Self {
            part: part.to_owned(),
            fault: fault.into(),
            places: 0,
            times: 0,
            survived: 0,
            worst: None,
            failures: Vec::new(),
        }
    }

    /// One time more that it was survived, settled after so many milliseconds.
    pub fn passed(&mut self, worst: Option<f64>) {
        self.times += 1;
        self.survived += 1;
        self.worst = self.worst.into_iter().chain(worst).reduce(f64::max);
    }

    /// Several times more that it was survived, all settled after this time.
    pub fn passed_all(&mut self, times: u64, worst: Option<Duration>) {
        self.times += times;
        self.survived += times;
        self.worst =
            self.worst.into_iter().chain(worst.map(|worst| worst.as_secs_f64() * 1e3)).reduce(f64::max);
    }

    /// One time more, which was not.
    pub fn fail(&mut self, failure: String) {
        self.times += 1;
        self.failures.push(failure);
    }

    /// Whether another line is about the same fault.
    pub fn same_fault(&self, other: &Self) -> bool {
        (&self.part, &self.fault) == (&other.part, &other.fault)
    }

    /// Adds what came of the same fault in another run.
    pub fn add(&mut self, other: Self) {
        self.places += other.places;
        self.times += other.times;
        self.survived += other.survived;
        self.worst = self.worst.into_iter().chain(other.worst).reduce(f64::max);
        self.failures.extend(other.failures);
    }

    /// Prints it for `cargo xtask faults`.
    pub fn print(&self) {
        println!("{}", serde_json::to_string(self).unwrap_or_else(|error| error.to_string()));
    }
}

/// The time that a user means by `30s` or `10m`.
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

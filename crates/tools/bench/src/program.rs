//! The command line that every program with contestants has: `list`, and `round CONTESTANT CASE [--quick]`.

use std::env;
use std::fmt;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::case::Case;
pub use crate::measure::Measured;
use crate::measure::Scale;

/// A contestant's entry for a case.
pub struct Entry {
    pub contestant: &'static str,
    pub case: &'static Case,
    /// `None` if a program that it needs is not built.
    pub run: Option<fn(Scale) -> Result<Measured>>,
}

/// An entry that runs.
pub fn entry(contestant: &'static str, case: &'static Case, run: fn(Scale) -> Result<Measured>) -> Entry {
    Entry { contestant, case, run: Some(run) }
}

/// The output of a round, as a line of JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Figure {
    pub contestant: String,
    pub workload: String,
    pub case: String,
    pub value: f64,
    pub unit: String,
    /// The round has checked its results.
    pub checked: bool,
    pub detail: Option<String>,
}

/// The output of `list` for each entry, as a line of JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Listed {
    pub contestant: String,
    pub case: String,
    pub built: bool,
}

/// The exit code of a round whose work was wrong.
pub const WRONG: u8 = 3;

/// Work with a wrong result.
#[derive(Debug)]
pub struct Wrong(pub String);

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Wrong {}

/// Runs the command line.
pub fn run(entries: &[Entry]) -> ExitCode {
    match execute(entries) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            if error.is::<Wrong>() { WRONG.into() } else { ExitCode::FAILURE }
        }
    }
}

fn execute(entries: &[Entry]) -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["list"] => entries.iter().try_for_each(|entry| {
            let Entry { contestant, case, run } = entry;
            print(&Listed { contestant: (*contestant).into(), case: case.id.into(), built: run.is_some() })
        }),
        ["round", contestant, case, options @ ..] => {
            let found = |entry: &&Entry| entry.contestant == *contestant && entry.case.id == *case;
            let entry = entries.iter().find(found);
            let entry = entry.with_context(|| format!("`{contestant}` does nothing about `{case}`"))?;
            print(&round(entry, Scale { quick: options.contains(&"--quick") })?)
        }
        _ => bail!("the command line is `list`, or `round CONTESTANT CASE [--quick]`"),
    }
}

fn round(entry: &Entry, scale: Scale) -> Result<Figure> {
    let Entry { contestant, case, run } = entry;
    let run = run.with_context(|| format!("`{contestant}` is built without what `{}` needs", case.id))?;
    let Measured { value, detail } = run(scale)?;
    Ok(Figure {
        contestant: (*contestant).to_owned(),
        workload: case.workload.to_owned(),
        case: case.id.to_owned(),
        value,
        unit: case.unit.to_owned(),
        checked: true,
        detail,
    })
}

fn print(value: &impl Serialize) -> Result<()> {
    println!("{}", serde_json::to_string(value)?);
    Ok(())
}

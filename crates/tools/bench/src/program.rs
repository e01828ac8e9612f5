//! The command line that every program with entrants has: `list`, and `round ENTRANT CASE [--quick]`.

use std::env;
use std::fmt;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Serialize};

use crate::case::Case;
pub use crate::measure::Measured;
use crate::measure::Scale;
use crate::usage::Usage;

/// An entrant's entry for a case.
pub struct Entry {
    pub entrant: &'static str,
    pub case: &'static Case,
    /// Or why the entrant leaves the case out.
    pub run: std::result::Result<fn(Scale) -> Result<Measured>, &'static str>,
}

/// An entry that runs.
pub fn entry(entrant: &'static str, case: &'static Case, run: fn(Scale) -> Result<Measured>) -> Entry {
    Entry { entrant, case, run: Ok(run) }
}

/// A case that an entrant cannot do, with the reason.
pub fn left_out(entrant: &'static str, case: &'static Case, reason: &'static str) -> Entry {
    Entry { entrant, case, run: Err(reason) }
}

/// The output of a round, as a line of JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Figure {
    pub entrant: String,
    pub workload: String,
    pub case: String,
    pub value: f64,
    pub unit: String,
    /// The round has checked its results.
    pub checked: bool,
    pub detail: Option<String>,
    #[serde(default)]
    pub usage: Option<Usage>,
}

/// The output of `list` for each entry, as a line of JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Listed {
    pub entrant: String,
    pub case: String,
    /// Why it leaves the case out, if it does.
    #[serde(default)]
    pub left_out: Option<String>,
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
            let Entry { entrant, case, run } = entry;
            let left_out = run.err().map(str::to_owned);
            print(&Listed { entrant: (*entrant).into(), case: case.id.into(), left_out })
        }),
        ["round", entrant, case, options @ ..] => {
            let found = |entry: &&Entry| entry.entrant == *entrant && entry.case.id == *case;
            let entry = entries.iter().find(found);
            let entry = entry.with_context(|| format!("`{entrant}` does nothing about `{case}`"))?;
            print(&round(entry, Scale { quick: options.contains(&"--quick") })?)
        }
        _ => bail!("the command line is `list`, or `round ENTRANT CASE [--quick]`"),
    }
}

fn round(entry: &Entry, scale: Scale) -> Result<Figure> {
    let Entry { entrant, case, run } = entry;
    let run = run.map_err(|reason| anyhow!("`{entrant}` leaves out `{}`: {reason}", case.id))?;
    let Measured { value, detail, usage } = run(scale)?;
    Ok(Figure {
        entrant: (*entrant).to_owned(),
        workload: case.workload.to_owned(),
        case: case.id.to_owned(),
        value,
        unit: case.unit.to_owned(),
        checked: true,
        detail,
        usage,
    })
}

fn print(value: &impl Serialize) -> Result<()> {
    println!("{}", serde_json::to_string(value)?);
    Ok(())
}

//! Six faults, inflicted on this library and on others, side by side.
//!
//! Each is a run of a program that causes the fault and prints what its caller saw (see `faults::report`).
//! The rest is observed from here: a hang, and how long the processes outlive the program.

use std::fmt::Write;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use experiments::measure::three_digits;
use faults::report::Observation;
use serde::Serialize;

use crate::programs::{PEERS, build_peer, pinned, python};
use crate::runner::Runner;
use crate::runner::processes;

/// The name of this library among the entrants.
pub(super) const OURS: &str = "multiproc";

/// The faults: the programs' name, and a description.
const FAULTS: [(&str, &str); 6] = [
    ("worker-killed", "One of two workers is killed (SIGKILL) in the middle of a map of 20 items"),
    ("task-exits", "One of 20 tasks calls `exit`"),
    ("undecodable", "One of 20 results does not decode where it is received"),
    (PARENT_KILLED, "The parent is killed (SIGKILL) while both workers run tasks of 3 s"),
    (
        LOCK_HOLDER_KILLED,
        "The holder of a lock (a queue's; in Python, a `Lock`) is killed (SIGKILL), and another process waits",
    ),
    (DEATH_AT_START, "Each worker dies (SIGKILL) in its initializer"),
];

const PARENT_KILLED: &str = "parent-killed";
const LOCK_HOLDER_KILLED: &str = "lock-holder-killed";
const DEATH_AT_START: &str = "death-at-start";

/// A call that takes longer hangs: others take milliseconds, and tasks 3 s.
const LIMIT: Duration = Duration::from_secs(8);
/// How long a child may outlive its parent on a busy machine.
const GRACE: Duration = Duration::from_secs(1);

/// The results of all faults.
#[derive(Debug, Serialize)]
pub(super) struct Comparison {
    pub(super) rows: Vec<Row>,
    /// The versions of the other entrants.
    pub(super) versions: Vec<(String, String)>,
    /// The missing entrants, and why.
    pub(super) notes: Vec<String>,
}

/// One entrant's result of one fault.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    pub(super) fault: String,
    pub(super) entrant: String,
    /// What the caller saw.
    pub(super) saw: String,
    /// The time from the fault until everything was settled; `None` if it never was.
    pub(super) seconds: Option<f64>,
    /// Whether the same pool, queue or lock worked afterwards; `None` where it does not apply.
    pub(super) usable: Option<bool>,
    /// How many processes lived a second after the program's end; `None` if the program was killed.
    pub(super) left: Option<u32>,
}

struct Entrant {
    name: &'static str,
    program: PathBuf,
    /// The arguments before the name of the fault.
    arguments: Vec<String>,
    /// Whether it has locks.
    locks: bool,
}

/// Runs all faults on all entrants. `own` is the program `faults`.
pub(super) fn compare(runner: &Runner, root: &Path, target: &Path, own: &Path) -> Result<Comparison> {
    let ours = Entrant { name: OURS, program: own.to_owned(), arguments: vec!["peers".into()], locks: true };
    let mut entrants = vec![ours];
    let (mut versions, mut notes) = (Vec::new(), Vec::new());
    match python() {
        Some((python, version)) => {
            let script = root.join(PEERS).join("python_faults.py").display().to_string();
            for (name, kind, locks) in
                [("Python Pool", "Pool", true), ("Python ProcessPoolExecutor", "Executor", false)]
            {
                let arguments = vec![script.clone(), kind.to_owned()];
                entrants.push(Entrant { name, program: python.clone(), arguments, locks });
            }
            versions.push(("CPython".to_owned(), version));
        }
        None => notes.push("Python's pools are skipped: there is no python3 on this machine".to_owned()),
    }
    match build_peer(root, target, "procspawn-faults") {
        Ok(program) => {
            entrants.push(Entrant { name: "procspawn", program, arguments: vec![], locks: false });
            let manifest = fs::read_to_string(root.join(PEERS).join("Cargo.toml"))?;
            versions.extend(pinned(&manifest, "procspawn").map(|version| ("procspawn".to_owned(), version)));
        }
        Err(error) => notes.push(format!("procspawn cannot be built here: {error:#}")),
    }
    let mut rows = Vec::new();
    for (fault, _) in FAULTS {
        for entrant in entrants.iter().filter(|one| one.locks || fault != LOCK_HOLDER_KILLED) {
            let row = run_one(runner, entrant, fault);
            rows.push(row.with_context(|| format!("{}: {fault}", entrant.name))?);
        }
    }
    Ok(Comparison { rows, versions, notes })
}

impl Comparison {
    /// The rows in which this library breaks a promise.
    pub(super) fn failures(&self) -> Vec<String> {
        let failed = |row: &&Row| {
            row.entrant == OURS && (row.seconds.is_none() || row.usable == Some(false) || row.left != Some(0))
        };
        self.rows.iter().filter(failed).map(|row| format!("{}: {}", row.fault, cell(row))).collect()
    }

    /// A table in Markdown: a row for each fault, a column for each entrant.
    pub(super) fn markdown(&self) -> Result<String> {
        let mut entrants: Vec<&str> = Vec::new();
        for row in &self.rows {
            if !entrants.contains(&row.entrant.as_str()) {
                entrants.push(&row.entrant);
            }
        }
        let mut table = String::new();
        writeln!(table, "| | {} |", entrants.join(" | "))?;
        writeln!(table, "|---|{}", "---|".repeat(entrants.len()))?;
        for (fault, words) in FAULTS {
            let of = |entrant: &&str| {
                let row = self.rows.iter().find(|row| row.fault == fault && row.entrant == **entrant);
                row.map_or_else(|| "–".to_owned(), cell)
            };
            let cells: Vec<_> = entrants.iter().map(of).collect();
            writeln!(table, "| {words} | {} |", cells.join(" | "))?;
        }
        Ok(table)
    }
}

impl Row {
    /// The row for a terminal.
    pub(super) fn in_words(&self) -> String {
        cell(self).replace("<br>", "; ").replace("\\|", "|")
    }
}

/// The row for a cell of a table.
fn cell(row: &Row) -> String {
    let seconds = row.seconds.map(|seconds| match seconds {
        0.0..1.0 => format!("{} ms", three_digits(seconds * 1e3)),
        _ => format!("{} s", three_digits(seconds)),
    });
    let usable = row.usable.map(|usable| if usable { "usable afterwards" } else { "not usable afterwards" });
    let left = row.left.filter(|left| *left > 0).map(|left| format!("{left} processes left"));
    let rest: Vec<_> = [seconds, usable.map(str::to_owned), left].into_iter().flatten().collect();
    let saw = row.saw.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|");
    if rest.is_empty() { saw } else { format!("{saw}<br>{}", rest.join("; ")) }
}

/// The observations of a run.
struct Observed {
    /// The parts that the program printed.
    said: Observation,
    /// The last line of its standard error.
    complaint: Option<String>,
    /// Its exit status; `None` if it was killed.
    ending: Option<ExitStatus>,
    /// The number of processes that checked in.
    present: u64,
    /// How many of its processes lived on after [`GRACE`], and how many after [`LIMIT`].
    outliving: [usize; 2],
    /// When the last process was gone.
    lived_on: Duration,
}

fn run_one(runner: &Runner, entrant: &Entrant, fault: &str) -> Result<Row> {
    let folder = runner.new_run()?;
    let [said, complaints] = ["said", "complaints"].map(|name| folder.join(name));
    let mut command = Command::new(&entrant.program);
    command.args(&entrant.arguments).arg(fault).env("TMPDIR", &folder).env_remove("RUST_BACKTRACE");
    // Files, since a process that lives on would hold a pipe open.
    command.stdin(Stdio::null()).stdout(File::create(&said)?).stderr(File::create(&complaints)?);

    let mut child = processes::start(&mut command, &folder).context("it cannot be started")?;
    let in_time = processes::wait(&child, LIMIT);
    let ended = Instant::now();
    let soon = processes::outliving(&child, &folder, GRACE).len();
    // Their lifetime matters only if they have lost their parent.
    let watch = if fault == PARENT_KILLED { LIMIT } else { Duration::ZERO };
    let late = processes::outliving(&child, &folder, watch).len();
    let lived_on = ended.elapsed();
    processes::clear_up(&child, &folder, Duration::ZERO);
    let status = processes::reap(&mut child)?;

    let complaints = String::from_utf8_lossy(&fs::read(complaints)?).into_owned();
    let seen = Observed {
        said: all_said(&fs::read_to_string(said)?)?,
        complaint: complaints.lines().last().map(|line| line.trim_start_matches("Error: ").to_owned()),
        ending: in_time?.then_some(status),
        present: fs::metadata(folder.join("present")).map_or(0, |file| file.len()),
        outliving: [soon, late],
        lived_on,
    };
    fs::remove_dir_all(&folder)?;
    Ok(row(entrant.name, fault, seen))
}

/// Merges the lines that a program printed.
fn all_said(lines: &str) -> Result<Observation> {
    let mut all = Observation::default();
    for line in lines.lines() {
        let Observation { saw, seconds, usable } =
            serde_json::from_str(line).with_context(|| format!("it says {line:?}"))?;
        all = Observation {
            saw: saw.or(all.saw),
            seconds: seconds.or(all.seconds),
            usable: usable.or(all.usable),
        };
    }
    Ok(all)
}

fn row(entrant: &str, fault: &str, seen: Observed) -> Row {
    let Observed {
        said: Observation { saw, seconds, usable },
        complaint,
        ending,
        present,
        outliving,
        lived_on,
    } = seen;
    let [left, late] = outliving;
    let mut row = Row {
        fault: fault.to_owned(),
        entrant: entrant.to_owned(),
        saw: String::new(),
        seconds,
        usable,
        left: ending.map(|_| u32::try_from(left).unwrap_or(u32::MAX)),
    };
    row.saw = match (saw, ending) {
        // The killed parent prints nothing.
        (None, Some(_)) if fault == PARENT_KILLED => {
            row.seconds = (late == 0).then_some(lived_on.as_secs_f64());
            match (left, late) {
                (0, _) => "all its processes die with it".to_owned(),
                (_, 0) => "its processes live on, then end".to_owned(),
                _ => format!("{late} processes live on, long after their tasks"),
            }
        }
        (None, None) => "hangs".to_owned(),
        (Some(saw), None) => {
            let after = if usable.is_some() { "its end" } else { "the next call" };
            row.usable = Some(usable.unwrap_or(false));
            format!("{saw}; {after} hangs")
        }
        (None, Some(status)) => {
            format!("the program ends ({status}): {}", complaint.unwrap_or_default())
        }
        (Some(saw), Some(status)) if !status.success() => {
            format!("{saw}; then the program ends ({status}): {}", complaint.unwrap_or_default())
        }
        (Some(saw), Some(_)) => saw,
    };
    if fault == DEATH_AT_START {
        let _ = write!(row.saw, "; workers started: {present}");
    }
    row
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    fn seen(said: &str) -> Observed {
        Observed {
            said: all_said(said).unwrap(),
            complaint: None,
            ending: Some(ExitStatus::from_raw(0)),
            present: 0,
            outliving: [0, 0],
            lived_on: Duration::ZERO,
        }
    }

    const SETTLED: &str = r#"{"saw":"one task fails","seconds":0.0123}"#;

    #[test]
    fn what_a_program_cannot_say_is_seen_from_outside() {
        let all = format!("{SETTLED}\n{{\"usable\":true}}\n");
        let good = row(OURS, "task-exits", seen(&all));
        assert_eq!(cell(&good), "one task fails<br>12.3 ms; usable afterwards");

        let hangs = row(OURS, "task-exits", Observed { ending: None, ..seen("") });
        assert_eq!((cell(&hangs).as_str(), hangs.left), ("hangs", None));
        let later = row(OURS, "task-exits", Observed { ending: None, ..seen(SETTLED) });
        assert_eq!((later.saw.as_str(), later.usable), ("one task fails; the next call hangs", Some(false)));
        let at_the_end = row(OURS, "task-exits", Observed { ending: None, ..seen(&all) });
        assert_eq!(at_the_end.saw, "one task fails; its end hangs");

        let complaint = Some("it panics".to_owned());
        let failed = row(
            OURS,
            "task-exits",
            Observed { ending: Some(ExitStatus::from_raw(256)), complaint, ..seen("") },
        );
        assert_eq!(failed.saw, "the program ends (exit status: 1): it panics");
    }

    #[test]
    fn a_killed_parents_processes_are_watched() {
        let killed = |outliving, lived_on| {
            let ending = Some(ExitStatus::from_raw(9));
            row(OURS, PARENT_KILLED, Observed { ending, outliving, lived_on, ..seen("") })
        };
        assert_eq!(
            cell(&killed([0, 0], Duration::from_millis(2))),
            "all its processes die with it<br>2.00 ms"
        );
        assert_eq!(
            cell(&killed([2, 0], Duration::from_secs(3))),
            "its processes live on, then end<br>3.00 s; 2 processes left"
        );
        assert_eq!(
            cell(&killed([4, 2], Duration::from_secs(9))),
            "2 processes live on, long after their tasks<br>4 processes left"
        );
    }

    #[test]
    fn the_table_has_a_row_for_each_fault_and_a_column_for_each_entrant() {
        let row = |fault: &str, entrant: &str, saw: &str, usable| Row {
            fault: fault.to_owned(),
            entrant: entrant.to_owned(),
            saw: saw.to_owned(),
            seconds: Some(0.5),
            usable,
            left: Some(0),
        };
        let rows = vec![
            row("worker-killed", OURS, "a | b\nc", Some(true)),
            row("worker-killed", "Other", "nothing", Some(false)),
            row(LOCK_HOLDER_KILLED, OURS, "goes on", Some(false)),
        ];
        let comparison = Comparison { rows, versions: vec![], notes: vec![] };
        let table = comparison.markdown().unwrap();
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines[0], "| | multiproc | Other |");
        assert!(lines[2].ends_with(
            "| a \\| b c<br>500 ms; usable afterwards | nothing<br>500 ms; not usable afterwards |"
        ));
        assert!(lines[6].ends_with("| goes on<br>500 ms; not usable afterwards | – |"));
        assert_eq!(lines.len(), 2 + FAULTS.len());
        assert_eq!(comparison.failures().len(), 1);
    }
}

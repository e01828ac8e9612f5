//! Six lines of abuse: what this library makes of them, and what others do.
//!
//! Each is a run of a program that abuses its library, and prints what its caller saw as far as it knows it (see
//! `faults::report`). What it cannot say is seen from here: that it waits for ever, how long its processes outlive it.

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

/// The name of this library among the contestants.
pub(super) const OURS: &str = "multiproc";

/// Each as the programs name it, and in words.
const ABUSES: [(&str, &str); 6] = [
    ("worker-killed", "One of two workers is killed (SIGKILL) in the middle of a map of 20 items"),
    ("task-exits", "One of 20 tasks calls `exit`"),
    ("undecodable", "One of 20 results does not decode where it is received"),
    (PARENT_KILLED, "The parent is killed (SIGKILL) while both workers run tasks of 3 s"),
    (
        LOCK_HOLDER_KILLED,
        "The holder of a lock (a queue's; in Python, a `Lock`) is killed (SIGKILL), and another process wants it",
    ),
    (DEATH_AT_START, "Each worker dies (SIGKILL) in its initializer"),
];

const PARENT_KILLED: &str = "parent-killed";
const LOCK_HOLDER_KILLED: &str = "lock-holder-killed";
const DEATH_AT_START: &str = "death-at-start";

/// What has not come by then never comes: everything else takes some milliseconds, and tasks 3 s.
const LIMIT: Duration = Duration::from_secs(8);
/// What dies with its parent may take so long on a busy machine.
const GRACE: Duration = Duration::from_secs(1);

/// What came of all abuses.
#[derive(Debug, Serialize)]
pub(super) struct Comparison {
    pub(super) rows: Vec<Row>,
    /// Of the other contestants.
    pub(super) versions: Vec<(String, String)>,
    /// Who is missing, and why.
    pub(super) notes: Vec<String>,
}

/// What one contestant made of one abuse.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    pub(super) abuse: String,
    pub(super) contestant: String,
    /// What the caller saw.
    pub(super) saw: String,
    /// How long after the abuse everything was settled; none if it never was.
    pub(super) seconds: Option<f64>,
    /// Whether the same pool, queue or lock worked afterwards; none where the question does not arise.
    pub(super) usable: Option<bool>,
    /// How many processes lived on a second after the program's end; none if it had to be ended.
    pub(super) left: Option<u32>,
}

struct Contestant {
    name: &'static str,
    program: PathBuf,
    /// What comes before the name of the abuse.
    arguments: Vec<String>,
    /// Has it locks of its own?
    locks: bool,
}

/// Abuses all of them. `own` is the program `faults`, of an ordinary build.
pub(super) fn compare(runner: &Runner, root: &Path, target: &Path, own: &Path) -> Result<Comparison> {
    let ours =
        Contestant { name: OURS, program: own.to_owned(), arguments: vec!["peers".into()], locks: true };
    let mut contestants = vec![ours];
    let (mut versions, mut notes) = (Vec::new(), Vec::new());
    match python() {
        Some((python, version)) => {
            let script = root.join(PEERS).join("python_faults.py").display().to_string();
            for (name, kind, locks) in
                [("Python Pool", "Pool", true), ("Python ProcessPoolExecutor", "Executor", false)]
            {
                let arguments = vec![script.clone(), kind.to_owned()];
                contestants.push(Contestant { name, program: python.clone(), arguments, locks });
            }
            versions.push(("CPython".to_owned(), version));
        }
        None => notes.push("Python's pools are skipped: there is no python3 on this machine".to_owned()),
    }
    match build_peer(root, target, "procspawn-faults") {
        Ok(program) => {
            contestants.push(Contestant { name: "procspawn", program, arguments: vec![], locks: false });
            let manifest = fs::read_to_string(root.join(PEERS).join("Cargo.toml"))?;
            versions.extend(pinned(&manifest, "procspawn").map(|version| ("procspawn".to_owned(), version)));
        }
        Err(error) => notes.push(format!("procspawn cannot be built here: {error:#}")),
    }
    let mut rows = Vec::new();
    for (abuse, _) in ABUSES {
        for contestant in contestants.iter().filter(|one| one.locks || abuse != LOCK_HOLDER_KILLED) {
            let row = run_one(runner, contestant, abuse);
            rows.push(row.with_context(|| format!("{}: {abuse}", contestant.name))?);
        }
    }
    Ok(Comparison { rows, versions, notes })
}

impl Comparison {
    /// Where this library has not been what it promises.
    pub(super) fn failures(&self) -> Vec<String> {
        let failed = |row: &&Row| {
            row.contestant == OURS
                && (row.seconds.is_none() || row.usable == Some(false) || row.left != Some(0))
        };
        self.rows.iter().filter(failed).map(|row| format!("{}: {}", row.abuse, cell(row))).collect()
    }

    /// A table in Markdown: a row for each abuse, a column for each contestant.
    pub(super) fn markdown(&self) -> Result<String> {
        let mut contestants: Vec<&str> = Vec::new();
        for row in &self.rows {
            if !contestants.contains(&row.contestant.as_str()) {
                contestants.push(&row.contestant);
            }
        }
        let mut table = String::new();
        writeln!(table, "| | {} |", contestants.join(" | "))?;
        writeln!(table, "|---|{}", "---|".repeat(contestants.len()))?;
        for (abuse, words) in ABUSES {
            let of = |contestant: &&str| {
                let row = self.rows.iter().find(|row| row.abuse == abuse && row.contestant == **contestant);
                row.map_or_else(|| "–".to_owned(), cell)
            };
            let cells: Vec<_> = contestants.iter().map(of).collect();
            writeln!(table, "| {words} | {} |", cells.join(" | "))?;
        }
        Ok(table)
    }
}

impl Row {
    /// For a line in the terminal.
    pub(super) fn in_words(&self) -> String {
        cell(self).replace("<br>", "; ").replace("\\|", "|")
    }
}

/// A row in words, as they may stand in a cell of a table.
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

/// How a run went, as it is seen from here.
struct Observed {
    /// What it has said, as far as it came.
    said: Observation,
    /// The last of its complaints.
    complaint: Option<String>,
    /// How it ended; none if it was made to.
    ending: Option<ExitStatus>,
    /// How many processes noted that they were there.
    present: u64,
    /// How many of its processes lived on after [`GRACE`], and how many after [`LIMIT`].
    outliving: [usize; 2],
    /// When the last of them was gone.
    lived_on: Duration,
}

fn run_one(runner: &Runner, contestant: &Contestant, abuse: &str) -> Result<Row> {
    let folder = runner.new_run()?;
    let [said, complaints] = ["said", "complaints"].map(|name| folder.join(name));
    let mut command = Command::new(&contestant.program);
    command.args(&contestant.arguments).arg(abuse).env("TMPDIR", &folder).env_remove("RUST_BACKTRACE");
    // Files, since whoever lives on would hold a pipe open.
    command.stdin(Stdio::null()).stdout(File::create(&said)?).stderr(File::create(&complaints)?);

    let mut child = processes::start(&mut command, &folder).context("it cannot be started")?;
    let in_time = processes::wait(&child, LIMIT);
    let ended = Instant::now();
    let soon = processes::outliving(&child, &folder, GRACE).len();
    // How long they stay is the question only where they have lost their parent.
    let watch = if abuse == PARENT_KILLED { LIMIT } else { Duration::ZERO };
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
    Ok(row(contestant.name, abuse, seen))
}

/// The lines that a program printed, taken together.
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

fn row(contestant: &str, abuse: &str, seen: Observed) -> Row {
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
        abuse: abuse.to_owned(),
        contestant: contestant.to_owned(),
        saw: String::new(),
        seconds,
        usable,
        left: ending.map(|_| u32::try_from(left).unwrap_or(u32::MAX)),
    };
    row.saw = match (saw, ending) {
        // The parent cannot tell.
        (None, Some(_)) if abuse == PARENT_KILLED => {
            row.seconds = (late == 0).then_some(lived_on.as_secs_f64());
            match (left, late) {
                (0, _) => "all its processes die with it".to_owned(),
                (_, 0) => "its processes live on, then end".to_owned(),
                _ => format!("{late} processes live on, long after their tasks"),
            }
        }
        (None, None) => "waits for ever".to_owned(),
        (Some(saw), None) => {
            let after = if usable.is_some() { "its end" } else { "the next call" };
            row.usable = Some(usable.unwrap_or(false));
            format!("{saw}; {after} waits for ever")
        }
        (None, Some(status)) => {
            format!("the program ends ({status}): {}", complaint.unwrap_or_default())
        }
        (Some(saw), Some(status)) if !status.success() => {
            format!("{saw}; then the program ends ({status}): {}", complaint.unwrap_or_default())
        }
        (Some(saw), Some(_)) => saw,
    };
    if abuse == DEATH_AT_START {
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
        assert_eq!((cell(&hangs).as_str(), hangs.left), ("waits for ever", None));
        let later = row(OURS, "task-exits", Observed { ending: None, ..seen(SETTLED) });
        assert_eq!(
            (later.saw.as_str(), later.usable),
            ("one task fails; the next call waits for ever", Some(false))
        );
        let at_the_end = row(OURS, "task-exits", Observed { ending: None, ..seen(&all) });
        assert_eq!(at_the_end.saw, "one task fails; its end waits for ever");

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
    fn the_table_has_a_row_for_each_abuse_and_a_column_for_each_contestant() {
        let row = |abuse: &str, contestant: &str, saw: &str, usable| Row {
            abuse: abuse.to_owned(),
            contestant: contestant.to_owned(),
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
        assert_eq!(lines.len(), 2 + ABUSES.len());
        assert_eq!(comparison.failures().len(), 1);
    }
}

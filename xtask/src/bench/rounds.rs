//! Runs the rounds, each entrant's in turn.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bench::case::Case;
use bench::program::{Figure, WRONG};
use indicatif::{ProgressBar, ProgressStyle};

use super::LIMIT;
use super::programs::{Entry, Launch};
use super::results::{Failure, Kind, Results, Row};
use crate::runner::Runner;
use crate::runner::{Ending, Observed};

pub(super) struct Rounds<'a> {
    pub(super) runner: &'a Runner,
    pub(super) count: usize,
    pub(super) quick: bool,
}

impl Rounds<'_> {
    /// Runs everything, and shows each case when it is complete.
    pub(super) fn run(
        &self,
        cases: &[&'static Case],
        entries: &[Entry],
        show: impl Fn(&Results, &Case),
    ) -> Results {
        let of = |case: &Case| entries.iter().filter(|entry| entry.case.id == case.id).collect::<Vec<_>>();
        let rounds = |case: &Case| self.count.min(case.most_rounds);
        let bar = progress(cases.iter().map(|case| rounds(case) * of(case).len()).sum());
        let mut results = Results::default();
        for &case in cases {
            let mut rows: Vec<_> =
                of(case).iter().map(|entry| Row::new(&entry.entrant, entry.kind, case)).collect();
            for _ in 0..rounds(case) {
                for (entry, row) in of(case).iter().zip(&mut rows) {
                    bar.set_message(format!("{}: {}", case.id, entry.entrant));
                    // An entry that has failed once is not run again.
                    if row.failure.is_none() {
                        self.add_round(entry, row);
                    }
                    bar.inc(1);
                }
            }
            results.rows.extend(rows);
            bar.suspend(|| show(&results, case));
        }
        bar.finish_and_clear();
        results
    }

    fn add_round(&self, entry: &Entry, row: &mut Row) {
        let (program, arguments) = match &entry.launch {
            Launch::Program(program, arguments) => (program, arguments),
            Launch::LeftOut(reason) => return row.failure = Some(Failure::LeftOut(reason.clone())),
            Launch::NotBuildable => return row.failure = Some(Failure::NotBuildable),
        };
        match self.round(program, arguments, entry) {
            Ok(Ok(figure)) => row.add(figure.value, figure.detail, figure.usage),
            Ok(Err(failure)) => row.failure = Some(failure),
            Err(error) => row.failure = Some(Failure::Failed(format!("{error:#}"))),
        }
    }

    fn round(&self, program: &Path, arguments: &[String], entry: &Entry) -> Result<Result<Figure, Failure>> {
        let mut arguments = arguments.to_vec();
        arguments.extend(["round", &entry.entrant, entry.case.id].map(str::to_owned));
        arguments.extend(self.quick.then(|| "--quick".to_owned()));
        let seen = self.runner.run(program, &arguments, LIMIT)?;
        cleanup();
        if let Some(failure) = failure(&seen, entry.kind) {
            return Ok(Err(failure));
        }
        let line = seen.stdout.lines().last().context("it has printed no figure")?;
        let figure: Figure = serde_json::from_str(line).context("its figure cannot be read")?;
        let Case { id, unit, .. } = entry.case;
        ensure!(figure.case == *id && figure.unit == *unit, "its figure is of something else: {line}");
        ensure!(figure.checked && figure.value.is_finite(), "its figure is worth nothing: {line}");
        ensure!(
            figure.usage.is_some() == entry.case.is_real(),
            "its figure says not what it has used: {line}"
        );
        Ok(Ok(figure))
    }
}

/// The failure of a round, if there is one.
fn failure(seen: &Observed, kind: Kind) -> Option<Failure> {
    let said =
        || seen.stderr.lines().last().unwrap_or("it says nothing").trim_start_matches("error: ").to_owned();
    let failed = |what: String| Some(Failure::Failed(what));
    match &seen.ending {
        Ending::Exit(0) => {}
        Ending::Exit(code) if *code == i32::from(WRONG) => return Some(Failure::Wrong(said())),
        Ending::Exit(code) => return failed(format!("it exited with {code}: {}", said())),
        Ending::Signal(name) => return failed(format!("it was killed by {name}: {}", said())),
        Ending::Limit(limit) => return failed(format!("it hangs: no end after {} s", limit.as_secs())),
    }
    // Others may leave what goes away by itself.
    if kind != Kind::Ours {
        return None;
    }
    if let Some(process) = seen.leaked.first() {
        return failed(format!(
            "{} processes outlived it, the first `{}`",
            seen.leaked.len(),
            process.command
        ));
    }
    let left = seen.left_behind.first()?;
    failed(format!("it left `{left}` in its temporary folder"))
}

/// Removes the shared memory of killed rounds. Its name has the process id.
pub(super) fn cleanup() {
    for entry in fs::read_dir("/dev/shm").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let rest = name.to_str().and_then(|name| name.strip_prefix("multiproc_bench_"));
        let pid = rest.and_then(|rest| rest.split_once('_')?.0.parse().ok());
        if pid.is_some_and(|pid| !is_alive(pid)) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// A process that was killed and not yet reaped is not.
fn is_alive(pid: i32) -> bool {
    let stat = procfs::process::Process::new(pid).and_then(|process| process.stat());
    stat.is_ok_and(|stat| !matches!(stat.state, 'Z' | 'X'))
}

fn progress(rounds: usize) -> ProgressBar {
    // It draws on standard error, and only if that is a terminal.
    let bar = ProgressBar::new(rounds as u64);
    if let Ok(style) =
        ProgressStyle::with_template("{spinner} {pos} of {len} rounds in {elapsed}: {wide_msg}")
    {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runner::Process;

    fn ended(ending: Ending, stderr: &str) -> Observed {
        Observed {
            stdout: String::new(),
            stderr: stderr.to_owned(),
            ending,
            elapsed: Duration::ZERO,
            leaked: vec![],
            left_behind: vec![],
            held_open: false,
        }
    }

    #[test]
    fn wrong_work_is_told_from_a_crash() {
        let wrong = ended(Ending::Exit(WRONG.into()), "warning\nerror: the sum is 3 and not 4\n");
        assert_eq!(failure(&wrong, Kind::Ours), Some(Failure::Wrong("the sum is 3 and not 4".to_owned())));
        let crash = ended(Ending::Signal("SIGSEGV".to_owned()), "");
        assert!(matches!(failure(&crash, Kind::Processes), Some(Failure::Failed(_))));
        let hangs = ended(Ending::Limit(Duration::from_secs(120)), "");
        assert!(
            matches!(failure(&hangs, Kind::Processes), Some(Failure::Failed(what)) if what.contains("hangs"))
        );
    }

    #[test]
    fn what_is_left_behind_is_held_against_the_library_only() {
        let mut seen = ended(Ending::Exit(0), "");
        assert_eq!(failure(&seen, Kind::Ours), None);
        seen.leaked.push(Process { pid: 7, command: "sleep".to_owned() });
        assert_eq!(failure(&seen, Kind::Processes), None);
        assert!(failure(&seen, Kind::Ours).is_some());
    }
}

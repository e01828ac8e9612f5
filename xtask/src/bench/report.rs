//! The page docs/performance.md and its charts.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::Result;
use bench::case::{ALL, Case, Direction, REAL, WORKLOADS};
use experiments::measure::three_digits;

use super::Report;
use super::results::{OURS, Results};
use super::{chart, table};

const ABOUT_REAL: &str = "Two workers that are up already, and the natural call of each library, except where it says *by hand*. CPU is \
user and system time of all processes, until all have ended. MB is the peak of the memory of all processes together \
(PSS). Lines are those that a user writes, without the start of the pool and the functions that all entrants call.";

/// Writes the page, and a chart beside it for each workload.
pub(super) fn write(report: &Report, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    for (workload, _) in WORKLOADS {
        if let Some(svg) = chart::draw(&report.results, &cases(workload))? {
            fs::write(folder.join(chart(workload)), svg)?;
        }
    }
    Ok(fs::write(folder.join("performance.md"), page(report)?)?)
}

fn cases(workload: &str) -> Vec<&'static Case> {
    ALL.into_iter().filter(|case| case.workload == workload).collect()
}

fn chart(workload: &str) -> String {
    format!("performance-{}.svg", workload.to_lowercase())
}

fn page(report: &Report) -> Result<String> {
    let mut page = String::new();
    head(&mut page, report)?;
    targets(&mut page, report)?;
    for (workload, title) in WORKLOADS {
        section(&mut page, &report.results, workload, title)?;
    }
    Ok(page)
}

fn head(page: &mut String, report: &Report) -> Result<()> {
    let Report { machine, rounds, quick, versions, notes, .. } = report;
    let versions: Vec<_> = versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
    let repetitions =
        if *quick { "a quick run: indicative only, not a measurement" } else { "all in one run" };
    writeln!(page, "# Performance\n")?;
    writeln!(page, "Written by `cargo xtask bench --peers --write`; do not edit.\n")?;
    writeln!(page, "- **Machine**: {machine}.")?;
    writeln!(page, "- **Beside it**: {}.", versions.join(", "))?;
    writeln!(
        page,
        "- **How**: {rounds} {} of each entrant in turn, {repetitions}. A figure is the median of the \
         rounds, with the least and the most of them after it. Every round is a program of its own that \
         checks its work: every item accounted for, every sum right.",
        if *rounds == 1 { "round" } else { "rounds" }
    )?;
    writeln!(
        page,
        "- **The baseline** is what can be had by hand: forked processes and shared memory, without any \
         safety. Threads stand there for comparison; they need not copy anything, and they share a crash."
    )?;
    writeln!(
        page,
        "- **The targets** that are absolute were set on two cores of an AMD EPYC. Where one is missed \
         that depends on how quickly memory goes from one core to the other, it is also said what it comes \
         to *by the baseline*: times what the baseline has here, divided by what it has there."
    )?;
    for note in notes {
        writeln!(page, "- {note}.")?;
    }
    writeln!(
        page,
        "\nOrange is this library, blue other libraries and processes, green threads, grey the baseline. \
         The axes are logarithmic.\n"
    )?;
    Ok(())
}

fn targets(page: &mut String, report: &Report) -> Result<()> {
    writeln!(page, "## Targets\n\n| | | figure | target | |\n|---|---|---|---|---|")?;
    for verdict in &report.targets {
        let figure = verdict.figure.as_deref().unwrap_or("not measured");
        let met = table::met(verdict.met);
        writeln!(
            page,
            "| {} | {} | {figure} | {} | {met} |",
            verdict.workload, verdict.what, verdict.target
        )?;
    }
    Ok(writeln!(page)?)
}

fn section(page: &mut String, results: &Results, workload: &str, title: &str) -> Result<()> {
    let cases = cases(workload);
    if cases.iter().all(|case| results.of(case).is_empty()) {
        return Ok(());
    }
    let name = match workload {
        "growth" => "Growth",
        REAL => "Real work",
        workload => workload,
    };
    writeln!(page, "## {name}: {}\n", lower_first(title))?;
    if chart::draw(results, &cases)?.is_some() {
        writeln!(page, "![{}]({})\n", in_a_sentence(results, &cases), chart(workload))?;
    }
    if workload == REAL {
        writeln!(page, "{ABOUT_REAL}\n")?;
    }
    let columns = table::columns(workload == REAL);
    let heading = columns.iter().map(|name| if name.is_empty() { " |".into() } else { format!(" {name} |") });
    writeln!(page, "| |{}\n|{}", heading.collect::<String>(), "---|".repeat(columns.len() + 1))?;
    for case in cases {
        let better = if case.better == Direction::LowerIsBetter { "less" } else { "more" };
        let mut first = format!("{} ({}, {better} is better)", case.title, case.unit);
        for row in results.of(case) {
            let cells = table::cells(results, row).join(" | ").replace('\n', " ");
            writeln!(page, "| {first} | {cells} |")?;
            first.clear();
        }
    }
    Ok(writeln!(page)?)
}

/// The alternative text of the chart.
fn in_a_sentence(results: &Results, cases: &[&'static Case]) -> String {
    let figure = |case: &&Case| {
        let ours = three_digits(results.median(OURS, case)?);
        let peer =
            results.best_peer(case).and_then(|row| Some((row.entrant.as_str(), three_digits(row.median?))));
        let peer = peer.map(|(name, figure)| format!(", {name} {figure}")).unwrap_or_default();
        Some(format!("{}: this library {ours} {}{peer}", case.title, case.unit))
    };
    cases.iter().filter_map(figure).collect::<Vec<_>>().join("; ").replace(['[', ']'], "")
}

fn lower_first(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use bench::case;
    use bench::usage::Usage;
    use experiments::Machine;

    use super::*;
    use crate::bench::results::tests::sample;
    use crate::bench::targets;

    #[test]
    fn the_page_has_the_machine_the_targets_and_every_row() {
        let results = sample(&[(OURS, &case::START, &[100.0]), ("procspawn", &case::START, &[1134.0])]);
        let targets = targets::judge(&results, &[&case::START]);
        let (machine, versions) = (Machine::here(), vec![("procspawn".to_owned(), "1.0.2".to_owned())]);
        let report = Report { machine, rounds: 5, quick: false, versions, notes: vec![], results, targets };
        let page = page(&report).unwrap();
        for words in [
            report.machine.to_string().as_str(),
            "procspawn 1.0.2",
            "| W1 | start and join | 100 µs | ≤ 1.35 × baseline = not measured | – |",
            "| W1 | start and join | 11.3 × | ahead of procspawn, 1134 µs | met |",
            "![start and join: this library 100 µs, procspawn 1134](performance-w1.svg)",
            "|  | procspawn | 1134 |  | ahead 11.3 × |  |",
        ] {
            assert!(page.contains(words), "{words:?} is not in:\n{page}");
        }
        assert!(!page.contains("## W2"), "nothing of it was measured");
    }

    #[test]
    fn a_real_workload_shows_what_was_used() {
        let mut results = sample(&[("rayon", &case::SKEWED, &[]), (OURS, &case::SKEWED, &[])]);
        for (row, cpu) in results.rows.iter_mut().zip([0.4, 0.5]) {
            row.add(cpu / 2.0, None, Some(Usage { cpu, memory: 12.0, lines: 1 }));
        }
        let mut page = String::new();
        section(&mut page, &results, REAL, "What programs do").unwrap();
        for words in [
            "## Real work: what programs do",
            "| | | median | rounds | CPU s | MB | lines | this library is | |\n|---|---|---|---|---|---|---|---|---|\n",
            " (s, less is better) | multiproc | 0.250 |  | 0.500 | 12.0 | 1 |  |  |",
            "|  | rayon | 0.200 |  | 0.400 | 12.0 | 1 | behind 1.25 × |  |",
        ] {
            assert!(page.contains(words), "{words:?} is not in:\n{page}");
        }
    }
}

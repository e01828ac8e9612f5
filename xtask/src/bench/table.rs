//! The tables of a run, for a terminal or a pipe.

use bench::case::{Case, Direction};
use bench::usage::Usage;
use console::{Alignment, measure_text_width, pad_str, style};
use experiments::Machine;
use experiments::measure::three_digits;

use super::Report;
use super::programs::{Entrants, Launch};
use super::results::{Failure, Kind, OURS, Results, Row, speedup};
use crate::output::say;

pub(super) fn list(cases: &[&Case], entrants: &Entrants) {
    for case in cases {
        say!("{}  {}, {}", style(case.id).bold(), case.title, case.unit);
        for entry in entrants.entries.iter().filter(|entry| entry.case.id == case.id) {
            let missing = match &entry.launch {
                Launch::Program(..) => String::new(),
                Launch::LeftOut(reason) => format!(" (left out: {reason})"),
                Launch::NotBuildable => " (cannot be built here)".to_owned(),
            };
            say!("    {}{missing}", entry.entrant);
        }
    }
    show_notes(&entrants.notes);
}

pub(super) fn show_head(machine: &Machine, quick: bool, notes: &[String]) {
    say!("{machine}");
    if quick {
        say!("Quick: few repetitions, so these figures are indicative only, not a measurement.");
    }
    show_notes(notes);
}

fn show_notes(notes: &[String]) {
    for note in notes {
        say!("{note}");
    }
}

/// A case with all its rows.
pub(super) fn show_case(results: &Results, case: &Case) {
    let rows = results.of(case);
    if rows.is_empty() {
        return;
    }
    let better = if case.better == Direction::LowerIsBetter { "less is better" } else { "more is better" };
    say!("\n{}  {}, {} ({better})", style(case.workload).bold(), case.title, case.unit);
    let mut lines: Vec<_> = rows.iter().map(|row| cells(results, row)).collect();
    // The columns that all cases have need no heading.
    let heading = usize::from(case.is_real());
    let columns = columns(case.is_real());
    if heading > 0 {
        lines.insert(0, columns.iter().map(ToString::to_string).collect());
    }
    show_columns(&lines, columns.len() - 1, |line, column, text| {
        let Some(row) = line.checked_sub(heading).map(|line| rows[line]) else {
            return style(text).dim().to_string();
        };
        match (column, row.kind) {
            (0, Kind::Ours) => style(text).bold().to_string(),
            (0, Kind::Baseline) => style(text).dim().to_string(),
            _ if row.failure.is_some() => style(text).yellow().to_string(),
            _ => text,
        }
    });
}

/// The headings of [`cells`].
pub(super) fn columns(is_real: bool) -> &'static [&'static str] {
    if is_real {
        &["", "median", "rounds", "CPU s", "MB", "lines", "this library is", ""]
    } else {
        &["", "median", "rounds", "this library is", ""]
    }
}

/// Name, median, spread, usage (of real workloads), comparison with the library, and notes.
pub(super) fn cells(results: &Results, row: &Row) -> Vec<String> {
    let spread = || {
        let (min, max) = row.spread();
        format!("{} to {}", three_digits(min), three_digits(max))
    };
    let mut cells = vec![
        row.entrant.clone(),
        row.median.map(three_digits).unwrap_or_default(),
        if row.values.len() > 1 { spread() } else { String::new() },
    ];
    if row.case.is_real() {
        cells.extend(row.usage.map_or_else(Default::default, |Usage { cpu, memory, lines }| {
            [three_digits(cpu), three_digits(memory), lines.to_string()]
        }));
    }
    cells.extend([
        compared(results, row).unwrap_or_default(),
        row.failure.as_ref().map(in_words).or_else(|| row.detail.clone()).unwrap_or_default(),
    ]);
    cells
}

/// The comparison of the library with the entrant of this row.
fn compared(results: &Results, row: &Row) -> Option<String> {
    if row.entrant == OURS {
        return None;
    }
    let ahead = speedup(row.case, results.median(OURS, row.case)?, row.median?);
    Some(if ahead >= 1.0 {
        format!("ahead {} ×", three_digits(ahead))
    } else {
        format!("behind {} ×", three_digits(1.0 / ahead))
    })
}

pub(super) fn in_words(failure: &Failure) -> String {
    match failure {
        Failure::LeftOut(reason) => format!("left out: {reason}"),
        Failure::NotBuildable => "cannot be built here".to_owned(),
        Failure::Wrong(what) => format!("WRONG: {what}"),
        Failure::Failed(what) => what.clone(),
    }
}

/// Every target, and how many of them are met.
pub(super) fn show_targets(report: &Report) {
    let verdicts = &report.targets;
    if verdicts.is_empty() {
        return;
    }
    say!("\n{}", style("Targets").bold());
    let lines: Vec<_> = verdicts
        .iter()
        .map(|verdict| {
            let figure = verdict.figure.clone().unwrap_or_else(|| "not measured".to_owned());
            let cells = [verdict.workload, &verdict.what, &figure, &verdict.target, met(verdict.met)];
            cells.map(str::to_owned).to_vec()
        })
        .collect();
    show_columns(&lines, 5, |line, column, text| match (column, verdicts[line].met) {
        (4, Some(true)) => style(text).green().to_string(),
        (4, Some(false)) => style(text).yellow().bold().to_string(),
        _ => text,
    });
    let count = |met| verdicts.iter().filter(|verdict| verdict.met == met).count();
    let (met, missed, unknown) = (count(Some(true)), count(Some(false)), count(None));
    say!("\n{met} met, {missed} missed, {unknown} not measured.");
}

pub(super) fn met(met: Option<bool>) -> &'static str {
    match met {
        Some(true) => "met",
        Some(false) => "missed",
        None => "–",
    }
}

/// Pads the first columns to equal width.
fn show_columns(lines: &[Vec<String>], aligned: usize, paint: impl Fn(usize, usize, String) -> String) {
    let width = |column: usize| lines.iter().map(|line| measure_text_width(&line[column])).max().unwrap_or(0);
    for (number, line) in lines.iter().enumerate() {
        let cells = line.iter().enumerate().map(|(column, cell)| {
            let cell = if column < aligned {
                pad_str(cell, width(column), Alignment::Left, None).into_owned()
            } else {
                cell.clone()
            };
            paint(number, column, cell)
        });
        say!("  {}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}

#[cfg(test)]
mod tests {
    use bench::case;

    use super::*;
    use crate::bench::results::tests::sample;

    #[test]
    fn every_row_of_a_real_workload_has_a_cell_for_each_column() {
        let mut results = sample(&[(OURS, &case::WORDS, &[]), ("rayon", &case::WORDS, &[])]);
        results.rows[0].add(0.5, None, Some(Usage { cpu: 1.25, memory: 16.4, lines: 4 }));
        results.rows[1].failure = Some(Failure::LeftOut("no processes".to_owned()));
        let cells = |row: usize| cells(&results, &results.rows[row]).join("|");
        assert_eq!(cells(0), "multiproc|0.500||1.25|16.4|4||");
        assert_eq!(cells(1), "rayon|||||||left out: no processes");
        assert_eq!(columns(true).len(), cells(0).split('|').count());
        assert_eq!(
            columns(false).len(),
            super::cells(&results, &sample(&[(OURS, &case::MAP, &[1.0])]).rows[0]).len()
        );
    }
}

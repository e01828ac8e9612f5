//! The tables of a run, for a terminal or a pipe.

use console::{Alignment, measure_text_width, pad_str, style};
use experiments::measure::three_digits;
use faults::Row;

use super::peers::Comparison;
use super::{METHODS, Report};
use crate::output::say;

/// The heading of each column.
pub(super) const HEADINGS: [&str; 5] = ["fault", "points", "times", "survived", "worst"];

pub(super) fn show(report: &Report) {
    for (method, lines) in METHODS.iter().zip(&report.lines).filter(|(_, lines)| !lines.is_empty()) {
        say!("\n{}", style(method).bold());
        let rows: Vec<_> = [HEADINGS.map(str::to_owned)].into_iter().chain(lines.iter().map(cells)).collect();
        let width = |column: usize| rows.iter().map(|row| measure_text_width(&row[column])).max();
        let widths: Vec<_> = (0..HEADINGS.len()).map(|column| width(column).unwrap_or(0)).collect();
        for (number, row) in rows.iter().enumerate() {
            let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| {
                let side = if column == 0 { Alignment::Left } else { Alignment::Right };
                pad_str(cell, width, side, None).into_owned()
            });
            let text = cells.collect::<Vec<_>>().join("  ");
            let failed = number > 0 && !lines[number - 1].failures.is_empty();
            say!("  {}", if failed { style(text).red().to_string() } else { text });
        }
    }
    let all = || report.lines.iter().flatten();
    let (times, survived): (u64, u64) =
        all().fold((0, 0), |(times, survived), line| (times + line.times, survived + line.survived));
    if times > 0 {
        say!("\n{survived} of {times} survived.");
    }
    for line in all() {
        for failure in &line.failures {
            say!("{} {}: {failure}", style("failed:").red(), line.fault);
        }
    }
    if let Some(comparison) = &report.comparison {
        show_comparison(comparison);
    }
}

fn show_comparison(comparison: &Comparison) {
    say!("\n{}", style("The same six faults, and what the caller saw").bold());
    for note in &comparison.notes {
        say!("{note}.");
    }
    let mut last = "";
    for row in &comparison.rows {
        if row.fault != last {
            say!("\n  {}", style(&row.fault).bold());
            last = &row.fault;
        }
        say!("    {:<22} {}", row.entrant, row.in_words());
    }
    for failure in comparison.failures() {
        say!("{} {failure}", style("failed:").red());
    }
}

/// The cells of a row.
pub(super) fn cells(line: &Row) -> [String; HEADINGS.len()] {
    [
        line.fault.clone(),
        line.points.to_string(),
        line.times.to_string(),
        line.survived.to_string(),
        line.worst.map(|worst| format!("{} ms", three_digits(worst))).unwrap_or_default(),
    ]
}

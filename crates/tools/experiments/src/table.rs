//! The table of claims, for a terminal or a file.

use std::fmt::Write;

use console::{Style, Term, measure_text_width, pad_str};

use crate::report::{Checked, Report, Verdict};

/// Width and colours of the output.
#[derive(Clone, Copy)]
pub(crate) struct OutputStyle {
    /// Columns of a terminal; a file has any number.
    pub(crate) width: Option<usize>,
    pub(crate) colours: bool,
}

impl OutputStyle {
    pub(crate) fn of_stdout() -> Self {
        let width = Term::stdout().size_checked().map(|(_, columns)| columns.into());
        Self { width, colours: console::colors_enabled() }
    }
}

const HEAD: [&str; 4] = ["CLAIM", "HOW MEASURED", "FIGURE", "VERDICT"];
const GAP: usize = 2;

/// The machine, the claims, and how many of them hold.
pub(crate) fn render(report: &Report, output: OutputStyle) -> String {
    let rows: Vec<_> = report.claims.iter().map(cells).collect();
    let widths: [usize; 4] = std::array::from_fn(|column| {
        let cells = rows.iter().map(|row| measure_text_width(row[column]));
        cells.max().unwrap_or(0).max(HEAD[column].len())
    });
    let total = widths.iter().sum::<usize>() + 3 * GAP;
    let lines = if output.width.is_none_or(|width| total <= width) {
        let lines = report.claims.iter().map(|checked| row(&cells(checked), &widths, style(checked, output)));
        std::iter::once(row(&HEAD, &widths, Style::new())).chain(lines).collect()
    } else {
        report.claims.iter().map(|checked| stacked(checked, style(checked, output))).collect::<Vec<_>>()
    };
    let [hold, all] = [report.count(Verdict::Holds), report.claims.len()];
    format!("{}\n\n{}\n{hold} of {all} claims hold on this machine.\n", report.machine, lines.concat())
}

fn cells(checked: &Checked) -> [&str; 4] {
    [checked.claim, checked.how, &checked.figure, checked.verdict.words()]
}

fn row(cells: &[&str; 4], widths: &[usize; 4], verdict_style: Style) -> String {
    let mut line = String::new();
    for (cell, width) in cells.iter().zip(widths).take(3) {
        line += &pad_str(cell, width + GAP, console::Alignment::Left, None);
    }
    let _ = writeln!(line, "{}", verdict_style.apply_to(cells[3]));
    line
}

/// For a terminal that is narrower than the table.
fn stacked(checked: &Checked, verdict_style: Style) -> String {
    let Checked { claim, how, figure, verdict, .. } = checked;
    format!("{claim}: {}\n    {how}: {figure}\n", verdict_style.apply_to(verdict.words()))
}

fn style(checked: &Checked, output: OutputStyle) -> Style {
    match checked.verdict {
        Verdict::Holds => plain(output).green(),
        Verdict::DoesNotHold | Verdict::TooBusy => plain(output).yellow().bold(),
        Verdict::NotMeasured => plain(output).red().bold(),
    }
}

fn plain(output: OutputStyle) -> Style {
    Style::new().force_styling(output.colours)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample;

    const FILE: OutputStyle = OutputStyle { width: None, colours: false };

    #[test]
    fn a_line_a_claim_in_columns() {
        let text = render(&sample(), FILE);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines[2..],
            [
                "CLAIM              HOW MEASURED  FIGURE  VERDICT",
                "a pool is quicker  64 tasks      3.00 ×  holds",
                "pigs fly           looked up     no pig  does not hold",
                "the moon is there  looked up     no sky  not measured",
                "",
                "1 of 3 claims hold on this machine.",
            ]
        );
        assert!(lines[0].contains(" core") && lines[0].contains("rustc "), "{}", lines[0]);
    }

    #[test]
    fn a_narrow_terminal_gets_two_lines_a_claim() {
        let text = render(&sample(), OutputStyle { width: Some(40), colours: false });
        assert!(text.contains("\npigs fly: does not hold\n    looked up: no pig\n"), "{text}");
        assert!(!text.contains("HOW MEASURED"), "{text}");
    }

    #[test]
    fn colours_come_only_where_they_may() {
        assert!(!render(&sample(), FILE).contains('\u{1b}'));
        assert!(render(&sample(), OutputStyle { colours: true, ..FILE }).contains("\u{1b}[32mholds"));
    }
}

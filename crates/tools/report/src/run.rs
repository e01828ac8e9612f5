//! What a run of a program did, as the page shows it.

use experiments::measure::show;
use xtask::output;
use xtask::runner::{Ending, Observed};
use xtask::verify::{differences::compare, readme::Block};

use crate::chart::{Chart, bars};
use crate::page::Run;

/// How many lines of an output are shown.
const MOST_LINES: usize = 200;

/// A command of a README, with its differences from the README.
pub(crate) fn of_block(block: &Block, seen: &Observed) -> Run {
    let failures = compare(&block.expected, seen).iter().map(ToString::to_string).collect();
    Run { failures, ..of(&block.command.text, seen) }
}

/// Any command.
pub(crate) fn of(command: &str, seen: &Observed) -> Run {
    let ending = match &seen.ending {
        Ending::Exit(0) => None,
        Ending::Exit(code) => Some(format!("exit code {code}")),
        Ending::Signal(name) => Some(format!("killed by {name}")),
        Ending::Limit(limit) => Some(format!("still running after {} s, and killed", limit.as_secs())),
    };
    Run {
        command: command.to_owned(),
        stdout: cut(&seen.stdout),
        stderr: cut(&seen.stderr),
        ending,
        time: show(seen.elapsed),
        seconds: seen.elapsed.as_secs_f64(),
        failures: Vec::new(),
    }
}

/// The times in both languages.
pub(crate) fn pace(rust: &Run, python: &Run) -> Chart {
    let values = [("Rust", rust), ("Python", python)].into_iter().enumerate();
    let values = values.map(|(series, (language, run))| (language.to_owned(), series, run.seconds));
    let mut chart = bars("Time from start to end", "s", values.collect());
    for (bar, run) in chart.bars.iter_mut().zip([rust, python]) {
        bar.value.clone_from(&run.time);
    }
    chart
}

/// Shows that it has run.
pub(crate) fn say(run: &Run) {
    output::line(format_args!("{:7.3} s  {}", run.seconds, run.command));
}

fn cut(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    match lines.len().checked_sub(MOST_LINES) {
        None | Some(0) => text.trim_end().to_owned(),
        Some(more) => format!("{}\n… and {more} more lines", lines[..MOST_LINES].join("\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_output_is_cut() {
        let text = "line\n".repeat(MOST_LINES + 2);
        let shown = cut(&text);
        assert_eq!(shown.lines().count(), MOST_LINES + 1);
        assert!(shown.ends_with("\n… and 2 more lines"));
        assert_eq!(cut("a\n\n"), "a");
    }
}

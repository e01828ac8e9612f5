//! docs/reliability.md.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::Result;
use faults::Row;

use super::peers::Comparison;
use super::table::{HEADINGS, cells};
use super::{METHODS, Report, Scale};

/// The parts of the suite, and what each does.
const PARTS: [(&str, &str, &str); 5] = [
    (
        "failpoints",
        "Every step of every protocol",
        "The library has named points at the steps of its protocols, compiled in for this suite only. Scenarios that \
         know what must come out come through all of them. At each point a process is killed, and stopped for a while, \
         at several of the times that it gets there; at those where the system is asked for something, it is refused. \
         Then: exactly the task that was running has failed, if one was; every other item has come once, and is right; \
         the same works again; and the process has the descriptors, mappings and children that it had before.",
    ),
    ("random-kills", "Random kills", "Processes are killed at random instants while they work."),
    (
        "scribble",
        "Overwritten memory",
        "Every page that processes share is overwritten at random while it is used: the memory of a queue, a pipe, a pool \
         and the fork server. Every call ends, with a value or an error; the parent goes on; what it makes afterwards works; \
         and it has the descriptors, mappings and children that it had before.",
    ),
    (
        "soak",
        "Soak",
        "Random operations in several threads against a model that knows what must come out. At the end, the process \
         has what it had at the beginning: descriptors, mappings, children, memory.",
    ),
    (
        "large",
        "Large values",
        "Values around the sizes at which a number of 32 bits overflows, as far as there is memory for them: each arrives \
         whole.",
    ),
];

pub(super) fn write(report: &Report, file: &Path) -> Result<()> {
    Ok(fs::write(file, page(report)?)?)
}

fn page(report: &Report) -> Result<String> {
    let mut page = String::new();
    let Report { machine, scale, lines, comparison } = report;
    let Scale { times, kills, rounds, time, seeds } = scale;
    writeln!(page, "# Reliability\n")?;
    writeln!(page, "Written by `cargo xtask faults --peers --write`; do not edit.\n")?;
    writeln!(page, "- **Machine**: {machine}.")?;
    writeln!(
        page,
        "- **How much**: each point up to {times} times in each scenario, {kills} random kills, {rounds} rounds of \
         overwriting memory, soaks of {time} from the seeds {seeds:?}; all of it under each start method."
    )?;
    writeln!(
        page,
        "- **Worst** is the longest time from a fault until everything was settled: the work that was still to be done \
         included, and, where a process was stopped, the 20 ms that it was.\n"
    )?;
    for (part, title, text) in PARTS {
        writeln!(page, "## {title}\n\n{text}\n")?;
        for (method, lines) in METHODS.iter().zip(lines) {
            let lines: Vec<_> = lines.iter().filter(|line| line.part == part).collect();
            section(&mut page, method, &lines)?;
        }
    }
    page.push_str(include_str!("hostile.md"));
    if let Some(comparison) = comparison {
        beside_others(&mut page, comparison)?;
    }
    Ok(page)
}

fn beside_others(page: &mut String, comparison: &Comparison) -> Result<()> {
    let versions: Vec<_> =
        comparison.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
    writeln!(page, "## Six abuses, beside others\n")?;
    writeln!(
        page,
        "What the caller sees of each, how long it takes until everything is settled (some 10 ms of that are the work that \
         was left to do, where it is done), and whether the same pool, queue or lock works afterwards. What has not come \
         after 8 s is called for ever. {}.\n",
        versions.join(", ")
    )?;
    for note in &comparison.notes {
        writeln!(page, "{note}.\n")?;
    }
    page.push_str(&comparison.markdown()?);
    Ok(())
}

fn section(page: &mut String, method: &str, lines: &[&Row]) -> Result<()> {
    let (times, survived) =
        lines.iter().fold((0, 0), |(times, survived), line| (times + line.times, survived + line.survived));
    writeln!(page, "Under `{method}`, **{survived} of {times} survived**.\n")?;
    writeln!(page, "| {} |\n|---|--:|--:|--:|--:|", HEADINGS.join(" | "))?;
    for line in lines {
        writeln!(page, "| {} |", cells(line).join(" | "))?;
    }
    writeln!(page)?;
    for line in lines.iter().filter(|line| !line.failures.is_empty()) {
        for failure in &line.failures {
            writeln!(page, "- **{}**: {failure}", line.fault)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use experiments::Machine;

    use super::*;

    #[test]
    fn the_page_has_every_line_and_every_failure() {
        let mut line = Row::new("failpoints", "child:started killed");
        line.places = 2;
        line.passed(Some(1.5));
        line.passed(Some(0.5));
        let mut other = Row::new("random-kills", "a worker");
        other.fail("it hangs".to_owned());
        let scale =
            Scale { times: 5, kills: 10_000, rounds: 500, time: "10m".to_owned(), seeds: vec![1, 2, 3] };
        let report =
            Report { machine: Machine::here(), scale, lines: [vec![line], vec![other]], comparison: None };
        let page = page(&report).unwrap();
        for words in [
            "10000 random kills, 500 rounds of overwriting memory, soaks of 10m from the seeds [1, 2, 3]",
            "Under `fork-server`, **2 of 2 survived**.",
            "| child:started killed | 2 | 2 | 2 | 1.50 ms |",
            "Under `spawn`, **0 of 1 survived**.",
            "- **a worker**: it hangs",
        ] {
            assert!(page.contains(words), "{words:?} is not in:\n{page}");
        }
    }
}

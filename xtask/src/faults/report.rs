//! The page docs/reliability.md.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::Result;
use faults::Row;

use super::peers::Comparison;
use super::table::{HEADINGS, cells};
use super::{METHODS, Report, Scale};

/// Name, title and description of each part.
const PARTS: [(&str, &str, &str); 5] = [
    (
        "failpoints",
        "Every step of every protocol",
        "The library has failpoints at the steps of its protocols, compiled in for this suite only. \
         Scenarios pass all of them. At each failpoint a process is killed, and stopped for a while, at \
         several of its passes; a failpoint at a system call makes that call fail. Then exactly the running \
         task has failed, if there was one; every other item has arrived once, and is right; the same works \
         again; and the process has the descriptors, mappings and children that it had before.",
    ),
    ("random-kills", "Random kills", "Processes are killed at random instants while they work."),
    (
        "corruption",
        "Overwritten memory",
        "Every shared page is overwritten at random while it is used: the memory of each object \
         below. Every call ends, with a value or an error, within its time limit and 5 s for a busy machine; \
         the parent continues; what it creates afterwards works; and it has the descriptors, mappings and children that it had before.",
    ),
    (
        "soak",
        "Soak",
        "Several threads run random operations against a model of their results. At the end, the process \
         has the descriptors, mappings, children and memory that it had at the beginning.",
    ),
    (
        "large",
        "Large values",
        "Values around the sizes at which 32-bit numbers overflow, as far as there is memory for them: \
         each arrives whole.",
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
        "- **Extent**: each failpoint up to {times} times in each scenario, {kills} random kills, {rounds} \
         rounds of corruption, soaks of {time} from the seeds {seeds:?}; all of it under each start \
         method."
    )?;
    writeln!(
        page,
        "- **Worst** is the longest time from a fault until every handle had its result: the rest of the \
         work is included, and so are the 20 ms for which a process was stopped.\n"
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
    writeln!(page, "## Six faults, beside other libraries\n")?;
    writeln!(
        page,
        "What the caller sees, how long it takes until everything is settled (about 10 ms of that are the \
         rest of the work, where that is done), and whether the same pool, queue or lock works afterwards. \
         A call that takes longer than 8 s counts as a hang. {}.\n",
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
        line.points = 2;
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
            "10000 random kills, 500 rounds of corruption, soaks of 10m from the seeds [1, 2, 3]",
            "Under `fork-server`, **2 of 2 survived**.",
            "| child:started killed | 2 | 2 | 2 | 1.50 ms |",
            "Under `spawn`, **0 of 1 survived**.",
            "- **a worker**: it hangs",
        ] {
            assert!(page.contains(words), "{words:?} is not in:\n{page}");
        }
    }
}

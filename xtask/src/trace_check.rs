//! `cargo xtask trace-check`: has every program that a README shows write its timeline, and checks that.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use console::style;
use trace_file::Trace;

use crate::output::say;
use crate::runner::{Ending, Runner};
use crate::verify::programs::Workspace;
use crate::verify::{Plan, plan};

/// How long a program's other processes may outlive it.
const GRACE: Duration = Duration::from_secs(1);

#[derive(Args)]
pub struct Options {
    /// Only the questions and commands that contain this text
    #[arg(long, value_name = "PATTERN")]
    only: Option<String>,
}

/// Returns whether every program runs, and every timeline is as its format says.
pub fn run(options: &Options) -> Result<bool> {
    let workspace = Workspace::load()?;
    let Plan { commands, .. } = plan(&workspace, options.only.as_deref())?;
    let built = workspace.build()?;
    let runner = Runner::new(&workspace.root, GRACE)?;
    runner.end_at_interrupt(|| ())?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("trace.json");
    let mut wrong = 0;
    for (block, program) in &commands {
        let path = built.get(program).with_context(|| format!("cargo did not build `{}`", program.1))?;
        let mut command = Command::new(path);
        command.args(&block.command.arguments).env("MULTIPROC_TRACE", &file);
        let ending = runner.run_command(command, block.expected.limit)?.ending;
        let outcome = outcome(&ending, fs::read_to_string(&file).ok().as_deref());
        _ = fs::remove_file(&file);
        wrong += usize::from(outcome.is_err());
        let outcome = outcome.unwrap_or_else(|error| style(error).red().to_string());
        say!("{} {}: {outcome}", block.question, block.command.text);
    }
    say!("\n{} of {} are good.", commands.len() - wrong, commands.len());
    Ok(wrong == 0)
}

/// What the timeline of a program has, or what is wrong.
fn outcome(ending: &Ending, text: Option<&str>) -> Result<String, String> {
    if let Ending::Limit(limit) = ending {
        return Err(format!("still running after {} s, and killed", limit.as_secs()));
    }
    let Some(text) = text else { return Ok("no process of this library".to_owned()) };
    let trace = Trace::read(text)?;
    if let Some(event) = trace.loose_arrow().filter(|_| trace.lost() == 0) {
        return Err(format!("an arrow leads from nowhere to {event:?}"));
    }
    Ok(format!("{} events, {} processes, {} items", trace.events.len(), trace.names().len(), trace.items()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeline_that_no_viewer_opens_is_wrong() {
        let name = r#"{"ph":"M","cat":"__metadata","name":"process_name","pid":1,"tid":1,"ts":0,"args":{"name":"a"}},"#;
        let item = |ts: u32| {
            format!(
                r#"{{"ph":"X","cat":"item","name":"f","pid":1,"tid":1,"ts":{ts},"dur":5,"args":{{"count":2,"index":0}}}},"#
            )
        };
        let check = |lines: &[&str]| outcome(&Ending::Exit(0), Some(&(lines.join("\n") + "\n")));
        assert_eq!(check(&["[", name, &item(1), &item(6)]).unwrap(), "3 events, 1 processes, 4 items");
        let arrow = |ends: &str| item(1).replace(r#""dur":5"#, &format!(r#""dur":5,"bind_id":"0x1",{ends}"#));
        let (from, to) =
            (arrow(r#""flow_out":true"#), arrow(r#""flow_in":true"#).replace(r#""ts":1"#, r#""ts":6"#));
        assert!(check(&["[", name, &to, &from]).is_ok());
        for (lines, why) in [
            (vec!["[", name, &to], "from nowhere"),
            (vec![name], "opening bracket"),
            (vec!["[", &item(1)], "no name"),
            (vec!["[", name, &item(1).replace(r#""tid":1"#, r#""tid":2"#)], "no name"),
            (vec!["[", name, &item(1), &item(2)], "overlap"),
            (vec!["[", name, "{}"], "no comma"),
            (vec!["[", name, r#"{"ph":"Q"},"#], "unknown variant"),
            (vec!["[", name, &item(1).replace(r#""dur":5,"#, "")], "duration"),
            (vec!["[", name, &item(1).replace(r#""count":2,"#, "")], "no count"),
        ] {
            let error = check(&lines).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}

//! `cargo xtask trace-check`: has every program that a README shows write its timeline, under both start methods,
//! and checks that.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use console::style;
use trace_file::Trace;

use crate::output::say;
use crate::runner::{Ending, Runner};
use crate::verify::programs::Workspace;
use crate::verify::readme::Block;
use crate::verify::{Plan, plan};

const METHODS: [&str; 2] = ["fork-server", "spawn"];

/// Programs whose processes belong to other programs: their timelines have the first process alone.
const ALONE: [&str; 1] = ["x6-many-hosts"];

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
    ensure!(!commands.is_empty(), "no command is to be run");
    let mut good = 0;
    for (block, program) in &commands {
        let path = built.get(program).with_context(|| format!("cargo did not build `{}`", program.1))?;
        // Side by side, since most programs sleep, and no time is checked.
        let outcomes = thread::scope(|scope| {
            let runner = &runner;
            let check = |method| scope.spawn(move || check(runner, path, block, method));
            METHODS.map(check).map(|thread| thread.join().unwrap_or_else(|_| Err("a panic".to_owned())))
        });
        for (method, outcome) in METHODS.iter().zip(outcomes) {
            good += usize::from(outcome.is_ok());
            let outcome = outcome.unwrap_or_else(|error| style(error).red().to_string());
            say!("{} {} ({method}): {outcome}", block.question, block.command.text);
        }
    }
    let all = commands.len() * METHODS.len();
    say!("\n{good} of {all} are good.");
    Ok(good == all)
}

/// Runs a program under a start method. Returns what its timeline has, or what is wrong.
fn check(runner: &Runner, program: &Path, block: &Block, method: &str) -> Result<String, String> {
    let observe = || -> Result<_> {
        let file = runner.new_run()?.join("trace.json");
        let mut command = Command::new(program);
        command.args(&block.command.arguments);
        command.env("MULTIPROC_TRACE", &file).env("MULTIPROC_START_METHOD", method);
        let ending = runner.run_command(command, block.expected.limit)?.ending;
        Ok((ending, fs::read_to_string(&file).ok()))
    };
    let (ending, text) = observe().map_err(|error| format!("{error:#}"))?;
    let has_children = starts_processes(block);
    outcome(&ending, block.expected.exit, has_children, text.as_deref())
}

/// A program that shows its help, or refuses its arguments, need not start any.
fn starts_processes(block: &Block) -> bool {
    let shows_help = block.command.arguments.iter().any(|argument| argument == "--help");
    block.expected.exit == 0 && !shows_help && !ALONE.contains(&block.question.as_str())
}

/// What the timeline of a program has, or what is wrong.
fn outcome(ending: &Ending, exit: i32, has_children: bool, text: Option<&str>) -> Result<String, String> {
    match ending {
        Ending::Exit(code) if *code == exit => {}
        Ending::Exit(code) => return Err(format!("exit code {code} in place of {exit}")),
        Ending::Signal(name) => return Err(format!("killed by {name}")),
        Ending::Limit(limit) => return Err(format!("still running after {} s, and killed", limit.as_secs())),
    }
    let trace = Trace::read(text.ok_or("no timeline")?)?;
    let processes = trace.names().len();
    if processes < 1 + usize::from(has_children) {
        return Err(format!("{processes} processes, which are too few"));
    }
    if let Some(event) = trace.loose_arrow().filter(|_| trace.lost() == 0) {
        return Err(format!("an arrow leads from nowhere, or to nowhere: {event:?}"));
    }
    Ok(format!("{} events, {processes} processes, {} items", trace.events.len(), trace.items()))
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
        let check = |lines: &[&str]| outcome(&Ending::Exit(0), 0, false, Some(&(lines.join("\n") + "\n")));
        assert_eq!(check(&["[", name, &item(1), &item(6)]).unwrap(), "3 events, 1 processes, 4 items");
        let arrow = |ends: &str| item(1).replace(r#""dur":5"#, &format!(r#""dur":5,"bind_id":"0x1",{ends}"#));
        let (from, to) =
            (arrow(r#""flow_out":true"#), arrow(r#""flow_in":true"#).replace(r#""ts":1"#, r#""ts":6"#));
        assert!(check(&["[", name, &to, &from]).is_ok());
        let submit = arrow(r#""flow_out":true"#).replace(r#""index":0"#, r#""worker":1,"index":0"#);
        let submit = submit.replace(r#""cat":"item","name":"f""#, r#""cat":"pool","name":"submit""#);
        let take = to.replace(r#""cat":"item","name":"f""#, r#""cat":"pool","name":"take""#);
        let take = take.replace(r#""index":0"#, r#""worker":1"#);
        let (unbound, exit) = (item(6), |code| {
            format!(
                r#"{{"ph":"i","cat":"exit","name":"exit","s":"p","pid":1,"tid":1,"ts":20,"args":{{"cause":"a",{code}}}}},"#
            )
        });
        assert!(check(&["[", name, &submit, &to, &exit(r#""code":0"#)]).is_ok());
        assert!(check(&["[", name, &submit, &unbound, &exit(r#""signal":9"#)]).is_ok());
        for (lines, why) in [
            (vec!["[", name, &to], "nowhere"),
            (vec!["[", name, &submit, &unbound, &exit(r#""code":0"#)], "nowhere"),
            (vec!["[", name, &submit, &take, &exit(r#""code":0"#)], "nowhere"),
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
    #[test]
    fn a_program_without_a_timeline_or_with_another_end_is_wrong() {
        let name = r#"{"ph":"M","cat":"__metadata","name":"process_name","pid":1,"tid":1,"ts":0,"args":{"name":"a"}},"#;
        let (one, two) =
            (format!("[\n{name}\n"), format!("[\n{name}\n{}\n", name.replace(r#"id":1"#, r#"id":2"#)));
        assert!(outcome(&Ending::Exit(2), 2, false, Some(&one)).is_ok());
        assert!(outcome(&Ending::Exit(0), 0, true, Some(&two)).is_ok());
        for (ending, has_children, text, why) in [
            (Ending::Exit(0), false, None, "no timeline"),
            (Ending::Exit(0), false, Some("[\n"), "too few"),
            (Ending::Exit(0), true, Some(one.as_str()), "too few"),
            (Ending::Exit(1), false, Some(&one), "exit code 1"),
            (Ending::Signal("SIGKILL".to_owned()), false, Some(&one), "SIGKILL"),
            (Ending::Limit(GRACE), false, Some(&one), "still running"),
        ] {
            let error = outcome(&ending, 0, has_children, text).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}

//! Runs every program of every question once, one at a time, and the Python beside it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use experiments::{Machine, measure::show};
use xtask::compare::{BROKEN_LIMIT, symptom};
use xtask::programs::python;
use xtask::runner::{Ending, Runner};
use xtask::verify::programs::{Program as Name, Workspace};
use xtask::verify::python::{Broken, Script, broken};
use xtask::verify::readme::Block;
use xtask::verify::{Plan, plan};

use crate::chart::Measured;
use crate::highlight::{Language, highlight};
use crate::markdown::{self, Heading};
use crate::page::{Document, Figures, Mistake, Program, PythonRun, Question, Report, Run, Source};
use crate::run::{of, of_block, pace, say};
use crate::timeline::{Timeline, timeline};

/// How long a program's other processes may outlive it.
const GRACE: Duration = Duration::from_secs(1);

/// The environment variable that names the file for a program's trace.
const TRACE: &str = "MULTIPROC_TRACE";

/// What the questions with `only` in their names have done; blocks until all programs have ended.
pub fn collect(workspace: &Workspace, only: &str) -> Result<Report> {
    let Plan { commands, scripts, .. } = plan(workspace, None)?;
    let mistakes = broken(workspace)?;
    let mut names: Vec<_> = commands.iter().map(|(block, _)| block.question.clone()).collect();
    names.dedup();
    names.retain(|name| name.contains(only));
    ensure!(!names.is_empty(), "no question contains `{only}`");
    let python = python();
    let built = workspace.build()?;
    let runner = Runner::new(&workspace.root, GRACE)?;
    runner.end_at_interrupt(|| ())?;

    let start = Instant::now();
    // Within the runner's folder, which is removed even on Ctrl-C.
    let trace = runner.new_run()?.join("trace.json");
    let python_path = python.as_ref().map(|(path, _)| path.as_path());
    let run = Collector { workspace, built: &built, runner: &runner, trace, python: python_path };
    let questions = names.iter().map(|name| run.question(name, &commands, &scripts, &mistakes));
    let questions = questions.collect::<Result<Vec<_>>>()?;
    Ok(Report {
        machine: machine(),
        python: python.map(|(_, version)| version),
        took: show(start.elapsed()),
        questions,
        documents: documents(&workspace.root),
    })
}

/// This machine; the programs are unoptimised, whatever this one is.
fn machine() -> String {
    Machine { build: "debug", ..Machine::here() }.to_string()
}

/// The pages of `docs/` that hold figures, if this workspace has them. What they say about their own charts, and
/// about editing them, is left out.
fn documents(root: &Path) -> Vec<Document> {
    let pages = [("performance", "Benchmark"), ("reliability", "Fault suite")];
    let read = |(name, title): (&str, &str)| {
        let text = fs::read_to_string(root.join("docs").join(name).with_extension("md")).ok()?;
        let is_of_the_file = |line: &&str| line.starts_with("Written by") || line.starts_with("Orange is");
        let text: Vec<_> = text.lines().filter(|line| !is_of_the_file(line)).collect();
        let (id, title) = (name.to_owned(), title.to_owned());
        Some(Document { id, title, sections: markdown::sections(&text.join("\n"), name) })
    };
    pages.into_iter().filter_map(read).collect()
}

struct Collector<'a> {
    workspace: &'a Workspace,
    built: &'a BTreeMap<Name, PathBuf>,
    runner: &'a Runner,
    /// Where each program writes its trace.
    trace: PathBuf,
    python: Option<&'a Path>,
}

impl Collector<'_> {
    fn question(
        &self,
        name: &str,
        commands: &[(Block, Name)],
        scripts: &[Script],
        mistakes: &[Broken],
    ) -> Result<Question> {
        let folder = self.workspace.examples().join(name);
        let headings = markdown::headings(&fs::read_to_string(folder.join("README.md"))?);
        let (title, lead) =
            headings.first().map(|first| (first.title.clone(), first.lead.clone())).unwrap_or_default();
        let mut programs: Vec<&Name> = Vec::new();
        for (_, program) in commands.iter().filter(|(block, _)| block.question == name) {
            if !programs.contains(&program) {
                programs.push(program);
            }
        }
        let programs = programs.into_iter().map(|program| {
            let blocks: Vec<_> =
                commands.iter().filter(|(_, its)| its == program).map(|(block, _)| block).collect();
            let is_its = |script: &&Script| commands[script.command].1 == *program;
            self.program(&folder, program, &blocks, scripts.iter().find(is_its), &headings)
        });
        let programs = programs.collect::<Result<_>>()?;
        let mistakes = mistakes.iter().filter(|mistake| mistake.question == name);
        let mistakes =
            mistakes.filter_map(|mistake| self.mistake(mistake).transpose()).collect::<Result<_>>()?;
        let (kicker, title) =
            title.split_once(": ").map_or(("", title.as_str()), |(kicker, title)| (kicker, title));
        let (kicker, title) = (kicker.to_owned(), capitalised(title));
        Ok(Question { id: name.to_owned(), kicker, title, lead: sentence(&lead), programs, mistakes })
    }

    fn program(
        &self,
        folder: &Path,
        program: &Name,
        blocks: &[&Block],
        script: Option<&Script>,
        headings: &[Heading],
    ) -> Result<Program> {
        let name = &program.1;
        let path = self.built.get(program).with_context(|| format!("cargo did not build `{name}`"))?;
        let mut blocks = blocks.to_vec();
        let figures = if name.ends_with("-measure") { self.figures(path, &mut blocks)? } else { None };
        let (runs, timelines): (Vec<_>, Vec<_>) =
            blocks.iter().map(|block| self.run(path, block)).collect::<Result<Vec<_>>>()?.into_iter().unzip();
        let source = self.workspace.source(program);
        let python = self.python_of(&folder.join("python").join(name).with_extension("py"), script)?;
        let run_in_python = python.as_ref().and_then(|python| python.run.as_ref());
        let pace = runs.first().zip(run_in_python).map(|(rust, python)| pace(rust, python));
        let line = blocks.first().map_or(usize::MAX, |block| block.line);
        let heading = headings.iter().skip(1).rfind(|heading| heading.line < line);
        Ok(Program {
            name: name.clone(),
            title: heading.map_or_else(|| "The answer".to_owned(), |heading| capitalised(&heading.title)),
            lead: heading.map(|heading| sentence(&heading.lead)).unwrap_or_default(),
            sources: source.map(|file| self.sources(&file)).transpose()?.unwrap_or_default(),
            runs,
            timeline: timelines.into_iter().flatten().next(),
            python,
            pace,
            figures,
        })
    }

    fn run(&self, path: &Path, block: &Block) -> Result<(Run, Option<Timeline>)> {
        let mut command = Command::new(path);
        command.args(&block.command.arguments).env(TRACE, &self.trace);
        let seen = self.runner.run_command(command, block.expected.limit)?;
        let text = fs::read_to_string(&self.trace).unwrap_or_default();
        _ = fs::remove_file(&self.trace);
        let run = of_block(block, &seen);
        say(&run);
        Ok((run, timeline(&text)))
    }

    /// Runs a measuring program for its figures, in place of the command that shows them as text.
    fn figures(&self, path: &Path, blocks: &mut Vec<&Block>) -> Result<Option<Figures>> {
        let Some(at) = blocks.iter().position(|block| block.command.arguments.is_empty()) else {
            return Ok(None);
        };
        let block = blocks.remove(at);
        let arguments = ["--format", "json"].map(str::to_owned);
        let seen = self.runner.run(path, &arguments, block.expected.limit)?;
        let run = Run { stdout: String::new(), ..of_block(block, &seen) };
        say(&run);
        let measured: Measured = serde_json::from_str(&seen.stdout)
            .with_context(|| format!("`{} -- --format json` prints something else", block.command.text))?;
        Ok(Some(Figures {
            command: run.command,
            time: run.time,
            charts: measured.charts(),
            claims: measured.claims,
        }))
    }

    fn sources(&self, main: &Path) -> Result<Vec<Source>> {
        let mut sources = vec![self.source(main, Language::Rust)?];
        let folder = main.parent().unwrap_or(main);
        // The files beside `src/bin/NAME.rs` are other programs.
        if main.file_name().is_some_and(|name| name == "main.rs") {
            let mut others: Vec<_> = fs::read_dir(folder)?.flatten().map(|entry| entry.path()).collect();
            others.retain(|other| {
                other != main && other.extension().is_some_and(|extension| extension == "rs")
            });
            others.sort();
            for other in others {
                sources.push(self.source(&other, Language::Rust)?);
            }
        }
        Ok(sources)
    }

    fn source(&self, file: &Path, language: Language) -> Result<Source> {
        let code = fs::read_to_string(file).with_context(|| file.display().to_string())?;
        let path = file.strip_prefix(&self.workspace.root).unwrap_or(file).display().to_string();
        Ok(Source { path, lines: code.lines().count(), html: highlight(code.trim_end(), language) })
    }

    fn python_of(&self, file: &Path, script: Option<&Script>) -> Result<Option<PythonRun>> {
        if !file.exists() {
            return Ok(None);
        }
        let source = self.source(file, Language::Python)?;
        let run = match (self.python, script) {
            (Some(python), Some(Script { block, .. })) => {
                let seen = self.runner.run(python, &block.command.arguments, block.expected.limit)?;
                Some(of_block(block, &seen))
            }
            _ => None,
        };
        run.iter().for_each(say);
        Ok(Some(PythonRun { source, run }))
    }

    /// A Python program that does not work; nothing without Python.
    fn mistake(&self, broken: &Broken) -> Result<Option<Mistake>> {
        let Some(python) = self.python else { return Ok(None) };
        let source = self.source(&self.workspace.root.join(&broken.file), Language::Python)?;
        let arguments = ["-B".to_owned(), broken.file.display().to_string()];
        let seen = self.runner.run(python, &arguments, BROKEN_LIMIT)?;
        let command = format!("python3 {}", broken.file.display());
        let run = Run { ending: None, ..of(&command, &seen) };
        say(&run);
        let symptom = symptom(&seen).unwrap_or_else(|| "It works here.".to_owned());
        let hangs = matches!(seen.ending, Ending::Limit(_));
        let name = broken.file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let reason = broken.reason.strip_prefix("Does not work: ").unwrap_or(&broken.reason);
        Ok(Some(Mistake {
            name,
            reason: capitalised(&markdown::inline(reason)),
            source,
            run,
            symptom,
            hangs,
        }))
    }
}

/// A paragraph that led to a block below it, as a sentence of its own.
fn sentence(html: &str) -> String {
    html.strip_suffix(':').map_or_else(|| html.to_owned(), |html| format!("{html}."))
}

/// HTML whose first letter is a capital, unless it is code.
fn capitalised(html: &str) -> String {
    let mut letters = html.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_title_begins_with_a_capital() {
        assert_eq!(capitalised("why?"), "Why?");
        assert_eq!(capitalised("<code>a</code>"), "<code>a</code>");
    }
}

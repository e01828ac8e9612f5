//! Finds the console blocks of the READMEs.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail, ensure};
use pulldown_cmark::{CodeBlockKind, Event, Parser, Tag, TagEnd};
use serde::Serialize;

use super::{command::Command, expectation::Expectation};

/// A command of a README, and what the README says about it.
#[derive(Clone, Debug)]
pub struct Block {
    /// The name of the question's folder.
    pub question: String,
    /// The line of the README at which the block begins.
    pub line: usize,
    pub command: Command,
    pub expected: Expectation,
}

/// Something that is wrong before anything runs.
#[derive(Debug, Serialize)]
pub struct Problem {
    pub question: String,
    /// The file or folder, and the line if there is one.
    pub place: String,
    pub what: String,
}

impl Problem {
    /// A problem of the question's README.
    pub fn new(question: &str, line: Option<usize>, what: String) -> Self {
        let line = line.map_or(String::new(), |line| format!(":{line}"));
        Self { question: question.to_owned(), place: format!("examples/{question}/README.md{line}"), what }
    }
}

/// The blocks of every question under `examples`, by question and line.
pub fn read_all(examples: &Path) -> Result<(Vec<Block>, Vec<Problem>)> {
    let mut blocks = Vec::new();
    let mut problems = Vec::new();
    for question in questions(examples)? {
        let readme = examples.join(&question).join("README.md");
        if !readme.exists() {
            problems.push(Problem::new(&question, None, "is not there".to_owned()));
            continue;
        }
        let fences = fences(&fs::read_to_string(&readme).with_context(|| readme.display().to_string())?);
        if fences.is_empty() {
            problems.push(Problem::new(&question, None, "has no console block".to_owned()));
        }
        for fence in fences {
            match fence.block(&question) {
                Ok(block) => blocks.push(block),
                Err(error) => problems.push(Problem::new(&question, Some(fence.line), format!("{error:#}"))),
            }
        }
    }
    Ok((blocks, problems))
}

fn questions(examples: &Path) -> Result<Vec<String>> {
    let mut questions = Vec::new();
    for entry in fs::read_dir(examples).with_context(|| examples.display().to_string())? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            questions.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    questions.sort();
    Ok(questions)
}

/// A fenced block whose info string begins with `console`.
#[derive(Debug)]
pub struct Fence {
    pub line: usize,
    /// The rest of the info string.
    pub words: String,
    pub text: String,
    pub closed: bool,
}

pub fn fences(markdown: &str) -> Vec<Fence> {
    let mut fences = Vec::new();
    let mut open: Option<Fence> = None;
    for (event, range) in Parser::new(markdown).into_offset_iter() {
        match event {
            Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(info))) => {
                let (first, words) = info.split_once(char::is_whitespace).unwrap_or((&info, ""));
                open = (first == "console").then(|| Fence {
                    line: markdown[..range.start].matches('\n').count() + 1,
                    words: words.to_owned(),
                    text: String::new(),
                    closed: markdown[range].trim_end().lines().skip(1).last().is_some_and(is_fence),
                });
            }
            Event::Text(text) => {
                if let Some(fence) = &mut open {
                    fence.text += &text;
                }
            }
            Event::End(TagEnd::CodeBlock) => fences.extend(open.take()),
            _ => {}
        }
    }
    fences
}

fn is_fence(line: &str) -> bool {
    let line = line.trim_start_matches([' ', '>']);
    line.starts_with("```") || line.starts_with("~~~")
}

impl Fence {
    pub fn block(&self, question: &str) -> Result<Block> {
        ensure!(self.closed, "the block does not end");
        let mut lines = self.text.split_terminator('\n');
        let Some(command) = lines.next().and_then(|line| line.strip_prefix("$ ")) else {
            bail!("a console block begins with `$ ` and a command");
        };
        let lines: Vec<_> = lines.collect();
        ensure!(
            !lines.iter().any(|line| line.starts_with("$ ")),
            "a block has one command, this one has more"
        );
        Ok(Block {
            question: question.to_owned(),
            line: self.line,
            command: Command::parse(command)?,
            expected: Expectation::parse(&self.words, &lines)?,
        })
    }
}

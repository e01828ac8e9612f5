//! The Python beside the programs: `examples/<package>/python/<program>.py` prints what its program prints.
//!
//! Files under `python/broken/` are programs that do not work; their first line says why.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::{fs, io};

use super::expectation::Expectation;
use super::programs::{Program, Workspace};
use super::readme::{Block, Problem};

/// A Python file and the block of its program.
pub struct Script {
    /// Its command is `python3 …`, and it expects what the program's block shows, but no times.
    pub block: Block,
    /// Where the block of its program lies among the commands of the READMEs.
    pub command: usize,
}

/// A Python program that does not work.
pub struct Broken {
    pub question: String,
    pub file: PathBuf,
    /// Its first line, without the signs of a comment.
    pub reason: String,
}

/// All Python files that have a program with a console block, and what is wrong with the others.
pub fn scripts(workspace: &Workspace, commands: &[(Block, Program)]) -> (Vec<Script>, Vec<Problem>) {
    let (mut scripts, mut problems) = (Vec::new(), Vec::new());
    for (question, file) in files(workspace, "python") {
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let is_its = |(block, program): &&(Block, Program)| {
            block.question == question && block.command.package == question && program.1 == name
        };
        let its: Vec<_> = commands.iter().enumerate().filter(|(_, command)| is_its(command)).collect();
        // The plain command, if the README has one: a script is run without options, too.
        let shown = its.iter().filter(|(_, (block, _))| is_same_in_python(block));
        match shown.min_by_key(|(_, (block, _))| block.command.arguments.len()) {
            Some((command, (block, _))) => {
                scripts.push(Script { block: of(block, &file), command: *command });
            }
            None if !its.is_empty() => {} // its README shows no block that both languages print
            None => problems.push(Problem {
                place: file.display().to_string(),
                what: format!("the README of `{question}` runs no program `{name}`"),
                question,
            }),
        }
    }
    (scripts, problems)
}

/// All Python programs that do not work.
pub fn broken(workspace: &Workspace) -> io::Result<Vec<Broken>> {
    let broken = |(question, file): (String, PathBuf)| {
        let text = fs::read_to_string(workspace.root.join(&file))?;
        let reason = text.lines().next().unwrap_or_default().trim_matches(['#', '"', ' ']).to_owned();
        Ok(Broken { question, file, reason })
    };
    files(workspace, "python/broken").into_iter().map(broken).collect()
}

/// Each language words its help texts and errors in its own way.
fn is_same_in_python(block: &Block) -> bool {
    block.expected.exit == 0 && !block.command.arguments.iter().any(|argument| argument == "--help")
}

/// The block of a program, for a script that prints the same.
fn of(block: &Block, file: &Path) -> Block {
    let mut block = block.clone();
    block.command.text = format!("python3 {}", file.display());
    // -B: no compiled modules in the source folder.
    let script = ["-B".to_owned(), file.display().to_string()];
    block.command.arguments.splice(0..0, script);
    // What the README says about times, it says about Rust.
    block.expected = Expectation { at_least: None, below: None, ratio: None, ..block.expected };
    block
}

/// The Python files of this folder of each question: the question, and the path from the root.
fn files(workspace: &Workspace, folder: &str) -> Vec<(String, PathBuf)> {
    let mut files = Vec::new();
    for question in fs::read_dir(workspace.examples()).into_iter().flatten().flatten() {
        let question = question.file_name();
        for file in
            fs::read_dir(workspace.examples().join(&question).join(folder)).into_iter().flatten().flatten()
        {
            let path = Path::new("examples").join(&question).join(folder).join(file.file_name());
            if path.extension() == Some(OsStr::new("py")) {
                files.push((question.to_string_lossy().into_owned(), path));
            }
        }
    }
    files.sort();
    files
}

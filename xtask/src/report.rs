//! `cargo xtask report`: builds and starts the package `report`. It is a package of its own so that no other
//! command waits until its template engine is compiled.

use std::env;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;

use crate::programs::{built, cargo_build};
use crate::verify::programs::Workspace;

#[derive(Args)]
pub struct Options {
    /// Where to write the page [default: report.html in the target folder]
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Only the questions with this text in their name
    #[arg(long, value_name = "PATTERN")]
    pub only: Option<String>,
}

/// Replaces this program by the one that writes the report, which reads the same arguments.
pub fn run() -> Result<bool> {
    let workspace = Workspace::load()?;
    let programs = built(cargo_build(&workspace.root).args(["--package", "report"]))?;
    let program = programs.into_iter().find_map(|((_, name), path)| (name == "report").then_some(path));
    let mut program = Command::new(program.context("cargo did not build `report`")?);
    Err(program.args(env::args_os().skip(2)).exec()).context("cannot start `report`")
}

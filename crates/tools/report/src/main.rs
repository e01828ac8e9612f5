//! The arguments of `cargo xtask report`.

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use report::{collect::collect, page};
use xtask::{output, verify::programs::Workspace};

/// Run every program, and write a page that shows the code, output, timelines, charts and tables
#[derive(Parser)]
#[command(bin_name = "cargo xtask report")]
struct Arguments {
    #[command(flatten)]
    options: xtask::report::Options,
}

fn main() -> ExitCode {
    match run(&Arguments::parse().options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::complain(format_args!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(options: &xtask::report::Options) -> Result<()> {
    let workspace = Workspace::load()?;
    let file = options.output.clone().unwrap_or_else(|| workspace.target.join("report.html"));
    fs::create_dir_all(&workspace.target)?;
    let cannot_write = || format!("cannot write {}", file.display());
    // A bad path fails before anything runs.
    fs::OpenOptions::new().append(true).create(true).open(&file).with_context(cannot_write)?;
    let report = collect(&workspace, options.only.as_deref().unwrap_or_default())?;
    fs::write(&file, page::render(&report)?).with_context(cannot_write)?;
    output::line(format_args!("\n{}: open it in a browser", file.display()));
    Ok(())
}

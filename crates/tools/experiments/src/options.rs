//! The command line, and what it asks for.

use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Command, FromArgMatches, ValueEnum};
use tempfile::NamedTempFile;

use crate::experiment::Experiment;
use crate::report::{Report, Verdict};
use crate::{picture, table};

#[derive(Args)]
struct Options {
    /// How to print what was found
    #[arg(long, value_enum, default_value_t = Format::Human)]
    format: Format,
    /// Draw the figures into this file, too
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Format {
    Human,
    Json,
}

/// The whole of a measuring program: reads the command line, runs the experiments, prints, draws. Blocks
/// until then.
///
/// `about` is what `--help` says first. A claim that does not hold is a result like any other; the exit code
/// is 1 only when an experiment failed. A wrong command line ends the program with exit code 2.
///
/// # Errors
/// When the picture cannot be written, which is found out before anything is measured, or standard output
/// cannot.
pub fn run(about: &'static str, experiments: &[Experiment]) -> Result<ExitCode> {
    let options = Options::of_command_line(about);
    let plot = options.plot.as_deref().map(Plot::prepare).transpose()?;
    let report = Report::of(experiments)?;
    let text = match options.format {
        Format::Human => table::render(&report, table::OutputStyle::of_stdout()),
        Format::Json => serde_json::to_string_pretty(&report)? + "\n",
    };
    print(&text).context("cannot write to standard output")?;
    plot.map_or(Ok(()), |plot| plot.draw(&report))?;
    Ok(if report.count(Verdict::NotMeasured) == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Options {
    fn of_command_line(about: &'static str) -> Self {
        let command = Self::augment_args(Command::new("experiments").about(about));
        let matches = command.get_matches(); // usage lines show the program's name, not this one
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }
}

/// A reader who has seen enough (`| head`) is no error.
fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// A file for the picture, under another name until it is whole.
struct Plot {
    path: PathBuf,
    file: NamedTempFile,
}

impl Plot {
    fn prepare(path: &Path) -> Result<Self> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o666); // less the user's umask
        let file = tempfile::Builder::new().permissions(mode).tempfile_in(folder);
        let file = file.with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { path: path.to_owned(), file })
    }

    fn draw(mut self, report: &Report) -> Result<()> {
        let failed = || format!("cannot write {}", self.path.display());
        self.file.write_all(picture::draw(report)?.as_bytes()).with_context(failed)?;
        self.file.persist(&self.path).with_context(failed)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::Command;

    use super::*;

    fn parse(words: &[&str]) -> Result<Options, clap::Error> {
        let command = Options::augment_args(Command::new("test"));
        Options::from_arg_matches(&command.try_get_matches_from(words)?)
    }

    #[test]
    fn the_table_is_the_default() {
        let options = parse(&["test"]).unwrap();
        assert!(options.format == Format::Human && options.plot.is_none());
    }

    #[test]
    fn a_wrong_option_is_exit_code_2() {
        for wrong in [["test", "--format=xml"], ["test", "--fast"], ["test", "more"]] {
            assert_eq!(parse(&wrong).map(|_| ()).unwrap_err().exit_code(), 2);
        }
    }

    #[test]
    fn a_picture_that_cannot_be_written_is_known_at_once() {
        let error = Plot::prepare(Path::new("/nowhere/at/all.svg")).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("/nowhere/at/all.svg"), "{error}");
    }
}

//! Other libraries as entrants of `cargo xtask bench`, each used as well as its interface allows.
//!
//! Each has a program of its own, so that none carries the others' code with it. This is what these programs
//! share: beside the command line of all entrants, each can be started in a role, as another's child.

// A program either works or ends with the error's own words.
#![allow(clippy::missing_errors_doc)]

use std::env;
use std::io::{self, Write};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bench::measure::Scale;
use bench::program::{self, Entry};

/// What a child does, with the arguments that it was started with.
pub type Role = fn(&[&str]) -> Result<()>;

/// Runs the command line. `fresh` takes the time from nothing to the first result.
pub fn run(entries: &[Entry], fresh: fn() -> Result<Duration>, roles: &[(&str, Role)]) -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments.as_slice() {
        ["fresh"] => fresh().map(|time| println!("{}", time.as_secs_f64() * 1e6)),
        ["role", role, arguments @ ..] => play(role, arguments, roles),
        _ => return program::run(entries),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn play(role: &str, arguments: &[&str], roles: &[(&str, Role)]) -> Result<()> {
    let found = roles.iter().find(|(name, _)| *name == role);
    let (_, play) = found.with_context(|| format!("there is no role `{role}`"))?;
    play(arguments)
}

/// A child: this program again, in a role. Dropped, it is killed.
pub struct Player(Child);

impl Player {
    pub fn start(role: &str, arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new(env::current_exe()?);
        command.arg("role").arg(role).args(arguments).stdin(Stdio::piped());
        Ok(Self(command.spawn()?))
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Tells it to go on from where it waits in [`until_told`].
    pub fn go(&self) -> Result<()> {
        Ok(self.0.stdin.as_ref().context("the child has no input")?.write_all(b"\n")?)
    }

    /// Waits until it has ended, as it should.
    pub fn join(mut self) -> Result<()> {
        drop(self.0.stdin.take());
        let status = self.0.wait()?;
        ensure!(status.success(), "a child ended with {status}");
        Ok(())
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// In a child: waits until the parent says [`go`](Player::go).
pub fn until_told() {
    let _ = io::stdin().read_line(&mut String::new());
}

/// In a child: waits until the parent waits for it.
pub fn until_joined() {
    let _ = io::copy(&mut io::stdin(), &mut io::sink());
}

/// As an argument of a role.
pub fn scale_as_word(scale: Scale) -> &'static str {
    if scale.quick { "quick" } else { "full" }
}

/// As it came as an argument of a role.
pub fn scale_of_word(word: &str) -> Scale {
    Scale { quick: word == "quick" }
}

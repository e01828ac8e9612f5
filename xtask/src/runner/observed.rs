//! The observations of one run of a program.

use std::time::Duration;

/// The observations of one run.
#[derive(Clone, Debug)]
pub struct Observed {
    pub stdout: String,
    pub stderr: String,
    pub ending: Ending,
    pub elapsed: Duration,
    /// The processes that outlived the program.
    pub leaked: Vec<Process>,
    /// The files that it left in its temporary folder.
    pub left_behind: Vec<String>,
    /// Whether its output was still open when all its processes were gone.
    pub held_open: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    Exit(i32),
    /// The name of the signal.
    Signal(String),
    /// The runner killed it after its time limit.
    Limit(Duration),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    pub pid: i32,
    pub command: String,
}

impl Observed {
    /// The exit as a console block shows it.
    pub fn shown(&self, stderr: bool) -> String {
        [self.stdout.as_str(), if stderr { &self.stderr } else { "" }].concat()
    }
}

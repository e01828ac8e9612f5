//! Claims that a program measures on the reader's machine: what the measuring programs of questions 1, 2 and
//! 4 share.
//!
//! Such a program is a list of [`Experiment`]s, which [`run`] runs one after another. It prints a table of
//! them (or JSON), shows its progress on a terminal, and draws the figures if `--plot` asks for it.
//!
//! - [`Finding`] is the result of an experiment: whether the claim holds, the figure that says so, points for
//!   a [`Chart`].
//! - [`measure`] takes times and formats them; [`memory`] reads what a process occupies.
//! - [`Machine`] describes the machine.
//! - [`work`] computes for a given time.
//! - [`crash`] ends a process as a bug or a C library does, without a core file or a message.

#![warn(missing_docs)]

mod chart;
mod experiment;
mod load;
mod machine;
mod options;
mod picture;
mod report;
mod table;

pub mod crash;
pub mod measure;
pub mod memory;
pub mod work;

pub use chart::{Chart, Position};
pub use experiment::{Experiment, Finding};
pub use machine::Machine;
pub use options::run;

//! Claims that a program checks on the machine it runs on: what the programs of questions 1, 2 and 4 share.
//!
//! Such a program is a list of [`Claim`]s, which [`run`] checks one after another. It prints a table of them (or JSON),
//! shows on a terminal which one it is at, and draws the figures where `--plot` asks for it.
//!
//! - [`Finding`] is what checking a claim gives: whether it holds, the figure that says so, points for a [`Chart`].
//! - [`measure`] takes times and shows them; [`memory`] looks up what a process occupies.
//! - [`Machine`] says what it was measured on.
//! - [`work`] is something to compute, of any length.
//! - [`crash`] brings a process down in the ways that a bug or a C library does, and leaves no trace of it.

#![warn(missing_docs)]

mod chart;
mod claim;
mod machine;
mod options;
mod picture;
mod report;
mod table;

pub mod crash;
pub mod measure;
pub mod memory;
pub mod work;

pub use chart::{At, Chart};
pub use claim::{Claim, Finding};
pub use machine::Machine;
pub use options::run;

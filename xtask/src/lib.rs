//! The commands of `cargo xtask`, each a module; `src/main.rs` holds the arguments.

// A command either works or ends `cargo xtask` with the error's own words.
#![allow(clippy::missing_errors_doc)]

pub mod bench;
pub mod compare;
pub mod faults;
pub mod output;
pub mod programs;
pub mod report;
pub mod runner;
pub mod trace_check;
pub mod valgrind;
pub mod verify;

//! What `cargo xtask` does. Each command is a module, and `src/main.rs` holds the arguments.

// A command either works or ends `cargo xtask` with the error's own words: there is nobody else to tell.
#![allow(clippy::missing_errors_doc)]

pub mod bench;
pub mod compare;
pub mod faults;
pub mod output;
mod programs;
pub mod runner;
pub mod valgrind;
pub mod verify;

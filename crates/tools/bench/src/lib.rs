//! What `cargo xtask bench` measures: the [cases](case), how a [program] runs one round of one of them, and
//! how [time is taken](measure).
//!
//! A round is a process of its own, which prints one [`Figure`](program::Figure) and checks all of its own
//! work: every item accounted for, every sum right. The entrants are spread over several such programs,
//! which all have the same command line ([`program::run`]): the one of this package holds the library and the
//! *baseline*, that is what can be had by hand without any safety; `crates/tools/bench-peers` holds other
//! libraries, and a script Python's `multiprocessing`. `cargo xtask bench` asks each what it has and then
//! runs their rounds in turn.

// A round either works or ends its program with the error's own words.
#![allow(clippy::missing_errors_doc)]

pub mod case;
pub mod measure;
pub mod proc;
pub mod program;
pub mod real;
pub mod stream;
pub mod usage;
pub mod work;

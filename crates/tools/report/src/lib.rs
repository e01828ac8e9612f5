//! The page that `cargo xtask report` writes: for each question its programs, their code, what they have
//! printed just now beside the Python, and what their processes did; then measured claims and tables.
//!
//! - [`collect`] runs the programs; [`page`] makes one HTML file of what they did.
//! - [`timeline`] reads the trace of a run, [`chart`] the figures of a measuring program, [`markdown`] the
//!   tables under `docs/`.
//! - [`highlight`] colours code.
//!
//! The page has no script, and a policy that forbids every connection.

// An error is shown in its own words.
#![allow(clippy::missing_errors_doc)]

pub mod chart;
pub mod collect;
pub mod highlight;
pub mod markdown;
pub mod page;
mod run;
pub mod timeline;

//! The atomics that processes share memory through. One thin layer, so that a model checker can put its own in place
//! of it: the package `models` compiles the files that use it against those.

pub(crate) use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, fence};

//! The cache of the encodings that were found to fit the types that this process sends.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::{LazyLock, PoisonError, RwLock};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::described::search::{Finding, Subject, find_out, identity};

/// Whether this thread knows that the compact encoding fits a type: one load of a thread-local word.
#[inline]
pub(crate) fn fits<T: Serialize + DeserializeOwned>() -> bool {
    let identity = identity::<T>();
    FITTING.with(|fitting| fitting[slot(identity)].get() == identity)
}

/// The encoding that fits the type of this value.
#[cold]
pub(crate) fn finding(value: &dyn Subject) -> Finding {
    let identity = value.identity();
    let known = FINDINGS.read().unwrap_or_else(PoisonError::into_inner).get(&identity).copied();
    let (found, values) = known.unwrap_or((Finding::Unclear, 0));
    // An unclear type is probed again with the 2nd, 4th, 8th … value. No lock is held while its code runs.
    let values = values.saturating_add(1);
    let is_clear = found != Finding::Unclear;
    let found = if is_clear || !values.is_power_of_two() { found } else { try_out(value) };
    if !is_clear {
        let mut findings = FINDINGS.write().unwrap_or_else(PoisonError::into_inner);
        findings.insert(identity, (found, values));
    }
    if found == Finding::Fits {
        FITTING.with(|fitting| fitting[slot(identity)].set(identity));
    }
    found
}

/// Whether this thread is probing a type, so that a value which is encoded now may be made up.
pub(crate) fn is_trying_out() -> bool {
    TRYING_OUT.get()
}

fn try_out(value: &dyn Subject) -> Finding {
    TRYING_OUT.set(true);
    let found = find_out(value); // which catches panics
    TRYING_OUT.set(false);
    found
}

#[inline]
fn slot(identity: usize) -> usize {
    (identity / 16) % SLOTS
}

const SLOTS: usize = 64;

thread_local! {
    static TRYING_OUT: Cell<bool> = const { Cell::new(false) };
    /// The types that fit; a direct-mapped cache.
    static FITTING: [Cell<usize>; SLOTS] = const { [const { Cell::new(0) }; SLOTS] };
}

/// Each with the number of values that were seen while the finding was unclear.
static FINDINGS: LazyLock<RwLock<HashMap<usize, (Finding, u32)>>> = LazyLock::new(RwLock::default);

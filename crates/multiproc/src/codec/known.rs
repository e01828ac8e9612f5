//! What was found out about the types that this process sends.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::{LazyLock, PoisonError, RwLock};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::described::search::{Finding, Subject, find_out, identity};

/// Whether the compact encoding is known to fit a type: a look at a word of this thread's, for the most part.
#[inline]
pub(crate) fn fits<T: Serialize + DeserializeOwned>() -> bool {
    let identity = identity::<T>();
    FITTING.with(|fitting| fitting[place(identity)].get() == identity)
}

/// Which encoding fits a type, of which this is a value.
#[cold]
pub(crate) fn finding(value: &dyn Subject) -> Finding {
    let identity = value.identity();
    let known = FINDINGS.read().unwrap_or_else(PoisonError::into_inner).get(&identity).copied();
    let (found, values) = known.unwrap_or((Finding::Unclear, 0));
    // While it is unclear, fewer and fewer of the values are looked at. No lock is held, since the type's
    // code runs.
    let values = values.saturating_add(1);
    let is_clear = found != Finding::Unclear;
    let found = if is_clear || !values.is_power_of_two() { found } else { try_out(value) };
    if !is_clear {
        let mut findings = FINDINGS.write().unwrap_or_else(PoisonError::into_inner);
        findings.insert(identity, (found, values));
    }
    if found == Finding::Fits {
        FITTING.with(|fitting| fitting[place(identity)].set(identity));
    }
    found
}

/// Whether a value that this thread encodes is one that is made up, or is encoded on behalf of one.
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
fn place(identity: usize) -> usize {
    (identity / 16) % PLACES
}

const PLACES: usize = 64;

thread_local! {
    static TRYING_OUT: Cell<bool> = const { Cell::new(false) };
    /// The types that fit, each at its place unless another has come there.
    static FITTING: [Cell<usize>; PLACES] = const { [const { Cell::new(0) }; PLACES] };
}

/// With how many values were seen while it was not clear.
static FINDINGS: LazyLock<RwLock<HashMap<usize, (Finding, u32)>>> = LazyLock::new(RwLock::default);

//! The cache of the encodings that fit the types which this process sends.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

use serde_core::Serialize;
use serde_core::de::DeserializeOwned;

use super::described::search::{EncodingChoice, ErasedValue, identity, probe_type};
use crate::sys::process_local::ProcessLocal;

/// Whether this thread knows that the compact encoding fits a type: one load of a thread-local word.
#[inline]
pub(crate) fn fits<T: Serialize + DeserializeOwned>() -> bool {
    let identity = identity::<T>();
    FITTING.with(|fitting| fitting[slot(identity)].get() == identity)
}

/// The encoding that fits the type of this value.
#[cold]
pub(crate) fn encoding_choice(value: &dyn ErasedValue) -> EncodingChoice {
    let identity = value.identity();
    let known = CHOICES.get().read().unwrap_or_else(PoisonError::into_inner).get(&identity).copied();
    let (found, values) = known.unwrap_or((EncodingChoice::Unclear, 0));
    // An unclear type is probed again with the 2nd, 4th, 8th … value. No lock is held while its code runs.
    let values = values.saturating_add(1);
    let is_clear = found != EncodingChoice::Unclear;
    let found = if is_clear || !values.is_power_of_two() { found } else { probe(value) };
    if !is_clear {
        let mut choices = CHOICES.get().write().unwrap_or_else(PoisonError::into_inner);
        choices.insert(identity, (found, values));
    }
    if found == EncodingChoice::Fits {
        FITTING.with(|fitting| fitting[slot(identity)].set(identity));
    }
    found
}

/// Whether this thread is probing a type, so that a value which is encoded now may be made up.
pub(crate) fn is_probing() -> bool {
    PROBING.get()
}

fn probe(value: &dyn ErasedValue) -> EncodingChoice {
    PROBING.set(true);
    let found = probe_type(value); // which catches panics
    PROBING.set(false);
    found
}

#[inline]
fn slot(identity: usize) -> usize {
    (identity / 16) % SLOTS
}

const SLOTS: usize = 64;

thread_local! {
    static PROBING: Cell<bool> = const { Cell::new(false) };
    /// The types that fit; a direct-mapped cache.
    static FITTING: [Cell<usize>; SLOTS] = const { [const { Cell::new(0) }; SLOTS] };
}

/// Each with the number of values that were seen while the choice was unclear. (A hash table would have each
/// child ask the kernel for random keys.)
static CHOICES: ProcessLocal<RwLock<BTreeMap<usize, (EncodingChoice, u32)>>> =
    ProcessLocal::new(|_| RwLock::default());

//! Decides which encoding fits a type, by probing the type with made-up values.
//!
//! The compact encoding fits if the type's `Serialize` writes what its `Deserialize` asks for, in the same
//! order. One value does not show that, because it has not all variants. So the type reads made-up values
//! until each variant of each enum in it has occurred, and each value is encoded again; the records of
//! reading and writing must be equal. That happens once for each type that a process sends, and takes some
//! microseconds for most.
//!
//! Made-up values should do no harm if a type acts on them: numbers name no process or descriptor, text is
//! the path of no file, and a complete made-up value is not dropped. A type that accepts only some text is
//! given text of the value to be sent.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::de::read;
use super::input::Input;
use super::learn::{Examples, Learner, State};
use super::ser::Describer;
use super::tokens;
use crate::codec::Error;

/// The result for a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// The compact encoding fits.
    Fits,
    /// It does not: the type inspects the data, or its two sides differ.
    NeedsNames,
    /// The type accepts none of the made-up values. Text of values sent later may help.
    Unclear,
    /// It cannot be decided.
    Unknown,
}

/// The limits for one type: values without parts, and whole values.
const MOST_LEAVES: u32 = 200_000;
const MOST_ROUNDS: u32 = 5_000;

/// The number of examples of each kind that are taken from a value.
const EXAMPLES: usize = 8;

/// A type and a value of it, behind `dyn`: so the code that uses it is compiled once, not once for each type.
pub(crate) trait Subject {
    /// See [`identity`].
    fn identity(&self) -> usize;

    /// Decodes a value of the type (outer result) and encodes it (inner result). Does not drop a made-up
    /// value.
    fn pass(&self, input: &mut Input, out: Describer<'_>) -> Result<Result<(), Error>, Error>;

    /// Encodes the value.
    fn describe(&self, out: Describer<'_>) -> Result<(), Error>;
}

/// Identifies a type by the address of its `pass`. Types whose code is the same may share one.
#[inline]
pub(crate) fn identity<T: Serialize + DeserializeOwned>() -> usize {
    <T as Subject>::pass as *const () as usize
}

impl<T: Serialize + DeserializeOwned> Subject for T {
    fn identity(&self) -> usize {
        identity::<T>()
    }

    fn pass(&self, input: &mut Input, out: Describer<'_>) -> Result<Result<(), Error>, Error> {
        let value: T = read(input)?;
        let ended = value.serialize(out);
        if input.is_made_up() {
            std::mem::forget(value);
        }
        Ok(ended)
    }

    fn describe(&self, out: Describer<'_>) -> Result<(), Error> {
        self.serialize(out)
    }
}

/// Decides which encoding fits a type. Catches panics of the type's code.
pub(crate) fn find_out(subject: &dyn Subject) -> Finding {
    let search = AssertUnwindSafe(|| search(subject));
    catch_unwind(search).unwrap_or_else(|payload| {
        std::mem::forget(payload); // dropping it may panic once more
        Finding::Unknown
    })
}

fn search(subject: &dyn Subject) -> Finding {
    let mut learner = Learner::default();
    for round in 0..MOST_ROUNDS {
        learner.begin();
        let mut input = Input::made_up(learner);
        let mut given = Vec::new();
        let made = subject.pass(&mut input, Describer::recorder(&mut given));
        let (asked, Some(back)) = input.into_learner() else { return Finding::Unknown };
        learner = back;
        if learner.looks {
            return Finding::NeedsNames;
        }
        match made {
            Ok(written) => {
                match written {
                    Err(error) if !error.is_left_out() => return Finding::Unknown,
                    Err(_) if learner.extreme.is_some() => {} // a field of a struct, which encoding detects
                    Ok(()) if given == asked => {}
                    _ => return Finding::NeedsNames,
                }
                // At least two rounds, so that no `bool` matches by chance.
                if (!learner.settle(State::Done) && round > 0) && learner.has_seen_all() {
                    return Finding::Fits;
                }
            }
            Err(_) if learner.extreme.is_some() => {
                if learner.has_seen_all() {
                    return Finding::Fits;
                }
            }
            Err(error) => {
                if !learner.goes_on_after(&error, || examples(subject)) {
                    return Finding::Unclear;
                }
            }
        }
        if learner.leaves > MOST_LEAVES {
            return Finding::Unknown;
        }
    }
    Finding::Unknown
}

/// Values without parts that occur in the value.
fn examples(subject: &dyn Subject) -> Examples {
    let mut record = Vec::new();
    // The bytes before an error hold examples, too.
    let _ = subject.describe(Describer::recorder(&mut record));
    let mut examples = HashMap::<_, Vec<Vec<u8>>>::new();
    for (kind, token) in tokens(&record) {
        let same = examples.entry(kind).or_default();
        if same.len() < EXAMPLES && !same.iter().any(|other| other == token) {
            same.push(token.to_vec());
        }
    }
    examples
}

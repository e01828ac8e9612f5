//! Which encoding fits a type: found out with values of it that are made up.
//!
//! The compact encoding fits a type if its `Serialize` gives what its `Deserialize` asks for, in the same
//! order. Whether they do cannot be seen in one value of the sender's, which has not all variants. So the
//! type is made to read made-up values, until each variant of each enum in it was there, and each of these is
//! written again: the records of both must be the same. Then the code for each of them was seen to agree.
//! This is done once for each type that a process sends, and takes a few microseconds for most.
//!
//! What is made up is meant to do no harm where a type acts on it: the numbers are those of no process or
//! descriptor, the text is the path of no file, and a made-up value that is complete is not dropped. A type
//! that accepts only some text is given what is in the value to be sent.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::de::{Input, read};
use super::learn::{Examples, Learner, State};
use super::ser::Describer;
use super::tokens;
use crate::codec::Error;

/// What was found out about a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// The compact encoding fits.
    Fits,
    /// It does not: the type looks at what is there, or its two sides differ.
    NeedsNames,
    /// The type takes none of the values that were made up; those that are sent next may show which it takes.
    Unclear,
    /// It was not to be found out.
    Unknown,
}

/// How much may be made up for one type, in single things and in values.
const MOST_LEAVES: u32 = 200_000;
const MOST_ROUNDS: u32 = 5_000;

/// How many examples of each kind are taken from a value.
const EXAMPLES: usize = 8;

/// A type, and a value of it. What is done with it by this trait is not compiled once for each type, which
/// takes up too much room.
pub(crate) trait Subject {
    /// See [`identity`].
    fn identity(&self) -> usize;

    /// Reads a value of the type, and appends it; the result says which of the two has failed. One that is
    /// made up is not dropped.
    fn pass(&self, input: &mut Input, out: Describer<'_>) -> Result<Result<(), Error>, Error>;

    /// Appends the value that is there.
    fn describe(&self, out: Describer<'_>) -> Result<(), Error>;
}

/// The address of what reads and appends a value, which is another for each type unless that does the same
/// for both.
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

/// Finds out which encoding fits a type.
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
                    Err(_) if learner.extreme.is_some() => {} // of a struct, which each value shows
                    Ok(()) if given == asked => {}
                    _ => return Finding::NeedsNames,
                }
                // At least two, so that no `bool` is what it is by chance.
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

/// Single things in a value.
fn examples(subject: &dyn Subject) -> Examples {
    let mut record = Vec::new();
    // What was written before an error are examples, too.
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

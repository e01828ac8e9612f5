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

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde_core::Serialize;
use serde_core::de::DeserializeOwned;

use super::de::read;
use super::input::Input;
use super::probe::{Examples, Prober, State, TupleFields};
use super::ser::Describer;
use super::tokens;
use crate::codec::Error;

/// The result for a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EncodingChoice {
    /// The compact encoding fits.
    Fits,
    /// It does not: the type inspects the data, or its two sides differ.
    NeedsNames,
    /// The type accepts none of the made-up values. Text of values sent later may help.
    Unclear,
    /// It cannot be decided.
    Unknown,
}

/// The most parts that are made up for one type, in all values.
const MOST_PARTS: u32 = 200_000;
/// The most values that are made up for one type.
const MOST_ROUNDS: u32 = 5_000;

/// The number of examples of each kind that are taken from a value.
const EXAMPLES: usize = 8;

/// A type and a value of it, behind `dyn`: so the code that uses it is compiled once, not once for each type.
pub(crate) trait ErasedValue {
    /// See [`identity`].
    fn identity(&self) -> usize;

    /// Decodes a value of the type (outer result) and encodes it (inner result). Does not drop a made-up
    /// value.
    fn round_trip(&self, input: &mut Input, out: Describer<'_>) -> Result<Result<(), Error>, Error>;

    /// Encodes the value.
    fn describe(&self, out: Describer<'_>) -> Result<(), Error>;
}

/// Identifies a type by the address of its `round_trip`. Types whose code is the same may share one.
#[inline]
pub(crate) fn identity<T: Serialize + DeserializeOwned>() -> usize {
    <T as ErasedValue>::round_trip as *const () as usize
}

impl<T: Serialize + DeserializeOwned> ErasedValue for T {
    fn identity(&self) -> usize {
        identity::<T>()
    }

    fn round_trip(&self, input: &mut Input, out: Describer<'_>) -> Result<Result<(), Error>, Error> {
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
pub(crate) fn probe_type(subject: &dyn ErasedValue) -> EncodingChoice {
    let search = AssertUnwindSafe(|| search(subject));
    catch_unwind(search).unwrap_or_else(|payload| {
        std::mem::forget(payload); // dropping it may panic once more
        EncodingChoice::Unknown
    })
}

fn search(subject: &dyn ErasedValue) -> EncodingChoice {
    let mut prober = Prober::default();
    for round in 0..MOST_ROUNDS {
        prober.begin();
        let mut input = Input::made_up(prober);
        let mut given = Vec::new();
        let made = subject.round_trip(&mut input, Describer::recorder(&mut given));
        let (asked, Some(back)) = input.into_prober() else { return EncodingChoice::Unknown };
        prober = back;
        if prober.inspects_data {
            return EncodingChoice::NeedsNames;
        }
        match made {
            Ok(written) => {
                match written {
                    Err(error) if !error.is_left_out() => return EncodingChoice::Unknown,
                    // A field of a struct, which encoding detects.
                    Err(_) if prober.tuple_fields != TupleFields::MadeUp => {}
                    Ok(()) if given == asked => {}
                    _ => return EncodingChoice::NeedsNames,
                }
                // At least two rounds, so that no `bool` matches by chance.
                if (!prober.mark_branches(State::Done) && round > 0) && !prober.next_tuple_fields() {
                    return EncodingChoice::Fits;
                }
            }
            Err(_) if prober.tuple_fields != TupleFields::MadeUp => {
                if !prober.next_tuple_fields() {
                    return EncodingChoice::Fits;
                }
            }
            Err(error) => {
                if !prober.goes_on_after(&error, || examples(subject)) {
                    return EncodingChoice::Unclear;
                }
            }
        }
        if prober.parts > MOST_PARTS {
            return EncodingChoice::Unknown;
        }
    }
    EncodingChoice::Unknown
}

/// Values without parts that occur in the value.
fn examples(subject: &dyn ErasedValue) -> Examples {
    let mut record = Vec::new();
    // The bytes before an error hold examples, too.
    let _ = subject.describe(Describer::recorder(&mut record));
    let mut examples = BTreeMap::<_, Vec<Vec<u8>>>::new();
    for (kind, token) in tokens(&record) {
        let same = examples.entry(kind).or_default();
        if same.len() < EXAMPLES && !same.iter().any(|other| other == token) {
            same.push(token.to_vec());
        }
    }
    examples
}

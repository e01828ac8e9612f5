//! The generated types arrive, whatever their parts are.

use proptest::collection::{btree_map, vec};

use super::flattened::flattened_types_arrive;
use super::functions::types_with_functions_arrive;
use super::*;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum PartKind {
    Plain,
    /// Serde's own buffer does not take it.
    Wide,
    /// Its type needs names.
    Named,
}

fn types_arrive<X: Part>(a: &X, b: &X, n: u8, kind: PartKind) -> Result<(), TestCaseError> {
    all_arrive(a, b, n, kind)?;
    flattened_types_arrive(a, b, n, kind)?;
    types_with_functions_arrive(a, b, n, kind)
}

macro_rules! for_each_part {
    ($($test:ident: $parts:expr, $kind:ident;)*) => {
        proptest! {
            #![proptest_config(cases(24))]
            $(
                #[test]
                fn $test(a in $parts, b in $parts, n in any::<u8>()) {
                    types_arrive(&a, &b, n, PartKind::$kind)?;
                }
            )*
        }
    };
}

for_each_part! {
    types_of_numbers_arrive: any::<u16>(), Plain;
    types_of_wide_numbers_arrive: any::<i128>(), Wide;
    types_of_wide_unsigned_numbers_arrive: any::<u128>(), Wide;
    types_of_text_and_options_arrive: any::<(String, Option<Option<bool>>)>(), Plain;
    types_of_maps_and_sequences_arrive: maps(), Plain;
}

fn maps() -> impl Strategy<Value = BTreeMap<(u8, char), Vec<i64>>> {
    btree_map(any::<(u8, char)>(), vec(any::<i64>(), 0..8), 0..12)
}

/// A part that itself inspects the data, with another one in it.
type Tagged = Adjacent<Flat<u16>>;

fn tagged() -> impl Strategy<Value = Tagged> {
    any::<(u16, u8, u8)>().prop_map(|(a, m, n)| {
        let flat = Flat { n, inner: Named2 { a, m } };
        match n % 4 {
            0 => Tagged::Unit,
            1 => Tagged::One(flat),
            2 => Tagged::Two(flat, m),
            _ => Tagged::Named { a: flat, n },
        }
    })
}

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn types_of_types_with_attributes_arrive(a in tagged(), b in tagged(), n in any::<u8>()) {
        types_arrive(&a, &b, n, PartKind::Named)?;
    }
}

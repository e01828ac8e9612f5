//! The generated types arrive, whatever their parts are.

use super::flattened::flattened_types_arrive;
use super::functions::types_with_functions_arrive;
use super::*;

fn types_arrive<X: Part>(a: &X, b: &X, n: u8, is_wide: bool) -> Result<(), TestCaseError> {
    all_arrive(a, b, n, is_wide)?;
    flattened_types_arrive(a, b, n, is_wide)?;
    types_with_functions_arrive(a, b, n, is_wide)
}

macro_rules! for_each_part {
    ($($test:ident: $part:ty $(, $is_wide:literal)?;)*) => {
        proptest! {
            #![proptest_config(cases(24))]
            $(
                #[test]
                fn $test(a in any::<$part>(), b in any::<$part>(), n in any::<u8>()) {
                    let is_wide = false $(|| $is_wide)?;
                    types_arrive::<$part>(&a, &b, n, is_wide)?;
                }
            )*
        }
    };
}

for_each_part! {
    types_of_numbers_arrive: u16;
    types_of_wide_numbers_arrive: i128, true;
    types_of_wide_unsigned_numbers_arrive: u128, true;
    types_of_text_and_options_arrive: (String, Option<Option<bool>>);
    types_of_maps_and_sequences_arrive: BTreeMap<(u8, char), Vec<i64>>;
}

/// A part that itself inspects the data, with another one in it.
type Tagged = Adjacent<Flat<u16>>;

impl Default for Tagged {
    fn default() -> Self {
        Self::Unit
    }
}

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
        types_arrive(&a, &b, n, false)?;
    }
}

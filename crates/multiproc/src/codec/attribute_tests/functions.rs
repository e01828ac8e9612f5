//! Types with fields and variants that functions of theirs write or read.

use super::*;

types! {
    pub(super) fn types_with_functions_arrive;

    struct ReadApart { #[serde(deserialize_with = "as_text::from_wide")] number: u64, n: u8 }
    of |_a, _b, n| [ReadApart { number: n.into(), n } => ReadApart { number: n.into(), n }] Arrive

    struct ReadOther { #[serde(deserialize_with = "as_text::next")] number: u64, n: u8 }
    of |_a, _b, n| [ReadOther { number: n.into(), n } => ReadOther { number: n.into(), n }] Fail

    enum WithVariant<X> { One(X), #[serde(with = "as_text")] Number(u64) }
    of |a, _b, n| [
        WithVariant::One(a.clone()) => WithVariant::One(a.clone()),
        WithVariant::<X>::Number(n.into()) => WithVariant::Number(n.into()),
    ] Arrive

    #[serde(tag = "kind", content = "what")]
    enum WithTaggedVariant<X> { One(X), #[serde(with = "as_text")] Number(u64) }
    of |a, _b, n| [
        WithTaggedVariant::One(a.clone()) => WithTaggedVariant::One(a.clone()),
        WithTaggedVariant::<X>::Number(n.into()) => WithTaggedVariant::Number(n.into()),
    ] Arrive
}

#[test]
fn an_error_names_the_function_that_reads_something_else() {
    let other = ReadOther { number: 1, n: 2 };
    let error = wire::encode(&other, &mut Vec::new(), "it").unwrap_err().to_string();
    assert!(error.contains("`deserialize_with`"), "{error}");
}

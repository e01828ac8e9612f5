//! Types with a part whose fields are among their own, and sequences that do not say their length.

use super::conversions::NoLength;
use super::names::fits;
use super::*;

types! {
    pub(super) fn flattened_types_arrive;

    struct FlatEnum<X> { number: u8, #[serde(flatten)] what: External<X>, b: X }
    of |a, b, n| [
        FlatEnum { number: n, what: External::Unit, b: b.clone() } =>
            FlatEnum { number: n, what: External::Unit, b: b.clone() },
        FlatEnum { number: n, what: External::One(a.clone()), b: b.clone() } =>
            FlatEnum { number: n, what: External::One(a.clone()), b: b.clone() },
        FlatEnum { number: n, what: External::Two(a.clone(), n), b: b.clone() } =>
            FlatEnum { number: n, what: External::Two(a.clone(), n), b: b.clone() },
        FlatEnum { number: n, what: External::Named { a: a.clone(), n }, b: b.clone() } =>
            FlatEnum { number: n, what: External::Named { a: a.clone(), n }, b: b.clone() },
    ] ArriveBuffered

    struct FlatInternal<X> { number: u8, #[serde(flatten)] what: Internal<X> }
    of |a, b, n| [
        FlatInternal::<X> { number: n, what: Internal::Unit } =>
            FlatInternal { number: n, what: Internal::Unit },
        FlatInternal { number: n, what: Internal::One(Named { a: a.clone(), n, b: b.clone() }) } =>
            FlatInternal { number: n, what: Internal::One(Named { a: a.clone(), n, b: b.clone() }) },
        FlatInternal { number: n, what: Internal::Named { a: a.clone(), n } } =>
            FlatInternal { number: n, what: Internal::Named { a: a.clone(), n } },
    ] ArriveBuffered

    struct FlatAdjacent<X> { number: u8, #[serde(flatten)] what: Adjacent<X> }
    of |a, _b, n| [
        FlatAdjacent::<X> { number: n, what: Adjacent::Unit } =>
            FlatAdjacent { number: n, what: Adjacent::Unit },
        FlatAdjacent { number: n, what: Adjacent::One(a.clone()) } =>
            FlatAdjacent { number: n, what: Adjacent::One(a.clone()) },
        FlatAdjacent { number: n, what: Adjacent::Named { a: a.clone(), n } } =>
            FlatAdjacent { number: n, what: Adjacent::Named { a: a.clone(), n } },
    ] ArriveBuffered

    struct FlatOption<X> { n: u8, #[serde(flatten)] inner: Option<Named2<X>> }
    of |a, _b, n| [
        FlatOption::<X> { n, inner: None } => FlatOption { n, inner: None },
        FlatOption { n, inner: Some(Named2 { a: a.clone(), m: 3 }) } =>
            FlatOption { n, inner: Some(Named2 { a: a.clone(), m: 3 }) },
    ] ArriveBuffered

    struct Uncounted<X> { list: NoLength<X>, m: u8 }
    of |a, b, n| [
        Uncounted::<X> { list: NoLength(Vec::new()), m: n } => Uncounted { list: NoLength(Vec::new()), m: n },
        Uncounted { list: NoLength(vec![a.clone(), b.clone()]), m: n } =>
            Uncounted { list: NoLength(vec![a.clone(), b.clone()]), m: n },
    ] Arrive

    struct FlatUncounted<X> { n: u8, #[serde(flatten)] inner: Uncounted<X> }
    of |a, b, n| [
        FlatUncounted { n, inner: Uncounted { list: NoLength(vec![a.clone(), b.clone()]), m: 3 } } =>
            FlatUncounted { n, inner: Uncounted { list: NoLength(vec![a.clone(), b.clone()]), m: 3 } },
    ] ArriveBuffered
}

#[test]
fn a_sequence_that_does_not_say_its_length_needs_no_names() {
    let uncounted = Uncounted { list: NoLength(vec![1, 2]), m: 3 };
    assert!(fits(&uncounted));
    assert!(!fits(&FlatUncounted { n: 4, inner: uncounted }));
}

//! Types with serde's attributes: each value arrives as it was sent, or is an error.

mod conversions;
mod entries;
mod flattened;
mod functions;
mod names;
mod parts;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;

use proptest::prelude::*;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::ipc::wire::{self, Transferable};
use crate::testing::cases;

use self::conversions::{Foreign, as_text, elsewhere, list, tagged_tree, tree};
use self::entries::Entries;
use self::parts::PartKind;

/// Generates generic types, each with a value made from three values of its parameter, and the expected
/// outcome.
macro_rules! types {
    ($visible:vis fn $all_arrive:ident; $(
        $(#[$meta:meta])*
        $kind:ident $name:ident $(<$T:ident $(: $bound:ident $(+ $more:ident)?)?>)?
        $({$($fields:tt)*})? $(($($tuple:tt)*);)?
        of |$a:ident, $b:ident, $n:ident| [$($value:expr => $arrives:expr),+ $(,)?] $must:ident
    )*) => {
        $(
            #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
            $(#[$meta])*
            $kind $name $(<$T $(: $bound $(+ $more)?)?>)? $({$($fields)*})? $(($($tuple)*);)?
        )*

        /// Sends values of each type.
        #[allow(unused_variables)] // not each value needs both
        $visible fn $all_arrive<X: Part>(
            a: &X,
            b: &X,
            n: u8,
            kind: PartKind,
        ) -> Result<(), TestCaseError> {
            $({
                let ($a, $b, $n) = (a, b, n);
                $(arrives::<_>(&$value, &$arrives, Must::$must, kind)?;)+
            })*
            Ok(())
        }
    };
}

/// The parameters of the generated types.
trait Part: Default + Value {}

impl<X: Default + Value> Part for X {}

/// A value that can be sent and compared.
trait Value: Clone + Debug + PartialEq + Transferable {}

impl<X: Clone + Debug + PartialEq + Transferable> Value for X {}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Must {
    /// It arrives.
    Arrive,
    /// As the first, unless serde's own buffer does not take its parameter.
    ArriveBuffered,
    /// As the first, unless its parameter needs names: the two names of a field then differ.
    ArriveUnnamed,
    /// It arrives as it was sent, or is an error.
    NotDiffer,
    /// Sending it is an error that contains this text.
    Fail,
}

fn arrives<T: Value>(value: &T, expected: &T, must: Must, kind: PartKind) -> Result<(), TestCaseError> {
    let among = |value: &T| {
        let map = Entries(vec![((1, 'a'), value.clone()), ((2, 'b'), value.clone())]);
        (value.clone(), 7_u8, map, Some(vec![value.clone()]), 0xdead_beef_u32)
    };
    check(&among(value), &among(expected), value, must, kind)
}

fn check<T: PartialEq + Transferable>(
    sent: &T,
    expected: &T,
    value: &dyn Debug,
    must: Must,
    kind: PartKind,
) -> Result<(), TestCaseError> {
    let mut bytes = Vec::new();
    let sent = wire::encode(sent, &mut bytes, "it");
    let must_arrive = match must {
        Must::Arrive => true,
        Must::ArriveBuffered => kind != PartKind::Wide,
        Must::ArriveUnnamed => kind != PartKind::Named,
        Must::NotDiffer | Must::Fail => false,
    };
    match sent.and_then(|()| wire::decode::<T>(&bytes, Vec::new(), "it")) {
        Ok(arrived) => {
            prop_assert!(must != Must::Fail, "it is not refused: {:?}", value);
            prop_assert!(arrived == *expected, "another value arrives: {:?}", value);
        }
        Err(error) => prop_assert!(!must_arrive, "{:?}: {}", value, error),
    }
    Ok(())
}

fn is_default<X: Default + PartialEq>(value: &X) -> bool {
    *value == X::default()
}

pub(super) use types;

types! {
    fn all_arrive;

    struct Named<X> { a: X, n: u8, b: X }
    of |a, b, n| [Named { a: a.clone(), n, b: b.clone() } => Named { a: a.clone(), n, b: b.clone() }] Arrive

    struct Tuple<X>(X, u8, X);
    of |a, b, n| [Tuple(a.clone(), n, b.clone()) => Tuple(a.clone(), n, b.clone())] Arrive

    struct Newtype<X>(X);
    of |a, _b, _n| [Newtype(a.clone()) => Newtype(a.clone())] Arrive

    #[serde(transparent)]
    struct Transparent<X> { inner: X }
    of |a, _b, _n| [Transparent { inner: a.clone() } => Transparent { inner: a.clone() }] Arrive

    enum External<X> { Unit, One(X), Two(X, u8), Named { a: X, n: u8 } }
    of |a, _b, n| [
        External::<X>::Unit => External::Unit,
        External::One(a.clone()) => External::One(a.clone()),
        External::Two(a.clone(), n) => External::Two(a.clone(), n),
        External::Named { a: a.clone(), n } => External::Named { a: a.clone(), n },
    ] Arrive

    #[derive(Default)]
    #[serde(tag = "kind", content = "what")]
    enum Adjacent<X> { #[default] Unit, One(X), Two(X, u8), Named { a: X, n: u8 } }
    of |a, _b, n| [
        Adjacent::<X>::Unit => Adjacent::Unit,
        Adjacent::One(a.clone()) => Adjacent::One(a.clone()),
        Adjacent::Two(a.clone(), n) => Adjacent::Two(a.clone(), n),
        Adjacent::Named { a: a.clone(), n } => Adjacent::Named { a: a.clone(), n },
    ] Arrive

    #[serde(tag = "kind", content = "what", deny_unknown_fields)]
    enum AdjacentOnly<X> { One(X), Other(X) }
    of |a, b, _n| [
        AdjacentOnly::One(a.clone()) => AdjacentOnly::One(a.clone()),
        AdjacentOnly::Other(b.clone()) => AdjacentOnly::Other(b.clone()),
    ] Arrive

    #[serde(tag = "kind")]
    enum Internal<X> { Unit, One(Named<X>), Named { a: X, n: u8 } }
    of |a, b, n| [
        Internal::<X>::Unit => Internal::Unit,
        Internal::One(Named { a: a.clone(), n, b: b.clone() }) =>
            Internal::One(Named { a: a.clone(), n, b: b.clone() }),
        Internal::Named { a: a.clone(), n } => Internal::Named { a: a.clone(), n },
    ] ArriveBuffered

    #[serde(untagged)]
    enum Untagged<X> { Named { a: X, n: u8 }, Pair(X, u8, u8) }
    of |a, _b, n| [
        Untagged::Named { a: a.clone(), n } => Untagged::Named { a: a.clone(), n },
        Untagged::Pair(a.clone(), n, n) => Untagged::Pair(a.clone(), n, n),
    ] ArriveBuffered

    // Which of them fits first depends on the parameter.
    #[serde(untagged)]
    enum Ambiguous<X> { Small(u8), Text(String), One(X), Large(u64), Maybe(Option<i64>) }
    of |a, _b, n| [
        Ambiguous::<X>::Small(n) => Ambiguous::Small(n),
        Ambiguous::<X>::Text("text".into()) => Ambiguous::Text("text".into()),
        Ambiguous::<X>::Large(n.into()) => Ambiguous::Large(n.into()),
    ] NotDiffer

    enum PartlyUntagged<X> { Unit, One(X), #[serde(untagged)] Named { a: X, n: u8 } }
    of |a, _b, n| [
        PartlyUntagged::<X>::Unit => PartlyUntagged::Unit,
        PartlyUntagged::One(a.clone()) => PartlyUntagged::One(a.clone()),
        PartlyUntagged::Named { a: a.clone(), n } => PartlyUntagged::Named { a: a.clone(), n },
    ] ArriveBuffered

    struct Flat<X> { n: u8, #[serde(flatten)] inner: Named2<X> }
    of |a, _b, n| [
        Flat { n, inner: Named2 { a: a.clone(), m: 3 } } => Flat { n, inner: Named2 { a: a.clone(), m: 3 } },
    ] ArriveBuffered

    struct Named2<X> { a: X, m: u8 }
    of |a, _b, n| [Named2 { a: a.clone(), m: n } => Named2 { a: a.clone(), m: n }] Arrive

    struct FlatMap<X> { n: u8, #[serde(flatten)] rest: BTreeMap<String, X> }
    of |a, b, n| [
        FlatMap::<X> { n, rest: BTreeMap::new() } => FlatMap { n, rest: BTreeMap::new() },
        FlatMap { n, rest: BTreeMap::from([("x".into(), a.clone()), ("y".into(), b.clone())]) } =>
            FlatMap { n, rest: BTreeMap::from([("x".into(), a.clone()), ("y".into(), b.clone())]) },
    ] ArriveBuffered

    struct FlatNumbers<X> { n: X, #[serde(flatten)] rest: HashMap<u32, bool> }
    of |a, _b, _n| [
        FlatNumbers { n: a.clone(), rest: HashMap::from([(5, true), (6, false)]) } =>
            FlatNumbers { n: a.clone(), rest: HashMap::from([(5, true), (6, false)]) },
    ] NotDiffer

    struct Renamed<X> { #[serde(rename = "c d")] a: X, #[serde(alias = "e")] n: u8 }
    of |a, _b, n| [Renamed { a: a.clone(), n } => Renamed { a: a.clone(), n }] Arrive

    #[serde(rename_all = "SCREAMING-KEBAB-CASE", rename_all_fields = "camelCase")]
    enum RenamedAll<X> { TheFirst { the_field: X }, #[serde(rename = "2", alias = "zwei")] TheSecond(u8) }
    of |a, _b, n| [
        RenamedAll::TheFirst { the_field: a.clone() } => RenamedAll::TheFirst { the_field: a.clone() },
        RenamedAll::<X>::TheSecond(n) => RenamedAll::TheSecond(n),
    ] Arrive

    struct RenamedApart<X> { #[serde(rename(serialize = "p", deserialize = "q"))] a: X, n: u8 }
    of |a, _b, n| [RenamedApart { a: a.clone(), n } => RenamedApart { a: a.clone(), n }] ArriveUnnamed

    #[derive(Default)]
    #[serde(default)]
    struct Defaults<X: Default> { a: X, n: u8 }
    of |a, _b, n| [Defaults { a: a.clone(), n } => Defaults { a: a.clone(), n }] Arrive

    struct Skip<X: Default> { #[serde(skip)] a: X, n: u8, b: X }
    of |a, b, n| [
        Skip { a: a.clone(), n, b: b.clone() } => Skip { a: X::default(), n, b: b.clone() },
    ] Arrive

    struct SkipInTuple<X: Default>(#[serde(skip)] X, u8, X);
    of |a, b, n| [SkipInTuple(a.clone(), n, b.clone()) => SkipInTuple(X::default(), n, b.clone())] Arrive

    struct SkipSerializing<X: Default> { #[serde(skip_serializing, default)] a: X, n: u8, b: X }
    of |a, b, n| [
        SkipSerializing { a: a.clone(), n, b: b.clone() } =>
            SkipSerializing { a: X::default(), n, b: b.clone() },
    ] Arrive

    struct SkipAndNeed { #[serde(skip_serializing)] m: u8, n: u8, o: u8 }
    of |_a, _b, n| [SkipAndNeed { m: n, n, o: n } => SkipAndNeed { m: n, n, o: n }] Fail

    struct SkipDeserializing<X: Default> { #[serde(skip_deserializing)] a: X, n: u8, b: X }
    of |a, b, n| [
        SkipDeserializing { a: a.clone(), n, b: b.clone() } =>
            SkipDeserializing { a: X::default(), n, b: b.clone() },
    ] Arrive

    struct SkipEach<X: Default> {
        #[serde(skip_serializing, default)] a: X,
        n: u8,
        #[serde(skip_deserializing)] b: X,
    }
    of |a, b, n| [
        SkipEach { a: a.clone(), n, b: b.clone() } => SkipEach { a: X::default(), n, b: X::default() },
    ] Arrive

    struct SkipIf<X: Default + PartialEq> {
        #[serde(skip_serializing_if = "is_default", default)] a: X,
        #[serde(skip_serializing_if = "Option::is_none", default)] maybe: Option<u16>,
        n: u8,
    }
    of |a, _b, n| [
        SkipIf { a: a.clone(), maybe: None, n } => SkipIf { a: a.clone(), maybe: None, n },
        SkipIf { a: a.clone(), maybe: Some(9), n } => SkipIf { a: a.clone(), maybe: Some(9), n },
        SkipIf { a: X::default(), maybe: Some(9), n } => SkipIf { a: X::default(), maybe: Some(9), n },
    ] Arrive

    struct SkipIfAndNeed<X> { #[serde(skip_serializing_if = "Vec::is_empty")] list: Vec<X>, n: u8 }
    of |_a, _b, n| [
        SkipIfAndNeed::<X> { list: Vec::new(), n } => SkipIfAndNeed { list: Vec::new(), n },
    ] Fail

    struct SkipIfOther<X> { #[serde(skip_serializing_if = "is_default", default = "nine")] n: u8, a: X }
    of |a, _b, _n| [
        SkipIfOther { n: 0, a: a.clone() } => SkipIfOther { n: 0, a: a.clone() },
    ] Fail

    enum SkipIfVariant<X> {
        Named { #[serde(skip_serializing_if = "Option::is_none", default)] maybe: Option<X>, n: u8 },
    }
    of |a, _b, n| [
        SkipIfVariant::<X>::Named { maybe: None, n } => SkipIfVariant::Named { maybe: None, n },
        SkipIfVariant::Named { maybe: Some(a.clone()), n } =>
            SkipIfVariant::Named { maybe: Some(a.clone()), n },
    ] Arrive

    struct SkipIfInTuple(
        #[serde(skip_serializing_if = "Option::is_none", default)] Option<u8>,
        #[serde(default)] Option<u8>,
    );
    of |_a, _b, n| [
        SkipIfInTuple(None, Some(n)) => SkipIfInTuple(None, Some(n)),
        SkipIfInTuple(Some(n), None) => SkipIfInTuple(Some(n), None),
    ] NotDiffer

    enum SkipIfInVariant { Two(#[serde(skip_serializing_if = "is_default")] u8, u8) }
    of |_a, _b, n| [
        SkipIfInVariant::Two(0, n) => SkipIfInVariant::Two(0, n),
        SkipIfInVariant::Two(n, n) => SkipIfInVariant::Two(n, n),
    ] NotDiffer

    struct Crossed {
        #[serde(rename(serialize = "p", deserialize = "q"))] a: u8,
        #[serde(rename(serialize = "q", deserialize = "p"))] b: u8,
        #[serde(flatten)] rest: BTreeMap<String, u8>,
    }
    of |_a, _b, n| [
        Crossed { a: n, b: n.wrapping_add(1), rest: BTreeMap::new() } =>
            Crossed { a: n, b: n.wrapping_add(1), rest: BTreeMap::new() },
    ] NotDiffer

    enum SkipVariant<X> { One(X), #[serde(skip)] #[allow(dead_code)] Never, Two(X), Three(u8) }
    of |a, b, n| [
        SkipVariant::One(a.clone()) => SkipVariant::One(a.clone()),
        SkipVariant::Two(b.clone()) => SkipVariant::Two(b.clone()),
        SkipVariant::<X>::Three(n) => SkipVariant::Three(n),
    ] Arrive

    enum SkipVariantThere<X> { One(X), #[serde(skip_deserializing)] Lost(X), Two(X) }
    of |a, _b, _n| [
        SkipVariantThere::Lost(a.clone()) => SkipVariantThere::Lost(a.clone()),
    ] Fail

    enum Other { Known, #[serde(other)] Unknown }
    of |_a, _b, _n| [Other::Known => Other::Known, Other::Unknown => Other::Unknown] Arrive

    #[serde(tag = "kind")]
    enum OtherTagged { Known { n: u8 }, #[serde(other)] Unknown }
    of |_a, _b, n| [
        OtherTagged::Known { n } => OtherTagged::Known { n },
        OtherTagged::Unknown => OtherTagged::Unknown,
    ] Arrive

    #[serde(tag = "type")]
    struct TaggedStruct<X> { a: X, n: u8 }
    of |a, _b, n| [TaggedStruct { a: a.clone(), n } => TaggedStruct { a: a.clone(), n }] Arrive

    struct With<X> { #[serde(with = "as_text")] number: u64, a: X }
    of |a, _b, n| [
        With { number: n.into(), a: a.clone() } => With { number: n.into(), a: a.clone() },
    ] Arrive

    struct WithApart { #[serde(serialize_with = "as_text::wide")] number: u64, n: u8 }
    of |_a, _b, n| [WithApart { number: n.into(), n } => WithApart { number: n.into(), n }] Arrive

    #[serde(into = "u32", try_from = "u64")]
    struct Through(u32);
    of |_a, _b, n| [Through(n.into()) => Through(n.into())] Arrive

    struct Remote { #[serde(with = "Foreign")] elsewhere: elsewhere::Point, n: u8 }
    of |_a, _b, n| [
        Remote { elsewhere: elsewhere::point(1, n), n } => Remote { elsewhere: elsewhere::point(1, n), n },
    ] Arrive

    struct Borrowing { text: Cow<'static, str>, bytes: Cow<'static, [u8]>, n: u8 }
    of |_a, _b, n| [
        Borrowing { text: "text".into(), bytes: vec![n].into(), n } =>
            Borrowing { text: "text".into(), bytes: vec![n].into(), n },
    ] Arrive

    struct List<X> { a: X, next: Option<Box<List<X>>> }
    of |a, b, _n| [list(a, b) => list(a, b)] Arrive

    enum Tree<X> { Both(Box<Tree<X>>, Box<Tree<X>>), Many(Vec<Tree<X>>), Leaf(X) }
    of |a, b, _n| [tree(a, b) => tree(a, b)] Arrive

    #[serde(tag = "kind", content = "of")]
    enum TaggedTree<X> { Both(Box<TaggedTree<X>>, Box<TaggedTree<X>>), Leaf(X), End }
    of |a, b, _n| [tagged_tree(a, b) => tagged_tree(a, b)] Arrive

    struct SkippingTree<X> {
        a: X,
        #[serde(skip_serializing_if = "Vec::is_empty", default = "Vec::new")] inner: Vec<SkippingTree<X>>,
    }
    of |a, b, _n| [
        SkippingTree { a: a.clone(), inner: vec![SkippingTree { a: b.clone(), inner: Vec::new() }] } =>
            SkippingTree { a: a.clone(), inner: vec![SkippingTree { a: b.clone(), inner: Vec::new() }] },
    ] Arrive
}

fn nine() -> u8 {
    9
}

impl From<Through> for u32 {
    fn from(through: Through) -> Self {
        through.0
    }
}

impl TryFrom<u64> for Through {
    type Error = std::num::TryFromIntError;

    fn try_from(number: u64) -> Result<Self, Self::Error> {
        u32::try_from(number).map(Self)
    }
}

//! The compact encoding: every value comes back, and invalid bytes are an error.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::time::Duration;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use serde::ser::SerializeStruct as _;
use serde::{Deserialize, Serialize};

use super::*;
use crate::impl_serde::impl_serde;
use crate::testing::{cases, thread_time};

/// Every kind of serde's data model, nested.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Shape {
    Nothing,
    Small((u8, i8, u16, i16, bool, char)),
    Large(u32, i32, u64, i64, u128, i128, f32, f64),
    Text { own: String, bytes: serde_bytes::ByteBuf, empty: Empty, array: [u16; 3] },
    List(Vec<Shape>),
    Map(BTreeMap<String, Shape>),
    Maybe(Option<Box<Shape>>),
    Wrapped(Wrapper),
    Units(Vec<()>),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Empty;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Wrapper(Box<Shape>);

fn shape() -> impl Strategy<Value = Shape> {
    let leaf = prop_oneof![
        Just(Shape::Nothing),
        any::<(u8, i8, u16, i16, bool, char)>().prop_map(Shape::Small),
        any::<(u32, i32, u64, i64, u128, i128, f32, f64)>()
            .prop_map(|(a, b, c, d, e, f, g, h)| Shape::Large(a, b, c, d, e, f, g, h)),
        (any::<String>(), any::<Vec<u8>>(), any::<[u16; 3]>()).prop_map(|(own, bytes, array)| {
            Shape::Text { own, bytes: bytes.into(), empty: Empty, array }
        }),
        (0..9_usize).prop_map(|count| Shape::Units(vec![(); count])),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Shape::List),
            btree_map(any::<String>(), inner.clone(), 0..4).prop_map(Shape::Map),
            proptest::option::of(inner.clone().prop_map(Box::new)).prop_map(Shape::Maybe),
            inner.prop_map(|shape| Shape::Wrapped(Wrapper(Box::new(shape)))),
        ]
    })
}

proptest! {
    #![proptest_config(cases(200))]

    #[test]
    fn a_value_comes_back_as_it_went(shape in shape()) {
        let mut bytes = bytes(&shape);
        bytes.push(0xab);
        prop_assert_eq!(decode::<Shape>(&bytes).unwrap(), (shape, &[0xab][..]));
    }

    #[test]
    fn a_value_cut_off_is_an_error(shape in shape(), at in any::<prop::sample::Index>()) {
        let bytes = bytes(&shape);
        prop_assert!(decode::<Shape>(&bytes[..at.index(bytes.len())]).is_err());
    }

    #[test]
    fn damaged_bytes_are_an_error_or_another_value(
        shape in shape(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = bytes(&shape);
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let _ = decode::<Shape>(&bytes);
    }

    #[test]
    fn any_bytes_are_an_error_or_a_value(
        // Small numbers, of which lengths, tags and variants consist.
        bytes in vec(prop_oneof![3 => 0..9_u8, 1 => any::<u8>()], 0..200),
    ) {
        let _ = decode::<Shape>(&bytes);
        let _ = decode::<(bool, char, Option<u64>, f32)>(&bytes);
        let _ = decode::<Vec<()>>(&bytes);
        let _ = decode::<(Vec<String>, BTreeSet<i16>)>(&bytes);
        let _ = decode::<HashMap<String, Vec<Option<[u8; 3]>>>>(&bytes);
        let _ = decode::<(Duration, std::net::IpAddr, std::path::PathBuf)>(&bytes);
        let _ = decode::<Result<Vec<std::num::NonZeroU8>, Box<Wrapper>>>(&bytes);
        let _ = decode::<crate::error::Error>(&bytes);
    }
}

#[test]
fn a_length_beyond_the_end_is_refused_at_once() {
    for length in [9_u64, 1 << 20, 1 << 60, u64::MAX] {
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend([0; 8]);
        let expected = format!("{length} bytes or more expected at byte 8, 8 left");
        assert_eq!(refused::<Vec<()>>(&bytes), expected);
        assert_eq!(refused::<Vec<Skipped>>(&bytes), expected);
        assert_eq!(refused::<Vec<u64>>(&bytes), expected);
        assert_eq!(refused::<String>(&bytes), expected);
        assert_eq!(refused::<HashMap<(), u8>>(&bytes), expected);
        assert_eq!(refused::<serde_bytes::ByteBuf>(&bytes), expected);
    }
}

/// Large in memory, empty when encoded.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Skipped {
    #[serde(skip)]
    _large: [u64; 32],
}

#[test]
fn elements_without_bytes_count() {
    let units = bytes(&vec![(); 1000]);
    assert_eq!(decode::<Vec<()>>(&units).unwrap().0.len(), 1000);
    let map = BTreeMap::from([((), 7_u8)]);
    assert_eq!(decode::<BTreeMap<(), u8>>(&bytes(&map)).unwrap().0, map);
}

#[test]
fn invalid_bytes_are_an_error_that_says_where() {
    assert_eq!(refused::<(u8, bool)>(&[7, 2]), "0 or 1 expected at byte 1, 0x2 found");
    assert_eq!(refused::<(u8, Option<u8>)>(&[7, 9, 0]), "0 or 1 expected at byte 1, 0x9 found");
    assert_eq!(refused::<char>(&0xd800_u32.to_ne_bytes()), "a character expected at byte 0, 0xd800 found");
    assert_eq!(refused::<u32>(&[1, 2]), "4 bytes or more expected at byte 0, 2 left");
    let text = bytes(serde_bytes::Bytes::new(b"ab\xffd"));
    assert_eq!(refused::<String>(&text), "UTF-8 expected at byte 10, 0xff found");
    assert!(refused::<Result<u8, u8>>(&bytes(&7_u32)).contains("integer `7`, expected"));
    assert!(refused::<std::num::NonZeroU8>(&[0]).contains("expected a nonzero u8"));
}

#[test]
fn elements_that_the_type_does_not_read_are_an_error() {
    #[derive(Debug)]
    struct First;
    impl<'de> Deserialize<'de> for First {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Visitor;
            impl<'de> serde::de::Visitor<'de> for Visitor {
                type Value = First;
                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("a sequence")
                }
                fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<First, A::Error> {
                    seq.next_element::<u8>().map(|_| First)
                }
            }
            deserializer.deserialize_seq(Visitor)
        }
    }
    assert!(decode::<First>(&bytes(&vec![1_u8])).is_ok());
    let error = refused::<First>(&bytes(&vec![1_u8, 2, 3]));
    assert_eq!(error, "an end expected at byte 9, 2 more elements announced");
}

#[test]
fn a_sequence_need_not_know_its_length() {
    #[derive(Serialize)]
    struct Flat {
        a: u8,
        #[serde(flatten)]
        rest: BTreeMap<&'static str, u8>,
    }
    struct Odd;
    impl Serialize for Odd {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_seq((0..10_u32).filter(|number| number % 2 == 1))
        }
    }
    assert_eq!(decode::<Vec<u32>>(&bytes(&Odd)).unwrap().0, [1, 3, 5, 7, 9]);
    let flat = bytes(&Flat { a: 1, rest: BTreeMap::from([("b", 2)]) });
    let map = decode::<BTreeMap<String, u8>>(&flat).unwrap().0;
    assert_eq!(map, BTreeMap::from([("a".to_owned(), 1), ("b".to_owned(), 2)]));
}

#[test]
fn types_that_need_names_are_an_error() {
    #[derive(Debug, Serialize, Deserialize)]
    #[serde(untagged)]
    enum Any {
        Number(u8),
    }
    #[derive(Serialize)]
    struct Partial {
        #[serde(skip_serializing_if = "Option::is_none")]
        maybe: Option<u8>,
    }
    assert!(refused::<Any>(&bytes(&Any::Number(1))).contains("its type inspects the data"));
    bytes(&Partial { maybe: Some(1) });
    let error = encode(&Partial { maybe: None }, &mut Vec::new()).unwrap_err();
    assert!(error.to_string().contains("field `maybe` is left out"), "{error}");
}

/// Each link has two levels: an option and a struct.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Chain {
    number: u64,
    text: String,
    numbers: Vec<f64>,
    triple: (u8, u16, u32),
    next: Option<Box<Chain>>,
}

/// A chain of this depth.
fn chain(levels: u8) -> Chain {
    let mut chain = Chain::default();
    for _ in 0..(levels - 2) / 2 {
        chain = Chain { next: Some(Box::new(chain)), ..Chain::default() };
    }
    chain
}

#[test]
fn the_deepest_value_fits_on_a_small_stack_and_a_deeper_one_is_refused() {
    let test = || {
        let deep = bytes(&chain(DEPTH)); // its triple is the lowest level
        decode::<Chain>(&deep).unwrap();
        let error = encode(&chain(DEPTH + 2), &mut Vec::new()).unwrap_err();
        assert_eq!(error.to_string(), "it is more than 128 levels deep");
        // The encoding of a deeper value: `Some` in place of the last `None`, and another link.
        let mut deeper = deep[..deep.len() - 1].to_vec();
        deeper.push(1);
        deeper.extend(bytes(&Chain::default()));
        assert_eq!(refused::<Chain>(&deeper), "it is more than 128 levels deep");
        // Each level of this type takes one byte.
        assert_eq!(refused::<Endless>(&[1; 1000]), "it is more than 128 levels deep");
    };
    std::thread::Builder::new().stack_size(256 * 1024).spawn(test).unwrap().join().unwrap();
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(transparent)]
struct Endless(Option<Box<Endless>>);

fn bytes<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    let mut out = Vec::new();
    encode(value, &mut out).unwrap();
    out
}

fn refused<T: DeserializeOwned + fmt::Debug>(bytes: &[u8]) -> String {
    decode::<T>(bytes).unwrap_err().to_string()
}

#[derive(Debug, PartialEq)]
enum Figure {
    Point,
    Circle(u8),
    Line { from: u16, to: String },
}

impl_serde!(enum Figure { Point, Circle(radius), Line { from, to } });

#[derive(Debug, PartialEq)]
struct Labelled<'a> {
    shape: Figure,
    label: Cow<'a, str>,
}

impl_serde!(struct Labelled<'a> where ['a] { shape, label });

#[derive(Debug, PartialEq)]
struct Even(u8);

impl_serde!(newtype Even, |number| if number % 2 == 0 { Ok(Self(number)) } else { Err("an odd number") });

#[test]
fn the_librarys_own_types_are_tuples_of_their_fields() {
    let line = || Figure::Line { from: 1, to: "a".to_owned() };
    for shape in [Figure::Point, Figure::Circle(7), line()] {
        let encoded = bytes(&shape);
        assert_eq!(decode::<Figure>(&encoded).unwrap(), (shape, &[][..]));
    }
    let labelled = Labelled { shape: Figure::Circle(3), label: "round".into() };
    assert_eq!(bytes(&labelled), bytes(&(Figure::Circle(3), "round")));
    assert_eq!(decode::<Labelled>(&bytes(&labelled)).unwrap().0, labelled);
    assert_eq!(decode::<Even>(&[4]).unwrap().0, Even(4));
}

#[test]
fn a_variant_that_does_not_exist_and_a_field_that_does_not_fit_are_errors() {
    let error = |result: Result<(Figure, &[u8]), Error>| result.unwrap_err().to_string();
    let index = bytes(&Figure::Circle(7))[..4].to_owned();
    error(decode(&index)); // without its field
    let message = error(decode(&index.iter().map(|&byte| byte * 3).collect::<Vec<_>>()));
    assert!(
        message.contains("integer `3`, expected the name of a variant, or its number below 3"),
        "{message}"
    );
    let message = decode::<Even>(&[3]).unwrap_err().to_string();
    assert!(message.contains("an odd number"), "{message}");
}

/// Has this number of fields that no type knows.
struct Unknown(usize);

impl Serialize for Unknown {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Unknown", self.0)?;
        (0..self.0).try_for_each(|_| fields.serialize_field("unknown", &()))?;
        fields.end()
    }
}

impl<'de> Deserialize<'de> for Unknown {
    fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(serde::de::Error::custom("it is only sent"))
    }
}

/// Has no fields, and ignores what it is sent.
#[derive(Deserialize, Serialize)]
struct Nothing {}

fn time_to_ignore(fields: usize) -> Duration {
    let mut bytes = Vec::new();
    describe(&Unknown(fields), &mut bytes).unwrap();
    let begun = thread_time();
    assert!(decode_described::<Nothing>(&bytes).is_ok_and(|(_, rest)| rest.is_empty()));
    thread_time().saturating_sub(begun)
}

/// Another process chooses their number.
#[test]
fn the_time_for_fields_that_are_ignored_grows_with_their_number() {
    // Caches that other programs fill may slow down one of the two.
    let ratio = |_| time_to_ignore(64_000).as_secs_f64() / time_to_ignore(4_000).as_secs_f64();
    let ratios = [0, 1, 2].map(ratio);
    assert!(ratios.iter().any(|&ratio| ratio < 64.0), "{ratios:?}");
}

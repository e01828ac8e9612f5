//! Which types are sent with the names of their fields, and which errors name an attribute.

use super::*;

/// Whether the compact encoding is found to fit the type of this value.
pub(super) fn fits<T: Transferable>(value: &T) -> bool {
    let mut bytes = Vec::new();
    wire::encode(value, &mut bytes, "it").unwrap();
    bytes[0] == 0
}

#[test]
fn types_of_the_standard_library_need_no_names() {
    use std::net::{IpAddr, SocketAddr};
    use std::num::{NonZeroU8, Wrapping};
    use std::ops::{Bound, Range};
    use std::path::PathBuf;
    use std::time::{Duration, SystemTime};

    assert!(fits(&(Duration::from_millis(1500), SystemTime::now(), PathBuf::from("/a/b"))));
    assert!(fits(&(IpAddr::from([127, 0, 0, 1]), SocketAddr::from(([0; 16], 80)))));
    assert!(fits(&(NonZeroU8::MIN, Wrapping(7), Range { start: 3, end: 8 }, Bound::Included(3))));
    assert!(fits(&(std::ffi::CString::new("a").unwrap(), std::ffi::OsString::from("b"))));
    assert!(fits(&vec![Ok::<_, String>(Box::new([1.5_f32; 32]))]));
    assert!(fits(&(HashMap::from([(1, "one".to_owned())]), std::collections::BTreeSet::from([(1, 'a')]))));
    assert!(fits(&(serde_bytes::ByteBuf::from(vec![1]), Some(()), std::marker::PhantomData::<u8>)));
}

#[test]
fn the_librarys_errors_need_no_names() {
    assert!(fits(&Ok::<_, crate::Error>("a".to_owned())));
    assert!(fits(&Err::<u8, _>(crate::Error::invalid("it"))));
    let task_error = || crate::TaskError::from(std::fmt::Error);
    assert!(fits(&(Ok::<_, crate::TaskError>(7_u8), task_error(), vec![crate::Error::invalid("it")])));
}

#[test]
fn only_types_that_need_names_have_them() {
    assert!(fits(&Named { a: 1, n: 2, b: 3 }) && fits(&External::One(1)) && fits(&Renamed { a: 1, n: 2 }));
    assert!(fits(&RenamedApart { a: 1, n: 2 }) && fits(&list(&1, &2)) && fits(&tree(&1, &2)));
    assert!(fits(&Skip { a: 1, n: 2, b: 3 }) && fits(&Other::Known) && fits(&With { number: 1, a: 2 }));
    assert!(!fits(&Adjacent::One(1)) && !fits(&Flat { n: 1, inner: Named2 { a: 1, m: 2 } }));
    assert!(!fits(&SkipSerializing { a: 1, n: 2, b: 3 }) && !fits(&SkipVariant::One(1)));
    // Which of the two it is depends on the value.
    assert!(fits(&SkipIf { a: 1, maybe: Some(2), n: 3 }) && !fits(&SkipIf { a: 1, maybe: None, n: 3 }));
}

/// A type that takes only some text is clear once some of it was sent.
#[test]
fn types_that_take_only_some_values_are_shown_one() {
    #[derive(Clone, Debug, PartialEq)]
    struct Date(u16, u8);
    impl Serialize for Date {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_str(&format_args!("{}-{}", self.0, self.1))
        }
    }
    impl<'de> Deserialize<'de> for Date {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            let text = String::deserialize(deserializer)?;
            let date = text
                .split_once('-')
                .and_then(|(year, month)| Some(Self(year.parse().ok()?, month.parse().ok()?)));
            date.ok_or_else(|| serde::de::Error::custom("no date"))
        }
    }
    type Row = (u8, Option<Date>, u8);
    let arrives = |row: Row| check(&row, &row, &row, Must::Arrive, PartKind::Plain).unwrap();
    arrives((1, None, 2));
    assert!(!fits::<Row>(&(1, None, 2)), "no date was seen");
    for day in 0..8 {
        arrives((1, Some(Date(2000, day)), 2));
    }
    assert!(fits::<Row>(&(1, None, 2)));
}

#[test]
fn errors_name_the_attribute_when_a_value_is_sent() {
    fn refusal<T: Transferable>(value: &T) -> String {
        wire::encode(value, &mut Vec::new(), "it").unwrap_err().to_string()
    }
    let error = refusal(&SkipAndNeed { m: 1, n: 2, o: 3 });
    assert!(error.contains("missing field `m`") && error.contains("`skip_serializing`"), "{error}");
    let error = refusal(&SkipIfOther { n: 0, a: 1 });
    assert!(error.contains("`skip_serializing_if`"), "{error}");
    let error = refusal(&Internal::Named { a: 1_u128, n: 2 });
    assert!(error.contains("128-bit") && error.contains("`tag`"), "{error}");
    let error = refusal(&Ambiguous::<i8>::Large(3));
    assert!(error.contains("`untagged`"), "{error}");
    let error = refusal(&SkipVariantThere::Lost(1));
    assert!(error.contains("`skip_deserializing`"), "{error}");
    let error = refusal(&SkipIfInTuple(None, Some(1)));
    assert!(error.contains("`skip_serializing_if` in a tuple struct"), "{error}");
}

//! Raw values arrive as they are, and no other type is taken for a raw one.

use std::fmt::Debug;

use super::*;

fn travels<T: PartialEq + Debug>(value: &T, size: Option<usize>) {
    let bytes = as_bytes(value).unwrap();
    assert!(is_raw::<T>());
    assert_eq!(fixed_size::<T>(), size);
    assert!(size.is_none_or(|size| size == bytes.len()));
    // At every address modulo the largest alignment.
    for before in 0..16 {
        let mut moved = vec![0; before];
        moved.extend_from_slice(bytes);
        assert_eq!(from_bytes::<T>(&moved[before..]).unwrap().as_ref().unwrap(), value);
    }
    if size.is_some() {
        let mut longer = bytes.to_vec();
        longer.push(0);
        assert!(from_bytes::<T>(&longer).unwrap().is_err());
    }
}

macro_rules! numbers_travel {
    ($($number:ident)*) => {$(
        let size = Some(size_of::<$number>());
        let numbers = vec![$number::MIN, $number::default(), $number::MAX];
        travels(&numbers[0], size);
        travels(&(numbers[2],), size);
        travels(&numbers, None);
        travels(&(numbers,), None);
        travels(&Vec::<$number>::new(), None);
    )*};
}

#[test]
fn each_raw_type_travels_alone_and_in_a_tuple_of_one() {
    numbers_travel!(u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize f32 f64);
    travels(&(), Some(0));
    travels(&((),), Some(0));
    travels(&true, Some(1));
    travels(&('ß',), Some(4));
    travels(&"größer".to_owned(), None);
    travels(&(String::new(),), None);
}

#[test]
fn no_other_type_is_taken_for_a_raw_one() {
    fn is_left_to_serde<T>(value: T) {
        assert!(as_bytes(&value).is_none() && from_bytes::<T>(&[]).is_none());
        assert!(!is_raw::<T>() && fixed_size::<T>().is_none());
    }
    let local = String::from("lives no longer than this function");
    is_left_to_serde(local.as_str());
    is_left_to_serde((local.as_bytes(),));
    is_left_to_serde(&7_u64);
    is_left_to_serde((1_u64, 2_u64));
    is_left_to_serde(((1_u64,),));
    is_left_to_serde([1_u8; 8]);
    is_left_to_serde(Some(1_u8));
    is_left_to_serde(vec![true]);
    is_left_to_serde(vec!['a']);
    is_left_to_serde(vec![vec![1_u8]]);
    is_left_to_serde(std::num::NonZeroU64::MIN);
    is_left_to_serde(Box::new(1_u64));
}

/// Another process overwrites the text while it is decoded.
#[test]
fn text_that_changes_meanwhile_is_valid_or_an_error() {
    use std::num::NonZeroUsize;
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    use crate::codec;
    use crate::sys::mapping::SharedMapping;

    const TEXT: usize = 1000;
    let (shared, _) = SharedMapping::create(NonZeroUsize::new(8 + TEXT).unwrap()).unwrap();
    shared.write(0, &TEXT.to_ne_bytes());
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Relaxed) {
                // Half of a character, and two whole ones.
                for bytes in [&[0xc3][..], "ßß".as_bytes(), b"abcd"] {
                    shared.write(8 + TEXT / 2, bytes);
                }
            }
        });
        let is_valid = |text: &str| str::from_utf8(text.as_bytes()).is_ok();
        // Asserted after the other thread has ended, which would otherwise run on.
        let invalid = (0..100_000).find(|_| {
            let text = shared.with_bytes(8, TEXT, |bytes| from_bytes::<String>(bytes).unwrap());
            let seen = shared
                .with_bytes(0, 8 + TEXT, |bytes| codec::decode::<Box<str>>(bytes).map(|(text, _)| text));
            text.is_ok_and(|text| !is_valid(&text)) || seen.is_ok_and(|text| !is_valid(&text))
        });
        is_over.store(true, Relaxed);
        assert_eq!(invalid, None, "a text that is not UTF-8");
    });
}

#[test]
fn bytes_that_are_no_value_are_an_error() {
    let why = |made: Option<Result<(), Error>>| made.unwrap().unwrap_err().to_string();
    assert_eq!(why(from_bytes::<bool>(&[2]).map(|it| it.map(drop))), "the bytes [2] are no bool");
    assert_eq!(
        why(from_bytes::<(char,)>(&[255; 4]).map(|it| it.map(drop))),
        "the bytes [255, 255, 255, 255] are no char"
    );
    assert_eq!(why(from_bytes::<u32>(&[1]).map(|it| it.map(drop))), "4 bytes expected, 1 found");
    assert_eq!(
        why(from_bytes::<Vec<u16>>(&[1; 3]).map(|it| it.map(drop))),
        "a multiple of 2 bytes expected, 3 found"
    );
    assert!(why(from_bytes::<String>(b"a\xff").map(|it| it.map(drop))).contains("utf-8"));
}

/// Of values of which not every bit pattern is valid, none is taken unchecked.
#[test]
fn numbers_are_appended_from_among_other_bytes() {
    let mut numbers = vec![1_u16];
    assert!(append_numbers(&mut numbers, &[9, 9, 2, 0, 9, 9, 9, 3, 1, 9, 7], 5, 2).is_some());
    assert_eq!(numbers, [1, 2, 0x103]);
    assert!(append_numbers(&mut vec![true], &[7; 8], 1, 0).is_none());
    assert!(append_numbers(&mut vec!['a'], &[7; 8], 4, 0).is_none());
    assert!(append_numbers(&mut vec![String::new()], &[7; 24], 24, 0).is_none());
}

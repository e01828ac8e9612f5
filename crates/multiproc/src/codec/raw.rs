//! Values whose bytes in memory are their encoding: numbers, vectors of numbers, and text.
//!
//! Each alone, or as the only one of a tuple, which is what the arguments of a function of one argument are.
//! Whether a type is among them is decided by the type alone, so both sides of a transfer agree as long as
//! they mean the same type; and when it compiles, so that nothing is left to decide at run time.
//!
//! Such an encoding has no end of its own: it is decoded from exactly the bytes that it was encoded to.

use bytemuck::checked::{CheckedCastError, try_pod_read_unaligned};
use bytemuck::{bytes_of, cast_slice, pod_collect_to_vec, try_cast_slice};
use castaway::{LifetimeFree, cast};

use crate::codec::Error;

/// Tries each plain type: gives what a function finds for the first for which it finds something.
macro_rules! find_type {
    ($find:ident::<$T:ident>($input:expr)) => {
        find_type!($find $T $input;
            () bool char u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize f32 f64 String
            Vec<u8> Vec<u16> Vec<u32> Vec<u64> Vec<u128> Vec<usize>
            Vec<i8> Vec<i16> Vec<i32> Vec<i64> Vec<i128> Vec<isize> Vec<f32> Vec<f64>)
    };
    ($find:ident $T:ident $input:expr; $($plain:ty)*) => {{
        $(
            // Of most of them, the compiler need not even look at more than the size.
            if const { size_of::<$T>() == size_of::<$plain>() }
                && let Some(found) = $find::<$T, $plain>($input)
            {
                return Some(found);
            }
        )*
        None
    }};
}

/// The bytes of a value, if its type is a plain one.
#[inline]
pub(crate) fn as_bytes<T>(value: &T) -> Option<&[u8]> {
    find_type!(view_as::<T>(value))
}

/// The value that has these bytes, if its type is a plain one; an error where no value has them. They may
/// begin at any address.
#[inline]
pub(crate) fn from_bytes<T>(bytes: &[u8]) -> Option<Result<T, Error>> {
    find_type!(make_as::<T>(bytes))
}

/// Whether [`as_bytes`] and [`from_bytes`] know the type.
#[inline]
pub(crate) fn is_raw<T>() -> bool {
    size::<T>().is_some()
}

/// How many bytes each value of a plain type has, if all have as many.
#[inline]
pub(crate) fn fixed_size<T>() -> Option<usize> {
    match size::<T>()? {
        Size::Fixed(size) => Some(size),
        Size::Varying => None,
    }
}

#[inline]
fn size<T>() -> Option<Size> {
    find_type!(size_as::<T>(()))
}

#[inline]
fn view_as<T, P: RawBytes>(value: &T) -> Option<&[u8]> {
    match cast!(value, &P) {
        Ok(value) => Some(value.view()),
        Err(value) => cast!(value, &(P,)).ok().map(|(value,)| value.view()),
    }
}

#[inline]
fn make_as<T, P: RawBytes>(bytes: &[u8]) -> Option<Result<T, Error>> {
    // The cast is of the place, since what it is cast to must be a type that is known here.
    let mut place: Option<T> = None;
    let made = if let Ok(place) = cast!(&mut place, &mut Option<P>) {
        P::make(bytes).map(|value| *place = Some(value))
    } else if let Ok(place) = cast!(&mut place, &mut Option<(P,)>) {
        P::make(bytes).map(|value| *place = Some((value,)))
    } else {
        return None;
    };
    made.map(|()| place).transpose()
}

#[inline]
fn size_as<T, P: RawBytes>((): ()) -> Option<Size> {
    let is_it = cast!(None::<T>, Option<P>).is_ok() || cast!(None::<T>, Option<(P,)>).is_ok();
    is_it.then_some(P::SIZE)
}

/// How many bytes the values of a type have.
enum Size {
    Fixed(usize),
    Varying,
}

trait RawBytes: LifetimeFree + Sized + 'static {
    const SIZE: Size;

    fn view(&self) -> &[u8];

    fn make(bytes: &[u8]) -> Result<Self, Error>;
}

macro_rules! scalars {
    ($($scalar:ty)*) => {$(
        impl RawBytes for $scalar {
            const SIZE: Size = Size::Fixed(size_of::<Self>());

            #[inline]
            fn view(&self) -> &[u8] {
                bytes_of(self)
            }

            #[inline]
            fn make(bytes: &[u8]) -> Result<Self, Error> {
                try_pod_read_unaligned(bytes).map_err(|error| wrong_length::<Self>(bytes, error))
            }
        }
    )*};
}

scalars!(() bool char u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize f32 f64);

#[cold]
fn wrong_length<T>(bytes: &[u8], error: CheckedCastError) -> Error {
    match error {
        CheckedCastError::InvalidBitPattern => {
            Error::new(format_args!("the bytes {bytes:?} are no {}", std::any::type_name::<T>()))
        }
        CheckedCastError::PodCastError(_) => {
            Error::new(format_args!("{} bytes expected, {} found", size_of::<T>(), bytes.len()))
        }
    }
}

macro_rules! vectors {
    ($($number:ty)*) => {$(
        impl RawBytes for Vec<$number> {
            const SIZE: Size = Size::Varying;

            #[inline]
            fn view(&self) -> &[u8] {
                cast_slice(self)
            }

            #[inline]
            fn make(bytes: &[u8]) -> Result<Self, Error> {
                if !bytes.len().is_multiple_of(size_of::<$number>()) {
                    return Err(not_whole_elements(bytes.len(), size_of::<$number>()));
                }
                // Where the bytes lie as the numbers would, the vector need not be cleared before.
                Ok(try_cast_slice(bytes).map_or_else(|_| pod_collect_to_vec(bytes), <[$number]>::to_vec))
            }
        }
    )*};
}

vectors!(u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize f32 f64);

#[cold]
fn not_whole_elements(length: usize, size: usize) -> Error {
    Error::new(format_args!("a multiple of {size} bytes expected, {length} found"))
}

impl RawBytes for String {
    const SIZE: Size = Size::Varying;

    #[inline]
    fn view(&self) -> &[u8] {
        self.as_bytes()
    }

    #[inline]
    fn make(bytes: &[u8]) -> Result<Self, Error> {
        // Of a copy, as another process may write to these bytes meanwhile.
        Self::from_utf8(bytes.to_vec()).map_err(Error::new)
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use super::*;

    fn travels<T: PartialEq + Debug>(value: &T, size: Option<usize>) {
        let bytes = as_bytes(value).unwrap();
        assert!(is_raw::<T>());
        assert_eq!(fixed_size::<T>(), size);
        assert!(size.is_none_or(|size| size == bytes.len()));
        // At each place relative to what the type's alignment may be.
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
    fn each_plain_type_travels_alone_and_in_a_tuple_of_one() {
        numbers_travel!(u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize f32 f64);
        travels(&(), Some(0));
        travels(&((),), Some(0));
        travels(&true, Some(1));
        travels(&('ß',), Some(4));
        travels(&"größer".to_owned(), None);
        travels(&(String::new(),), None);
    }

    #[test]
    fn no_other_type_is_taken_for_a_plain_one() {
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

    /// As a process gone wrong would, while the text is being made.
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
            // Not asserted here: the other thread would go on without end.
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
}

//! The raw encoding: the bytes in memory of numbers, vectors of numbers, and text, without serde.
//!
//! It applies to such a value alone, or as the only element of a tuple (the arguments of a function of one
//! argument). The type alone decides, at compile time, so both sides of a transfer agree. A raw encoding has
//! no end of its own: it is decoded from exactly the bytes that it was encoded to.

#[cfg(test)]
mod tests;

use bytemuck::checked::{CheckedCastError, try_pod_read_unaligned};
use bytemuck::{bytes_of, cast_slice, pod_collect_to_vec, pod_read_unaligned, try_cast_slice};
use castaway::{LifetimeFree, cast};

use crate::codec::Error;

/// Calls a function for each raw type, until it finds something.
macro_rules! find_type {
    ($find:ident::<$T:ident>($input:expr)) => {
        find_type!($find $T $input;
            () bool char u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize f32 f64 String
            Vec<u8> Vec<u16> Vec<u32> Vec<u64> Vec<u128> Vec<usize>
            Vec<i8> Vec<i16> Vec<i32> Vec<i64> Vec<i128> Vec<isize> Vec<f32> Vec<f64>)
    };
    ($find:ident $T:ident $input:expr; $($raw:ty)*) => {{
        $(
            // The size rules out most types before the function is compiled for them.
            if const { size_of::<$T>() == size_of::<$raw>() }
                && let Some(found) = $find::<$T, $raw>($input)
            {
                return Some(found);
            }
        )*
        None
    }};
}

/// The bytes of a value, if its type is raw.
#[inline]
pub(crate) fn as_bytes<T>(value: &T) -> Option<&[u8]> {
    find_type!(view_as::<T>(value))
}

/// The value with these bytes, if its type is raw. They may begin at any address.
#[inline]
pub(crate) fn from_bytes<T>(bytes: &[u8]) -> Option<Result<T, Error>> {
    find_type!(make_as::<T>(bytes))
}

/// Appends a value for each `span` bytes, which begins at byte `offset` of them. Does nothing, and returns
/// `None`, unless the type is a number, of which every bit pattern is valid.
#[inline]
pub(crate) fn append_numbers<T>(values: &mut Vec<T>, bytes: &[u8], span: usize, offset: usize) -> Option<()> {
    macro_rules! append {
        ($($number:ty)*) => {$(
            if const { size_of::<T>() == size_of::<$number>() }
                && let Ok(values) = cast!(&mut *values, &mut Vec<$number>)
            {
                if span == size_of::<$number>() && let Ok(numbers) = try_cast_slice(bytes) {
                    values.extend_from_slice(numbers);
                    return Some(());
                }
                let number = |bytes: &[u8]| -> $number { pod_read_unaligned(bytes) };
                let length = size_of::<$number>();
                values.extend(bytes.chunks_exact(span).map(|piece| number(&piece[offset..offset + length])));
                return Some(());
            }
        )*};
    }
    append!(u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize f32 f64);
    None
}

/// Whether [`as_bytes`] and [`from_bytes`] know the type.
#[inline]
pub(crate) fn is_raw<T>() -> bool {
    size::<T>().is_some()
}

/// The size in bytes of every value of the type, if it is raw and of a fixed size.
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
    // `cast!` needs a target type that is known here, so the reference to the slot is cast, not the value.
    let mut slot: Option<T> = None;
    let made = if let Ok(slot) = cast!(&mut slot, &mut Option<P>) {
        P::make(bytes).map(|value| *slot = Some(value))
    } else if let Ok(slot) = cast!(&mut slot, &mut Option<(P,)>) {
        P::make(bytes).map(|value| *slot = Some((value,)))
    } else {
        return None;
    };
    made.map(|()| slot).transpose()
}

#[inline]
fn size_as<T, P: RawBytes>((): ()) -> Option<Size> {
    let is_it = cast!(None::<T>, Option<P>).is_ok() || cast!(None::<T>, Option<(P,)>).is_ok();
    is_it.then_some(P::SIZE)
}

/// The size in bytes of the values of a type.
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
                // Aligned bytes are copied; only others need a vector that is zeroed first.
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
        // Another process may write to the bytes, so a copy is checked.
        Self::from_utf8(bytes.to_vec()).map_err(Error::new)
    }
}

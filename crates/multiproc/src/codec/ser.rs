//! The compact encoding's serde serializer.

use serde_core::Serialize;
use serde_core::ser::{
    SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple,
    SerializeTupleStruct, SerializeTupleVariant, Serializer,
};

use super::{Error, Levels, Str, VARIANT_BITS, count_of_fields};

type Result<T = (), E = Error> = std::result::Result<T, E>;

/// Appends one value, or one by one the parts of a value whose number both sides know.
pub(super) struct Encoder<'a> {
    out: &'a mut Vec<u8>,
    levels: Levels,
}

/// Appends elements, and at last their number before them.
pub(super) struct Counted<'a> {
    parts: Encoder<'a>,
    /// The offset of the number.
    start: usize,
    count: u64,
}

impl<'a> Encoder<'a> {
    pub(super) fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out, levels: Levels::ALL }
    }

    #[inline]
    fn part<T: Serialize + ?Sized>(&mut self, value: &T) -> Result {
        value.serialize(Encoder { out: self.out, levels: self.levels })
    }

    #[inline]
    fn inside(self) -> Result<Self> {
        Ok(Self { levels: self.levels.down()?, out: self.out })
    }

    /// Appends the index of a variant and its number of unnamed fields.
    #[inline]
    fn tag(self, index: u32, fields: u8) -> Result<Self> {
        if index >> VARIANT_BITS != 0 {
            return Err(too_many_variants());
        }
        self.out.extend_from_slice(&(index | u32::from(fields) << VARIANT_BITS).to_ne_bytes());
        Ok(self)
    }

    #[inline]
    fn counted(self) -> Result<Counted<'a>> {
        let start = self.out.len();
        self.out.extend_from_slice(&0_u64.to_ne_bytes());
        Ok(Counted { parts: self.inside()?, start, count: 0 })
    }
}

impl Counted<'_> {
    /// Appends and counts an element. The length that a `Serialize` announces may be wrong, so it is not
    /// used.
    #[inline]
    fn element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result {
        let before = self.parts.out.len();
        self.parts.part(value)?;
        if self.parts.out.len() == before {
            self.parts.out.push(0);
        }
        self.count += 1;
        Ok(())
    }

    #[inline]
    fn finish(self) {
        let length = self.count.to_ne_bytes();
        self.parts.out[self.start..self.start + length.len()].copy_from_slice(&length);
    }
}

macro_rules! numbers {
    ($($name:ident: $type:ty,)*) => {$(
        #[inline]
        fn $name(self, value: $type) -> Result {
            self.out.extend_from_slice(&value.to_ne_bytes());
            Ok(())
        }
    )*};
}

impl<'a> Serializer for Encoder<'a> {
    type Ok = ();
    type Error = Error;
    type SerializeSeq = Counted<'a>;
    type SerializeMap = Counted<'a>;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Self;
    type SerializeStruct = Self;
    type SerializeStructVariant = Self;

    numbers! {
        serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64, serialize_u128: u128,
        serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64, serialize_i128: i128,
        serialize_f32: f32, serialize_f64: f64,
    }

    #[inline]
    fn serialize_bool(self, value: bool) -> Result {
        self.serialize_u8(value.into())
    }

    #[inline]
    fn serialize_char(self, value: char) -> Result {
        self.serialize_u32(value.into())
    }

    #[inline]
    fn serialize_str(self, value: &str) -> Result {
        self.serialize_bytes(value.as_bytes())
    }

    #[inline]
    fn serialize_bytes(self, value: &[u8]) -> Result {
        self.out.extend_from_slice(&(value.len() as u64).to_ne_bytes());
        self.out.extend_from_slice(value);
        Ok(())
    }

    #[inline]
    fn serialize_none(self) -> Result {
        self.serialize_u8(0)
    }

    #[inline]
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result {
        self.out.push(1);
        value.serialize(self.inside()?)
    }

    #[inline]
    fn serialize_unit(self) -> Result {
        Ok(())
    }

    #[inline]
    fn serialize_unit_struct(self, _: Str) -> Result {
        Ok(())
    }

    #[inline]
    fn serialize_unit_variant(self, _: Str, index: u32, _: Str) -> Result {
        self.tag(index, 0).map(drop)
    }

    #[inline]
    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: Str, value: &T) -> Result {
        value.serialize(self.inside()?)
    }

    #[inline]
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: Str,
        index: u32,
        _: Str,
        value: &T,
    ) -> Result {
        value.serialize(self.tag(index, 0)?.inside()?)
    }

    #[inline]
    fn serialize_seq(self, _length: Option<usize>) -> Result<Counted<'a>> {
        self.counted()
    }

    #[inline]
    fn serialize_map(self, _length: Option<usize>) -> Result<Counted<'a>> {
        self.counted()
    }

    #[inline]
    fn serialize_tuple(self, _length: usize) -> Result<Self> {
        self.inside()
    }

    #[inline]
    fn serialize_tuple_struct(self, _: Str, _length: usize) -> Result<Self> {
        self.inside()
    }

    #[inline]
    fn serialize_tuple_variant(self, _: Str, index: u32, _: Str, length: usize) -> Result<Self> {
        self.tag(index, count_of_fields(length))?.inside()
    }

    #[inline]
    fn serialize_struct(self, _: Str, _length: usize) -> Result<Self> {
        self.inside()
    }

    #[inline]
    fn serialize_struct_variant(self, _: Str, index: u32, _: Str, _length: usize) -> Result<Self> {
        self.tag(index, 0)?.inside()
    }

    #[inline]
    fn is_human_readable(&self) -> bool {
        false
    }
}

impl SerializeSeq for Counted<'_> {
    type Ok = ();
    type Error = Error;

    #[inline]
    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result {
        self.element(value)
    }

    #[inline]
    fn end(self) -> Result {
        self.finish();
        Ok(())
    }
}

impl SerializeMap for Counted<'_> {
    type Ok = ();
    type Error = Error;

    #[inline]
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result {
        self.element(key)
    }

    #[inline]
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result {
        self.parts.part(value)
    }

    #[inline]
    fn end(self) -> Result {
        self.finish();
        Ok(())
    }
}

/// For types whose values all have the same number of parts.
macro_rules! uncounted {
    ($($trait:ident: $part:ident $(, $key:ident)?;)*) => {$(
        impl $trait for Encoder<'_> {
            type Ok = ();
            type Error = Error;

            #[inline]
            fn $part<T: Serialize + ?Sized>(&mut self, $($key: &'static str,)? value: &T) -> Result {
                self.part(value)
            }

            $(
                fn skip_field(&mut self, $key: &'static str) -> Result {
                    Err(Error::left_out($key))
                }
            )?

            #[inline]
            fn end(self) -> Result {
                Ok(())
            }
        }
    )*};
}

uncounted! {
    SerializeTuple: serialize_element;
    SerializeTupleStruct: serialize_field;
    SerializeTupleVariant: serialize_field;
    SerializeStruct: serialize_field, _name;
    SerializeStructVariant: serialize_field, _name;
}

#[cold]
fn too_many_variants() -> Error {
    Error::new(format_args!("the index of its variant is {} or more", 1 << VARIANT_BITS))
}

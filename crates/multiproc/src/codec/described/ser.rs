//! The self-describing encoding's serde serializer.

use serde_core::Serialize;
use serde_core::ser::{
    SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple,
    SerializeTupleStruct, SerializeTupleVariant, Serializer,
};

use super::Kind;
use crate::codec::{Error, Levels, Str};

type Result<T = (), E = Error> = std::result::Result<T, E>;

/// Appends one value.
pub(crate) struct Describer<'a> {
    out: &'a mut Vec<u8>,
    levels: Levels,
    /// Whether to write names. Without them the bytes record what the type has asked serde for.
    names: bool,
}

/// Appends the parts of a value, and at last their number before them.
pub(crate) struct Parts<'a> {
    of: Describer<'a>,
    /// The offset of the number.
    start: usize,
    count: u64,
}

impl<'a> Describer<'a> {
    #[cold]
    pub(crate) fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out, levels: Levels::ALL, names: true }
    }

    #[cold]
    pub(super) fn recorder(out: &'a mut Vec<u8>) -> Self {
        Self { names: false, ..Self::new(out) }
    }

    #[cold]
    fn kind(self, kind: Kind) -> Self {
        self.out.push(kind as u8);
        self
    }

    #[cold]
    #[allow(clippy::unnecessary_wraps)] // its callers return the result
    fn leaf(self, kind: Kind, bytes: &[u8]) -> Result {
        self.kind(kind).out.extend_from_slice(bytes);
        Ok(())
    }

    #[cold]
    fn text(&mut self, kind: Kind, bytes: &[u8]) {
        self.out.push(kind as u8);
        self.out.extend_from_slice(&(bytes.len() as u64).to_ne_bytes());
        self.out.extend_from_slice(bytes);
    }

    #[cold]
    fn name(&mut self, name: &str) {
        if self.names {
            self.text(Kind::Name, name.as_bytes());
        }
    }

    #[cold]
    fn variant(mut self, index: u32, name: &str) -> Self {
        self.out.push(Kind::Variant as u8);
        self.out.extend_from_slice(&index.to_ne_bytes());
        self.name(name);
        self
    }

    #[cold]
    fn inside(self) -> Result<Self> {
        Ok(Self { levels: self.levels.down()?, ..self })
    }

    #[cold]
    fn part(&mut self) -> Describer<'_> {
        Describer { out: self.out, levels: self.levels, names: self.names }
    }

    #[cold]
    fn parts(self, kind: Kind) -> Result<Parts<'a>> {
        let of = self.kind(kind).inside()?;
        let start = of.out.len();
        of.out.extend_from_slice(&0_u64.to_ne_bytes());
        Ok(Parts { of, start, count: 0 })
    }

    #[cold]
    fn fields(self) -> Result<Parts<'a>> {
        let kind = if self.names { Kind::Fields } else { Kind::Tuple };
        self.parts(kind)
    }
}

impl Parts<'_> {
    #[cold]
    fn add<T: Serialize + ?Sized>(&mut self, value: &T) -> Result {
        self.count += 1;
        value.serialize(self.of.part())
    }

    #[cold]
    fn finish(self) {
        let count = self.count.to_ne_bytes();
        self.of.out[self.start..self.start + count.len()].copy_from_slice(&count);
    }
}

macro_rules! numbers {
    ($($name:ident: $type:ty as $kind:ident,)*) => {$(
        #[cold]
        fn $name(self, value: $type) -> Result {
            self.leaf(Kind::$kind, &value.to_ne_bytes())
        }
    )*};
}

impl<'a> Serializer for Describer<'a> {
    type Ok = ();
    type Error = Error;
    type SerializeSeq = Parts<'a>;
    type SerializeMap = Parts<'a>;
    type SerializeTuple = Parts<'a>;
    type SerializeTupleStruct = Parts<'a>;
    type SerializeTupleVariant = Parts<'a>;
    type SerializeStruct = Parts<'a>;
    type SerializeStructVariant = Parts<'a>;

    numbers! {
        serialize_u8: u8 as U8, serialize_u16: u16 as U16, serialize_u32: u32 as U32,
        serialize_u64: u64 as U64,
        serialize_u128: u128 as U128, serialize_i8: i8 as I8, serialize_i16: i16 as I16,
        serialize_i32: i32 as I32,
        serialize_i64: i64 as I64, serialize_i128: i128 as I128, serialize_f32: f32 as F32,
        serialize_f64: f64 as F64,
    }

    #[cold]
    fn serialize_bool(self, value: bool) -> Result {
        self.leaf(Kind::Bool, &[value.into()])
    }

    #[cold]
    fn serialize_char(self, value: char) -> Result {
        self.leaf(Kind::Char, &u32::from(value).to_ne_bytes())
    }

    #[cold]
    fn serialize_str(mut self, value: &str) -> Result {
        self.text(Kind::Str, value.as_bytes());
        Ok(())
    }

    #[cold]
    fn serialize_bytes(mut self, value: &[u8]) -> Result {
        self.text(Kind::Bytes, value);
        Ok(())
    }

    #[cold]
    fn serialize_none(self) -> Result {
        self.leaf(Kind::None, &[])
    }

    #[cold]
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result {
        value.serialize(self.kind(Kind::Some).inside()?)
    }

    #[cold]
    fn serialize_unit(self) -> Result {
        self.leaf(Kind::Unit, &[])
    }

    #[cold]
    fn serialize_unit_struct(self, _: Str) -> Result {
        self.serialize_unit()
    }

    #[cold]
    fn serialize_unit_variant(self, _: Str, index: u32, name: Str) -> Result {
        self.variant(index, name).leaf(Kind::Nothing, &[])
    }

    #[cold]
    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: Str, value: &T) -> Result {
        value.serialize(self.inside()?)
    }

    #[cold]
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: Str,
        index: u32,
        name: Str,
        value: &T,
    ) -> Result {
        value.serialize(self.variant(index, name).inside()?)
    }

    #[cold]
    fn serialize_seq(self, _length: Option<usize>) -> Result<Parts<'a>> {
        self.parts(Kind::Seq)
    }

    #[cold]
    fn serialize_map(self, _length: Option<usize>) -> Result<Parts<'a>> {
        self.parts(Kind::Map)
    }

    #[cold]
    fn serialize_tuple(self, _length: usize) -> Result<Parts<'a>> {
        self.parts(Kind::Tuple)
    }

    #[cold]
    fn serialize_tuple_struct(self, _: Str, length: usize) -> Result<Parts<'a>> {
        self.serialize_tuple(length)
    }

    #[cold]
    fn serialize_tuple_variant(self, _: Str, index: u32, name: Str, _length: usize) -> Result<Parts<'a>> {
        self.variant(index, name).parts(Kind::Content)
    }

    #[cold]
    fn serialize_struct(self, _: Str, _length: usize) -> Result<Parts<'a>> {
        self.fields()
    }

    #[cold]
    fn serialize_struct_variant(self, _: Str, index: u32, name: Str, _length: usize) -> Result<Parts<'a>> {
        self.variant(index, name).fields()
    }

    #[cold]
    fn is_human_readable(&self) -> bool {
        self.names
    }
}

impl SerializeMap for Parts<'_> {
    type Ok = ();
    type Error = Error;

    #[cold]
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result {
        self.add(key)
    }

    #[cold]
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result {
        value.serialize(self.of.part())
    }

    #[cold]
    fn end(self) -> Result {
        self.finish();
        Ok(())
    }
}

macro_rules! unnamed {
    ($($trait:ident: $part:ident;)*) => {$(
        impl $trait for Parts<'_> {
            type Ok = ();
            type Error = Error;

            fn $part<T: Serialize + ?Sized>(&mut self, value: &T) -> Result {
                self.add(value)
            }

            fn end(self) -> Result {
                self.finish();
                Ok(())
            }
        }
    )*};
}

unnamed! {
    SerializeSeq: serialize_element;
    SerializeTuple: serialize_element;
    SerializeTupleStruct: serialize_field;
    SerializeTupleVariant: serialize_field;
}

macro_rules! named {
    ($($trait:ident)*) => {$(
        impl $trait for Parts<'_> {
            type Ok = ();
            type Error = Error;

            fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result {
                self.of.name(name);
                self.add(value)
            }

            fn skip_field(&mut self, name: Str) -> Result {
                if self.of.names { Ok(()) } else { Err(Error::left_out(name)) }
            }

            fn end(self) -> Result {
                self.finish();
                Ok(())
            }
        }
    )*};
}

named!(SerializeStruct SerializeStructVariant);

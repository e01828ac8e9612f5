//! The compact encoding's serde deserializer.

use serde_core::de::value::U32Deserializer;
use serde_core::de::{
    DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess, SeqAccess, VariantAccess, Visitor,
};
use serde_core::forward_to_deserialize_any;

use super::error::{Error, missing_fields, not_text, short, surplus, unexpected};
use super::{Levels, Str, VARIANT_BITS, count_of_fields};

type Result<T, E = Error> = std::result::Result<T, E>;

pub(super) struct Input<'de> {
    rest: &'de [u8],
    total: usize,
}

/// Reads one value.
pub(super) struct Decoder<'a, 'de> {
    input: &'a mut Input<'de>,
    levels: Levels,
}

/// Reads the parts of a value one by one.
struct Parts<'a, 'de> {
    of: Decoder<'a, 'de>,
    left: usize,
    /// Whether the bytes hold the number of parts, each of which then takes up at least one byte.
    counted: bool,
}

pub(super) struct Variant<'a, 'de> {
    content: Decoder<'a, 'de>,
    /// The number of unnamed fields that were encoded.
    fields: u8,
}

impl<'de> Input<'de> {
    pub(super) fn new(bytes: &'de [u8]) -> Self {
        Self { rest: bytes, total: bytes.len() }
    }

    pub(super) fn rest(&self) -> &'de [u8] {
        self.rest
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let Some((head, rest)) = self.rest.split_first_chunk() else {
            return Err(short(self.position(), N as u64, self.rest.len()));
        };
        self.rest = rest;
        Ok(*head)
    }

    /// The length of something that takes up at least one byte for each.
    #[inline]
    fn length(&mut self) -> Result<usize> {
        let length = u64::from_ne_bytes(self.array()?);
        match usize::try_from(length) {
            Ok(length) if length <= self.rest.len() => Ok(length),
            _ => Err(short(self.position(), length, self.rest.len())),
        }
    }

    #[inline]
    fn bytes(&mut self) -> Result<&'de [u8]> {
        let length = self.length()?;
        let (bytes, rest) = self.rest.split_at(length);
        self.rest = rest;
        Ok(bytes)
    }

    #[inline]
    fn flag(&mut self) -> Result<bool> {
        match self.array()? {
            [0] => Ok(false),
            [1] => Ok(true),
            [other] => Err(unexpected(self.position() - 1, "0 or 1", other.into())),
        }
    }

    /// The number of bytes read.
    #[inline]
    fn position(&self) -> usize {
        self.total - self.rest.len()
    }
}

impl<'a, 'de> Decoder<'a, 'de> {
    pub(super) fn new(input: &'a mut Input<'de>) -> Self {
        Self { input, levels: Levels::ALL }
    }

    #[inline]
    fn inside(self) -> Result<Self> {
        Ok(Self { levels: self.levels.down()?, input: self.input })
    }

    #[inline]
    fn part(&mut self) -> Decoder<'_, 'de> {
        Decoder { input: self.input, levels: self.levels }
    }

    #[inline]
    fn counted(self) -> Result<Parts<'a, 'de>> {
        let left = self.input.length()?;
        Ok(Parts { of: self.inside()?, left, counted: true })
    }

    #[inline]
    fn uncounted<V: Visitor<'de>>(self, left: usize, visitor: V) -> Result<V::Value> {
        visitor.visit_seq(Parts { of: self.inside()?, left, counted: false })
    }

    /// The unnamed fields of a variant. Only their number shows that one was left out.
    #[inline]
    fn fields<V: Visitor<'de>>(self, count: u8, length: usize, visitor: V) -> Result<V::Value> {
        if count != count_of_fields(length) {
            return Err(missing_fields(self.input.position(), length, count));
        }
        self.uncounted(length, visitor)
    }
}

impl<'de> Parts<'_, 'de> {
    #[inline]
    fn next<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>> {
        let Some(left) = self.left.checked_sub(1) else { return Ok(None) };
        self.left = left;
        let before = self.of.input.rest.len();
        let value = seed.deserialize(self.of.part())?;
        if self.counted && self.of.input.rest.len() == before {
            self.of.input.array::<1>()?;
        }
        Ok(Some(value))
    }

    /// Refuses elements that the type has not read: they would be decoded as the next value.
    #[inline]
    fn finish<T>(self, value: T) -> Result<T> {
        if self.left == 0 { Ok(value) } else { Err(surplus(self.of.input.position(), self.left)) }
    }
}

macro_rules! numbers {
    ($($name:ident: $visit:ident $type:ty,)*) => {$(
        #[inline]
        fn $name<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
            visitor.$visit(<$type>::from_ne_bytes(self.input.array()?))
        }
    )*};
}

impl<'de> Deserializer<'de> for Decoder<'_, 'de> {
    type Error = Error;

    numbers! {
        deserialize_u8: visit_u8 u8, deserialize_i8: visit_i8 i8,
        deserialize_u16: visit_u16 u16, deserialize_i16: visit_i16 i16,
        deserialize_u32: visit_u32 u32, deserialize_i32: visit_i32 i32,
        deserialize_u64: visit_u64 u64, deserialize_i64: visit_i64 i64,
        deserialize_u128: visit_u128 u128, deserialize_i128: visit_i128 i128,
        deserialize_f32: visit_f32 f32, deserialize_f64: visit_f64 f64,
    }

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value> {
        Err(Error::new("its type inspects the data, but this encoding is not self-describing"))
    }

    forward_to_deserialize_any! { ignored_any identifier }

    #[inline]
    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_bool(self.input.flag()?)
    }

    #[inline]
    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        let code = u32::from_ne_bytes(self.input.array()?);
        match char::from_u32(code) {
            Some(value) => visitor.visit_char(value),
            None => Err(unexpected(self.input.position() - 4, "a character", code)),
        }
    }

    // Another process may write to the bytes, so text is checked, and bytes are passed to a visitor, as a
    // copy.

    #[inline]
    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.deserialize_string(visitor)
    }

    #[inline]
    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        let bytes = self.input.bytes()?.to_vec();
        match String::from_utf8(bytes) {
            Ok(text) => visitor.visit_string(text),
            Err(error) => Err(not_text(self.input.position(), &error)),
        }
    }

    #[inline]
    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_byte_buf(self.input.bytes()?.to_vec())
    }

    #[inline]
    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.deserialize_bytes(visitor)
    }

    #[inline]
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        if self.input.flag()? { visitor.visit_some(self.inside()?) } else { visitor.visit_none() }
    }

    #[inline]
    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_unit()
    }

    #[inline]
    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: Str, visitor: V) -> Result<V::Value> {
        visitor.visit_unit()
    }

    #[inline]
    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: Str, visitor: V) -> Result<V::Value> {
        visitor.visit_newtype_struct(self.inside()?)
    }

    #[inline]
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        let mut elements = self.counted()?;
        let value = visitor.visit_seq(&mut elements)?;
        elements.finish(value)
    }

    #[inline]
    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        let mut entries = self.counted()?;
        let value = visitor.visit_map(&mut entries)?;
        entries.finish(value)
    }

    #[inline]
    fn deserialize_tuple<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value> {
        self.uncounted(length, visitor)
    }

    #[inline]
    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: Str,
        length: usize,
        visitor: V,
    ) -> Result<V::Value> {
        self.uncounted(length, visitor)
    }

    #[inline]
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: Str,
        fields: &'static [Str],
        visitor: V,
    ) -> Result<V::Value> {
        self.uncounted(fields.len(), visitor)
    }

    #[inline]
    fn deserialize_enum<V: Visitor<'de>>(self, _: Str, _: &'static [Str], visitor: V) -> Result<V::Value> {
        visitor.visit_enum(self)
    }

    #[inline]
    fn is_human_readable(&self) -> bool {
        false
    }
}

impl<'de> SeqAccess<'de> for Parts<'_, 'de> {
    type Error = Error;

    #[inline]
    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>> {
        self.next(seed)
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        Some(self.left)
    }
}

impl<'de> MapAccess<'de> for Parts<'_, 'de> {
    type Error = Error;

    #[inline]
    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>> {
        self.next(seed)
    }

    #[inline]
    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value> {
        seed.deserialize(self.of.part())
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        Some(self.left)
    }
}

impl<'a, 'de> EnumAccess<'de> for Decoder<'a, 'de> {
    type Error = Error;
    type Variant = Variant<'a, 'de>;

    #[inline]
    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self::Variant)> {
        let tag = u32::from_ne_bytes(self.input.array()?);
        let fields = (tag >> VARIANT_BITS) as u8;
        let variant: U32Deserializer<Error> = (tag & ((1 << VARIANT_BITS) - 1)).into_deserializer();
        Ok((seed.deserialize(variant)?, Variant { content: self, fields }))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_, 'de> {
    type Error = Error;

    #[inline]
    fn unit_variant(self) -> Result<()> {
        Ok(())
    }

    #[inline]
    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value> {
        seed.deserialize(self.content.inside()?)
    }

    #[inline]
    fn tuple_variant<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value> {
        self.content.fields(self.fields, length, visitor)
    }

    #[inline]
    fn struct_variant<V: Visitor<'de>>(self, fields: &'static [Str], visitor: V) -> Result<V::Value> {
        self.content.uncounted(fields.len(), visitor)
    }
}

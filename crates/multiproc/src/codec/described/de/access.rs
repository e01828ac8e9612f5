//! The self-describing encoding's access to the parts of a value: elements, entries, and variants.

use serde_core::de::{
    DeserializeSeed, EnumAccess, IntoDeserializer, MapAccess, SeqAccess, VariantAccess, Visitor,
};

use super::super::Kind;
use super::super::input::unexpected;
use super::super::probe::Prober;
use super::Reader;
use crate::codec::error::surplus;
use crate::codec::{Error, Str};

type Result<T, E = Error> = std::result::Result<T, E>;

/// Reads the parts of a value one by one.
pub(super) struct Parts<'a> {
    pub(super) of: Reader<'a>,
    pub(super) left: usize,
    /// Whether the keys are names of fields.
    pub(super) names: bool,
}

/// A variant whose name was read and whose content follows.
pub(super) struct Variant<'a> {
    pub(super) name: Name,
    pub(super) content: Reader<'a>,
}

pub(super) enum Name {
    Text(String),
    /// Made-up variants have no names.
    Number(u32),
    Taken,
}

impl<'a> Parts<'a> {
    #[cold]
    fn count_down(&mut self) -> bool {
        let left = self.left.checked_sub(1);
        self.left = left.unwrap_or_default();
        left.is_some()
    }

    /// The variant that the only key of a map names.
    #[cold]
    pub(super) fn into_variant(self) -> Result<Variant<'a>> {
        if self.left != 1 {
            return Err(surplus(self.of.input.at, self.left));
        }
        let name = match self.of.input.kind()? {
            Kind::Name | Kind::Str => Name::Text(self.of.input.text()?),
            other => return Err(unexpected(self.of.input.at, "a name", other as u32)),
        };
        Ok(Variant { name, content: self.of })
    }

    /// Refuses elements that the type has not read: they would be decoded as the next value.
    #[cold]
    pub(super) fn finish<T>(self, value: T) -> Result<T> {
        if self.left == 0 { Ok(value) } else { Err(surplus(self.of.input.at, self.left)) }
    }
}

impl Variant<'_> {
    /// Reads a variant as formats without enums represent it: the name, or a map from the name to the
    /// content.
    #[cold]
    pub(super) fn any<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self {
            Self { name: Name::Text(name), content } if content.input.peek() == Some(Kind::Nothing) => {
                content.input.kind()?;
                visitor.visit_string(name)
            }
            variant => visitor.visit_map(variant),
        }
    }
}

impl<'de> SeqAccess<'de> for Parts<'_> {
    type Error = Error;

    #[cold]
    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>> {
        if self.count_down() { seed.deserialize(self.of.part()).map(Some) } else { Ok(None) }
    }

    #[cold]
    fn size_hint(&self) -> Option<usize> {
        Some(self.left)
    }
}

impl<'de> MapAccess<'de> for Parts<'_> {
    type Error = Error;

    #[cold]
    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>> {
        if !self.count_down() {
            return Ok(None);
        }
        if self.names {
            let name = self.of.input.name()?;
            return seed.deserialize(name.into_deserializer()).map(Some);
        }
        seed.deserialize(self.of.part()).map(Some)
    }

    #[cold]
    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value> {
        seed.deserialize(self.of.part())
    }

    #[cold]
    fn size_hint(&self) -> Option<usize> {
        Some(self.left)
    }
}

impl<'de> EnumAccess<'de> for Variant<'_> {
    type Error = Error;
    type Variant = Self;

    #[cold]
    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self)> {
        let value = match self.name {
            Name::Text(name) => seed.deserialize(name.into_deserializer())?,
            Name::Number(number) => seed.deserialize(number.into_deserializer())?,
            Name::Taken => return Err(surplus(self.content.input.at, 0)),
        };
        Ok((value, Self { name: Name::Taken, content: self.content }))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_> {
    type Error = Error;

    #[cold]
    fn unit_variant(self) -> Result<()> {
        let input = self.content.input;
        input.with_prober(Prober::variant_is_read);
        input.ask(Kind::Nothing, "", false);
        match input.kind()? {
            Kind::Nothing | Kind::Unit => Ok(()),
            other => Err(unexpected(input.at, "a variant without content", other as u32)),
        }
    }

    #[cold]
    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value> {
        self.content.input.with_prober(Prober::variant_is_read);
        seed.deserialize(self.content.inside()?)
    }

    #[cold]
    fn tuple_variant<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value> {
        self.content.input.with_prober(Prober::variant_is_read);
        self.content.tuple(Kind::Content, length, visitor)
    }

    #[cold]
    fn struct_variant<V: Visitor<'de>>(self, fields: &'static [Str], visitor: V) -> Result<V::Value> {
        self.content.input.with_prober(Prober::variant_is_read);
        self.content.fields(fields.len(), visitor)
    }
}

/// One entry: the name and the content.
impl<'de> MapAccess<'de> for Variant<'_> {
    type Error = Error;

    #[cold]
    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>> {
        match std::mem::replace(&mut self.name, Name::Taken) {
            Name::Text(name) => seed.deserialize(name.into_deserializer()).map(Some),
            Name::Number(_) | Name::Taken => Ok(None),
        }
    }

    #[cold]
    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value> {
        seed.deserialize(self.content.part().inside()?)
    }
}

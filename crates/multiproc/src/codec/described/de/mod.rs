//! The self-describing encoding's serde deserializer. It also reads made-up values, as far as a type asks for
//! them.

mod access;

use std::any::type_name;

use serde_core::de::{DeserializeOwned, Deserializer, IntoDeserializer, Visitor};

use self::access::{Name, Parts, Variant};
use super::Kind;
use super::input::{Input, unexpected};
use super::probe::{Branches, Prober};
use crate::codec::{Error, Levels, Str};

type Result<T, E = Error> = std::result::Result<T, E>;

/// Reads one value.
pub(super) struct Reader<'a> {
    pub(super) input: &'a mut Input,
    levels: Levels,
    /// Whether the value is a field of a tuple struct.
    is_unnamed: bool,
}

/// Reads the next value. Compiled once for each type.
#[cold]
#[inline(never)]
pub(crate) fn read<T: DeserializeOwned>(input: &mut Input) -> Result<T> {
    T::deserialize(Reader { input, levels: Levels::ALL, is_unnamed: false })
}

impl<'a> Reader<'a> {
    #[cold]
    pub(super) fn inside(self) -> Result<Self> {
        Ok(Self { levels: self.levels.down()?, ..self })
    }

    #[cold]
    pub(super) fn part(&mut self) -> Reader<'_> {
        Reader { input: self.input, ..*self }
    }

    /// Reads a value of any kind.
    ///
    /// For a type that says what it expects, one of the functions below is used: a function for all kinds is
    /// compiled to much code for each visitor.
    #[cold]
    fn any<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.input.peek() {
            Some(Kind::Seq | Kind::Tuple | Kind::Content | Kind::Map | Kind::Fields) => {
                self.map_or_sequence(visitor)
            }
            Some(Kind::Variant) => {
                self.input.kind()?;
                self.variant()?.any(visitor)
            }
            _ => self.leaf(visitor),
        }
    }

    /// Reads a value without parts.
    #[cold]
    fn leaf<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        macro_rules! number {
            ($visit:ident $type:ty) => {
                visitor.$visit(<$type>::from_ne_bytes(self.input.array()?))
            };
        }
        match self.input.kind()? {
            Kind::Unit | Kind::Nothing => visitor.visit_unit(),
            Kind::None => visitor.visit_none(),
            Kind::Some => visitor.visit_some(self.inside()?),
            Kind::Bool => match self.input.array()? {
                [byte @ 0..=1] => visitor.visit_bool(byte == 1),
                [other] => Err(unexpected(self.input.at, "0 or 1", other.into())),
            },
            Kind::U8 => number!(visit_u8 u8),
            Kind::U16 => number!(visit_u16 u16),
            Kind::U32 => number!(visit_u32 u32),
            Kind::U64 => number!(visit_u64 u64),
            Kind::U128 => number!(visit_u128 u128),
            Kind::I8 => number!(visit_i8 i8),
            Kind::I16 => number!(visit_i16 i16),
            Kind::I32 => number!(visit_i32 i32),
            Kind::I64 => number!(visit_i64 i64),
            Kind::I128 => number!(visit_i128 i128),
            Kind::F32 => number!(visit_f32 f32),
            Kind::F64 => number!(visit_f64 f64),
            Kind::Char => {
                let code = u32::from_ne_bytes(self.input.array()?);
                match char::from_u32(code) {
                    Some(value) => visitor.visit_char(value),
                    None => Err(unexpected(self.input.at, "a character", code)),
                }
            }
            Kind::Str => visitor.visit_string(self.input.text()?),
            Kind::Bytes => visitor.visit_byte_buf(self.input.blob()?),
            other => Err(unexpected(self.input.at, "a value without parts", other as u32)),
        }
    }

    /// Reads a sequence or a tuple.
    #[cold]
    fn sequence<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.input.kind()? {
            Kind::Seq | Kind::Tuple | Kind::Content => {
                let mut parts = self.parts(false)?;
                let value = visitor.visit_seq(&mut parts)?;
                parts.finish(value)
            }
            other => Err(unexpected(self.input.at, "a sequence", other as u32)),
        }
    }

    /// Reads a map or a struct, which may be encoded as a sequence.
    #[cold]
    fn map_or_sequence<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        let Some(kind @ (Kind::Map | Kind::Fields)) = self.input.peek() else {
            return self.sequence(visitor);
        };
        self.input.kind()?;
        let mut parts = self.parts(kind == Kind::Fields)?;
        let value = visitor.visit_map(&mut parts)?;
        parts.finish(value)
    }

    #[cold]
    fn parts(self, names: bool) -> Result<Parts<'a>> {
        let left = self.input.length()?;
        Ok(Parts { of: self.inside()?, left, names })
    }

    /// Skips `Some`: a type that is not an option reads the content of one.
    #[cold]
    fn skip_some(mut self) -> Result<Self> {
        while self.input.peek() == Some(Kind::Some) {
            self.input.kind()?;
            self = self.inside()?;
        }
        Ok(self)
    }

    /// Reads unnamed parts, whose number the type says.
    #[cold]
    pub(super) fn tuple<'de, V: Visitor<'de>>(
        self,
        kind: Kind,
        length: usize,
        visitor: V,
    ) -> Result<V::Value> {
        self.input.ask_for(kind, length);
        let this = self.skip_some()?;
        if let Some(Kind::Tuple | Kind::Content) = this.input.peek() {
            this.input.kind()?;
            let mut parts = this.parts(false)?;
            if parts.left != length {
                return Err(left_out(length, parts.left));
            }
            return visitor.visit_seq(&mut parts);
        }
        this.sequence(visitor)
    }

    #[cold]
    pub(super) fn fields<'de, V: Visitor<'de>>(mut self, max: usize, visitor: V) -> Result<V::Value> {
        if self.input.prober.is_none() {
            return self.skip_some()?.map_or_sequence(visitor);
        }
        self.is_unnamed = false;
        // The list of names includes aliases, so the number of fields is known when the type has read them.
        self.input.ask_for(Kind::Tuple, max);
        self.input.kind()?;
        let start = self.input.at;
        let mut parts = self.parts(false)?;
        let value = visitor.visit_seq(&mut parts)?;
        let count = (max - parts.left) as u64;
        parts.of.input.bytes[start..start + 8].copy_from_slice(&count.to_ne_bytes());
        Ok(value)
    }

    /// Reads the index and the name of a variant, whose kind was read.
    #[cold]
    fn variant(self) -> Result<Variant<'a>> {
        let number = u32::from_ne_bytes(self.input.array()?);
        let name = match self.input.prober {
            Some(_) => Name::Number(number),
            None => Name::Text(self.input.name()?),
        };
        Ok(Variant { name, content: self })
    }
}

/// Identifies a visitor's type. (Two types may have one name, and two functions with the same code one
/// address.)
macro_rules! identity {
    ($visit:ident::<$access:ty>) => {
        (V::$visit::<$access> as *const () as usize, type_name::<V>())
    };
}

macro_rules! leaves {
    ($($name:ident: $kind:ident,)*) => {$(
        #[cold]
        fn $name<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
            self.input.ask(Kind::$kind, type_name::<V>(), self.is_unnamed);
            self.skip_some()?.leaf(visitor)
        }
    )*};
}

impl<'de> Deserializer<'de> for Reader<'_> {
    type Error = Error;

    leaves! {
        deserialize_bool: Bool, deserialize_char: Char,
        deserialize_u8: U8, deserialize_u16: U16, deserialize_u32: U32, deserialize_u64: U64,
        deserialize_u128: U128,
        deserialize_i8: I8, deserialize_i16: I16, deserialize_i32: I32, deserialize_i64: I64,
        deserialize_i128: I128,
        deserialize_f32: F32, deserialize_f64: F64, deserialize_str: Str, deserialize_string: Str,
        deserialize_bytes: Bytes, deserialize_byte_buf: Bytes, deserialize_unit: Unit,
    }

    #[cold]
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.input.ask_any()?;
        self.any(visitor)
    }

    #[cold]
    fn deserialize_ignored_any<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value> {
        let start = self.input.at;
        let value = self.part().deserialize_any(visitor)?;
        // This range includes those of its parts, which are the last ones.
        while self.input.ignored.pop_if(|inner| inner.start >= start).is_some() {}
        self.input.ignored.push(start..self.input.at);
        Ok(value)
    }

    #[cold]
    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.input.ask_any()?;
        self.leaf(visitor)
    }

    #[cold]
    fn deserialize_option<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value> {
        let branch = self.input.choose(
            identity!(visit_some::<Reader<'static>>),
            Branches::Optional { is_unnamed: self.is_unnamed },
        )?;
        if self.input.prober.is_some() {
            self.input.bytes.push([Kind::None, Kind::Some][branch] as u8);
        }
        let value = match self.input.peek() {
            Some(Kind::None | Kind::Unit) => {
                self.input.kind()?;
                visitor.visit_none()?
            }
            Some(Kind::Some) => {
                self.input.kind()?;
                visitor.visit_some(self.part().inside()?)?
            }
            _ => visitor.visit_some(self.part())?,
        };
        self.input.with_prober(Prober::leave_branch);
        Ok(value)
    }

    #[cold]
    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: Str, visitor: V) -> Result<V::Value> {
        self.deserialize_unit(visitor)
    }

    #[cold]
    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: Str, visitor: V) -> Result<V::Value> {
        visitor.visit_newtype_struct(self.inside()?)
    }

    #[cold]
    fn deserialize_seq<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value> {
        let count = self.input.choose(
            identity!(visit_seq::<&'static mut Parts<'static>>),
            Branches::Optional { is_unnamed: self.is_unnamed },
        )?;
        self.input.ask_for(Kind::Seq, count);
        let value = self.part().skip_some()?.sequence(visitor)?;
        self.input.with_prober(Prober::leave_branch);
        Ok(value)
    }

    #[cold]
    fn deserialize_map<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value> {
        let count = self.input.choose(
            identity!(visit_map::<&'static mut Parts<'static>>),
            Branches::Optional { is_unnamed: self.is_unnamed },
        )?;
        self.input.ask_for(Kind::Map, count);
        let value = self.part().skip_some()?.map_or_sequence(visitor)?;
        self.input.with_prober(Prober::leave_branch);
        Ok(value)
    }

    #[cold]
    fn deserialize_tuple<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value> {
        self.tuple(Kind::Tuple, length, visitor)
    }

    #[cold]
    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: Str,
        length: usize,
        visitor: V,
    ) -> Result<V::Value> {
        self.input.with_prober(|prober| prober.saw_tuple_struct(length));
        Self { is_unnamed: true, ..self }.tuple(Kind::Tuple, length, visitor)
    }

    #[cold]
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: Str,
        fields: &'static [Str],
        visitor: V,
    ) -> Result<V::Value> {
        self.fields(fields.len(), visitor)
    }

    #[cold]
    fn deserialize_enum<V: Visitor<'de>>(
        mut self,
        _: Str,
        variants: &'static [Str],
        visitor: V,
    ) -> Result<V::Value> {
        let branch = self
            .input
            .choose(identity!(visit_enum::<Variant<'static>>), Branches::Variants(variants.len()))?;
        if self.input.prober.is_some() {
            self.input.bytes.push(Kind::Variant as u8);
            self.input.bytes.extend_from_slice(&u32::try_from(branch).unwrap_or(u32::MAX).to_ne_bytes());
        }
        let of = self.part().skip_some()?;
        let variant = match of.input.kind()? {
            Kind::Variant => of.variant()?,
            Kind::Str => return visitor.visit_enum(of.input.text()?.into_deserializer()),
            kind @ (Kind::Map | Kind::Fields) => of.parts(kind == Kind::Fields)?.into_variant()?,
            other => return Err(unexpected(of.input.at, "a variant", other as u32)),
        };
        let value = visitor.visit_enum(variant)?;
        self.input.with_prober(Prober::leave_branch);
        Ok(value)
    }

    #[cold]
    fn is_human_readable(&self) -> bool {
        self.input.prober.is_none()
    }
}

#[cold]
fn left_out(expected: usize, found: usize) -> Error {
    Error::new(format_args!(
        "{expected} fields expected, {found} found (`skip_serializing_if` in a tuple struct or variant?)"
    ))
}

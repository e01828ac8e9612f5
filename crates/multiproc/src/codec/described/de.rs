//! From bytes that say what they are to values; and what a type asks for when it is given made-up ones.

use std::any::type_name;
use std::ops::Range;

use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};

use super::Kind;
use super::learn::{Identity, Learner, Ways};
use crate::codec::{Error, Levels};

type Result<T, E = Error> = std::result::Result<T, E>;

/// Bytes of this process alone, so that nothing changes between two looks; and how far they were read.
pub(crate) struct Input {
    bytes: Vec<u8>,
    at: usize,
    /// Where the type said that it takes nothing of what is there.
    ignored: Vec<Range<usize>>,
    /// If there is one, the bytes are made up as they are asked for.
    learner: Option<Learner>,
}

/// Reads one value.
struct Reader<'a> {
    input: &'a mut Input,
    levels: Levels,
    /// Whether it is directly in a tuple struct.
    is_unnamed: bool,
}

/// Reads what is in a value.
struct Parts<'a> {
    of: Reader<'a>,
    left: usize,
    /// Whether the keys are names of fields.
    names: bool,
}

/// A variant whose name was read, and whose content was not.
struct Variant<'a> {
    name: Name,
    content: Reader<'a>,
}

enum Name {
    Text(String),
    /// What is made up has no names.
    Number(u32),
    Taken,
}

impl Input {
    #[cold]
    pub(crate) fn new(bytes: &[u8]) -> Self {
        Self { bytes: bytes.to_vec(), at: 0, ignored: Vec::new(), learner: None }
    }

    #[cold]
    pub(super) fn made_up(learner: Learner) -> Self {
        Self { learner: Some(learner), ..Self::new(&[]) }
    }

    #[cold]
    pub(super) fn is_made_up(&self) -> bool {
        self.learner.is_some()
    }

    #[cold]
    pub(super) fn into_learner(self) -> (Vec<u8>, Option<Learner>) {
        (self.bytes, self.learner)
    }

    /// How many bytes were read.
    #[cold]
    pub(crate) fn position(&self) -> usize {
        self.at
    }

    /// What the type has taken.
    #[cold]
    pub(super) fn taken(&self) -> Vec<u8> {
        let mut taken = Vec::new();
        let mut start = 0;
        for ignored in &self.ignored {
            taken.extend_from_slice(self.bytes.get(start..ignored.start).unwrap_or_default());
            start = ignored.end;
        }
        taken.extend_from_slice(self.bytes.get(start..).unwrap_or_default());
        taken
    }

    #[cold]
    fn take(&mut self, count: usize) -> Result<&[u8]> {
        let left = self.bytes.len() - self.at;
        if count > left {
            return Err(short(self.at, count as u64, left));
        }
        self.at += count;
        Ok(&self.bytes[self.at - count..self.at])
    }

    #[cold]
    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    /// A length, of things that take up a byte each, at least.
    #[cold]
    fn length(&mut self) -> Result<usize> {
        let length = u64::from_ne_bytes(self.array()?);
        let left = self.bytes.len() - self.at;
        match usize::try_from(length) {
            Ok(length) if length <= left || self.learner.is_some() => Ok(length),
            _ => Err(short(self.at, length, left)),
        }
    }

    #[cold]
    fn text(&mut self) -> Result<String> {
        let bytes = self.blob()?;
        String::from_utf8(bytes).map_err(|error| Error::new(format_args!("{error} before byte {}", self.at)))
    }

    #[cold]
    fn blob(&mut self) -> Result<Vec<u8>> {
        let length = self.length()?;
        self.take(length).map(<[u8]>::to_vec)
    }

    #[cold]
    fn peek(&self) -> Option<Kind> {
        Kind::of(*self.bytes.get(self.at)?)
    }

    #[cold]
    fn kind(&mut self) -> Result<Kind> {
        let [byte] = self.array()?;
        Kind::of(byte).ok_or_else(|| unexpected(self.at, "a kind", byte.into()))
    }

    #[cold]
    fn name(&mut self) -> Result<String> {
        match self.kind()? {
            Kind::Name => self.text(),
            other => Err(unexpected(self.at, "a name", other as u32)),
        }
    }

    // What follows does nothing, unless bytes are made up.

    /// The type wants a single thing.
    #[cold]
    fn ask(&mut self, kind: Kind, who: &'static str, is_unnamed: bool) {
        if let Some(learner) = &mut self.learner {
            learner.leaf(kind, who, is_unnamed, &mut self.bytes);
        }
    }

    /// The type wants so many things.
    #[cold]
    fn ask_for(&mut self, kind: Kind, count: usize) {
        if self.learner.is_some() {
            self.bytes.push(kind as u8);
            self.bytes.extend_from_slice(&(count as u64).to_ne_bytes());
        }
    }

    /// The type takes what is there.
    #[cold]
    fn ask_openly(&mut self) -> Result<()> {
        self.learner.as_mut().map_or(Ok(()), |learner| Err(learner.looks()))
    }

    /// The type can go on in different ways; gives one of them. .
    #[cold]
    fn choose(&mut self, visitor: Identity, ways: Ways) -> Result<usize> {
        self.learner.as_mut().map_or(Ok(0), |learner| learner.choose(visitor, ways))
    }

    #[cold]
    fn tell(&mut self, what: impl FnOnce(&mut Learner)) {
        self.learner.as_mut().map(what);
    }
}

/// Reads a value from the front of what is left. Compiled once for each type.
#[cold]
#[inline(never)]
pub(crate) fn read<T: DeserializeOwned>(input: &mut Input) -> Result<T> {
    T::deserialize(Reader { input, levels: Levels::ALL, is_unnamed: false })
}

impl<'a> Reader<'a> {
    #[cold]
    fn inside(self) -> Result<Self> {
        Ok(Self { levels: self.levels.down()?, ..self })
    }

    #[cold]
    fn part(&mut self) -> Reader<'_> {
        Reader { input: self.input, ..*self }
    }

    /// Whatever is there.
    ///
    /// A type that says what it expects is read by one of the functions below, since each kind that a visitor
    /// can be given is code of its own for each visitor.
    #[cold]
    fn any<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.input.peek() {
            Some(Kind::Seq | Kind::Tuple | Kind::Content | Kind::Map | Kind::Fields) => self.several(visitor),
            Some(Kind::Variant) => {
                self.input.kind()?;
                self.variant()?.any(visitor)
            }
            _ => self.leaf(visitor),
        }
    }

    /// A single thing.
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
            other => Err(unexpected(self.input.at, "a single thing", other as u32)),
        }
    }

    /// The parts of a sequence or a tuple.
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

    /// The parts of a map or a struct; or of a sequence, which a struct can be, too.
    #[cold]
    fn several<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
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

    /// What is not an option is there itself, where it was said that it is.
    #[cold]
    fn certain(mut self) -> Result<Self> {
        while self.input.peek() == Some(Kind::Some) {
            self.input.kind()?;
            self = self.inside()?;
        }
        Ok(self)
    }

    /// What has as many parts as the type says, and no names for them.
    #[cold]
    fn tuple<'de, V: Visitor<'de>>(self, kind: Kind, length: usize, visitor: V) -> Result<V::Value> {
        self.input.ask_for(kind, length);
        let this = self.certain()?;
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
    fn fields<'de, V: Visitor<'de>>(mut self, most: usize, visitor: V) -> Result<V::Value> {
        if self.input.learner.is_none() {
            return self.certain()?.several(visitor);
        }
        self.is_unnamed = false;
        // Among the names are the aliases; so many fields as the type takes it has.
        self.input.ask_for(Kind::Tuple, most);
        self.input.kind()?;
        let place = self.input.at;
        let mut parts = self.parts(false)?;
        let value = visitor.visit_seq(&mut parts)?;
        let count = (most - parts.left) as u64;
        parts.of.input.bytes[place..place + 8].copy_from_slice(&count.to_ne_bytes());
        Ok(value)
    }

    /// Where the kind was read: the name.
    #[cold]
    fn variant(self) -> Result<Variant<'a>> {
        let number = u32::from_ne_bytes(self.input.array()?);
        let name = match self.input.learner {
            Some(_) => Name::Number(number),
            None => Name::Text(self.input.name()?),
        };
        Ok(Variant { name, content: self })
    }
}

impl<'a> Parts<'a> {
    #[cold]
    fn count_down(&mut self) -> bool {
        let left = self.left.checked_sub(1);
        self.left = left.unwrap_or_default();
        left.is_some()
    }

    /// A map with one entry, as the variant that its key names.
    #[cold]
    fn into_variant(self) -> Result<Variant<'a>> {
        if self.left != 1 {
            return Err(surplus(self.of.input.at, self.left));
        }
        let name = match self.of.input.kind()? {
            Kind::Name | Kind::Str => Name::Text(self.of.input.text()?),
            other => return Err(unexpected(self.of.input.at, "a name", other as u32)),
        };
        Ok(Variant { name, content: self.of })
    }

    /// Elements that were not asked for would be taken for what follows.
    #[cold]
    fn finish<T>(self, value: T) -> Result<T> {
        if self.left == 0 { Ok(value) } else { Err(surplus(self.of.input.at, self.left)) }
    }
}

impl Variant<'_> {
    /// As formats without enums have it: the name alone, or a map from it to the content.
    #[cold]
    fn any<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self {
            Self { name: Name::Text(name), content } if content.input.peek() == Some(Kind::Nothing) => {
                content.input.kind()?;
                visitor.visit_string(name)
            }
            variant => visitor.visit_map(variant),
        }
    }
}

/// What differs from that for the visitor of another type. (Types of one name may be two, and functions that
/// do the same may be one.)
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
            self.certain()?.leaf(visitor)
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
        self.input.ask_openly()?;
        self.any(visitor)
    }

    #[cold]
    fn deserialize_ignored_any<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value> {
        let start = self.input.at;
        let value = self.part().deserialize_any(visitor)?;
        // With what was ignored inside of it.
        self.input.ignored.retain(|inner| inner.start < start);
        self.input.ignored.push(start..self.input.at);
        Ok(value)
    }

    #[cold]
    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.input.ask_openly()?;
        self.leaf(visitor)
    }

    #[cold]
    fn deserialize_option<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value> {
        let way = self.input.choose(
            identity!(visit_some::<Reader<'static>>),
            Ways::Optional { is_unnamed: self.is_unnamed },
        )?;
        if self.input.learner.is_some() {
            self.input.bytes.push([Kind::None, Kind::Some][way] as u8);
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
        self.input.tell(Learner::chosen);
        Ok(value)
    }

    #[cold]
    fn deserialize_unit_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value> {
        self.deserialize_unit(visitor)
    }

    #[cold]
    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value> {
        visitor.visit_newtype_struct(self.inside()?)
    }

    #[cold]
    fn deserialize_seq<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value> {
        let count = self.input.choose(
            identity!(visit_seq::<&'static mut Parts<'static>>),
            Ways::Optional { is_unnamed: self.is_unnamed },
        )?;
        self.input.ask_for(Kind::Seq, count);
        let value = self.part().certain()?.sequence(visitor)?;
        self.input.tell(Learner::chosen);
        Ok(value)
    }

    #[cold]
    fn deserialize_map<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value> {
        let count = self.input.choose(
            identity!(visit_map::<&'static mut Parts<'static>>),
            Ways::Optional { is_unnamed: self.is_unnamed },
        )?;
        self.input.ask_for(Kind::Map, count);
        let value = self.part().certain()?.several(visitor)?;
        self.input.tell(Learner::chosen);
        Ok(value)
    }

    #[cold]
    fn deserialize_tuple<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value> {
        self.tuple(Kind::Tuple, length, visitor)
    }

    #[cold]
    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        length: usize,
        visitor: V,
    ) -> Result<V::Value> {
        self.input.tell(|learner| learner.unnamed(length));
        Self { is_unnamed: true, ..self }.tuple(Kind::Tuple, length, visitor)
    }

    #[cold]
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        self.fields(fields.len(), visitor)
    }

    #[cold]
    fn deserialize_enum<V: Visitor<'de>>(
        mut self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        let way =
            self.input.choose(identity!(visit_enum::<Variant<'static>>), Ways::Variants(variants.len()))?;
        if self.input.learner.is_some() {
            self.input.bytes.push(Kind::Variant as u8);
            self.input.bytes.extend_from_slice(&u32::try_from(way).unwrap_or(u32::MAX).to_ne_bytes());
        }
        let of = self.part().certain()?;
        let variant = match of.input.kind()? {
            Kind::Variant => of.variant()?,
            Kind::Str => return visitor.visit_enum(of.input.text()?.into_deserializer()),
            kind @ (Kind::Map | Kind::Fields) => of.parts(kind == Kind::Fields)?.into_variant()?,
            other => return Err(unexpected(of.input.at, "a variant", other as u32)),
        };
        let value = visitor.visit_enum(variant)?;
        self.input.tell(Learner::chosen);
        Ok(value)
    }

    #[cold]
    fn is_human_readable(&self) -> bool {
        self.input.learner.is_none()
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
        input.tell(Learner::variant_is_read);
        input.ask(Kind::Nothing, "", false);
        match input.kind()? {
            Kind::Nothing | Kind::Unit => Ok(()),
            other => Err(unexpected(input.at, "a variant without content", other as u32)),
        }
    }

    #[cold]
    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value> {
        self.content.input.tell(Learner::variant_is_read);
        seed.deserialize(self.content.inside()?)
    }

    #[cold]
    fn tuple_variant<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value> {
        self.content.input.tell(Learner::variant_is_read);
        self.content.tuple(Kind::Content, length, visitor)
    }

    #[cold]
    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        self.content.input.tell(Learner::variant_is_read);
        self.content.fields(fields.len(), visitor)
    }
}

/// The name, and the content as its value.
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

#[cold]
fn short(at: usize, length: u64, left: usize) -> Error {
    Error::new(format_args!("{length} bytes or more expected at byte {at}, {left} left"))
}

#[cold]
fn unexpected(end: usize, expected: &str, found: u32) -> Error {
    Error::new(format_args!("{expected} expected before byte {end}, {found:#x} found"))
}

#[cold]
fn surplus(at: usize, left: usize) -> Error {
    Error::new(format_args!("an end expected at byte {at}, {left} more elements announced"))
}

#[cold]
fn left_out(expected: usize, found: usize) -> Error {
    Error::new(format_args!(
        "{expected} fields expected, {found} found (`skip_serializing_if` in a tuple struct or variant?)"
    ))
}

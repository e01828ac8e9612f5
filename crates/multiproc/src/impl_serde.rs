//! `Serialize` and `Deserialize` of the library's own types. A struct is encoded as the tuple of its fields, and so
//! is a variant, after its number or name.
//!
//! serde's derive would bring a parser of Rust into every program. With it, a small program compiles for a
//! quarter longer. So only a program that derives has it.

use std::fmt;

use serde_core::Deserializer;
use serde_core::de::{DeserializeSeed, Error, Unexpected, Visitor};

/// Implements both traits:
///
/// - for a struct with named fields, all of which are listed: `impl_serde!(struct Tag { flow, first })`;
/// - for a struct with one unnamed field: `impl_serde!(newtype Buffers)`;
/// - for the latter, whose field is checked when it arrives: `impl_serde!(newtype WorkerRings, Self::checked)`;
/// - for an enum: `impl_serde!(enum Failure { Died, Signal(number), Os { errno } })`.
///
/// Generic parameters of a struct stand after it: `struct Record<'a> where ['a] { text }`.
macro_rules! impl_serde {
    (struct $type:ty $(where [$($generics:tt)*])? { $($field:ident),* $(,)? }) => {
        impl<$($($generics)*)?> serde_core::Serialize for $type {
            fn serialize<S: serde_core::Serializer>(
                &self,
                serializer: S,
            ) -> std::result::Result<S::Ok, S::Error> {
                let Self { $($field),* } = self;
                serde_core::Serialize::serialize(&($($field,)*), serializer)
            }
        }

        impl<'de, $($($generics)*)?> serde_core::Deserialize<'de> for $type {
            fn deserialize<D: serde_core::Deserializer<'de>>(
                deserializer: D,
            ) -> std::result::Result<Self, D::Error> {
                let ($($field,)*) = serde_core::Deserialize::deserialize(deserializer)?;
                Ok(Self { $($field),* })
            }
        }
    };

    (newtype $type:ty $(where [$($generics:tt)*])?) => {
        impl_serde!(
            newtype $type $(where [$($generics)*])?,
            |inner| Ok::<_, std::convert::Infallible>(Self(inner))
        );
    };

    (newtype $type:ty $(where [$($generics:tt)*])?, $check:expr) => {
        impl<$($($generics)*)?> serde_core::Serialize for $type {
            fn serialize<S: serde_core::Serializer>(
                &self,
                serializer: S,
            ) -> std::result::Result<S::Ok, S::Error> {
                serde_core::Serialize::serialize(&self.0, serializer)
            }
        }

        impl<'de, $($($generics)*)?> serde_core::Deserialize<'de> for $type {
            fn deserialize<D: serde_core::Deserializer<'de>>(
                deserializer: D,
            ) -> std::result::Result<Self, D::Error> {
                let inner = serde_core::Deserialize::deserialize(deserializer)?;
                let check = $check;
                check(inner).map_err(<D::Error as serde_core::de::Error>::custom)
            }
        }
    };

    (enum $type:ident { $(
        $variant:ident $(($($item:ident),+))? $({ $($field:ident),+ $(,)? })?
    ),+ $(,)? }) => {
        const _: () = {
            /// The number of each variant.
            enum Number { $($variant),+ }

            impl serde_core::Serialize for $type {
                fn serialize<S: serde_core::Serializer>(
                    &self,
                    serializer: S,
                ) -> std::result::Result<S::Ok, S::Error> {
                    match self { $(
                        Self::$variant $(($($item),+))? $({ $($field),+ })? => serializer
                            .serialize_newtype_variant(
                                stringify!($type),
                                Number::$variant as u32,
                                stringify!($variant),
                                &($($($item,)+)? $($($field,)+)?),
                            ),
                    )+ }
                }
            }

            struct Variants;

            impl<'de> serde_core::de::Visitor<'de> for Variants {
                type Value = $type;

                fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    f.write_str(concat!("enum ", stringify!($type)))
                }

                fn visit_enum<A: serde_core::de::EnumAccess<'de>>(
                    self,
                    variant: A,
                ) -> std::result::Result<$type, A::Error> {
                    let (number, fields) = variant.variant_seed($crate::impl_serde::VariantNumber(NAMES))?;
                    $(if number == Number::$variant as usize {
                        #[allow(clippy::let_unit_value, reason = "a variant without fields")]
                        let ($($($item,)+)? $($($field,)+)?) =
                            serde_core::de::VariantAccess::newtype_variant(fields)?;
                        return Ok($type::$variant $(($($item),+))? $({ $($field),+ })?);
                    })+
                    Err(<A::Error as serde_core::de::Error>::custom("no such variant")) // checked above
                }
            }

            const NAMES: &[&str] = &[$(stringify!($variant)),+];

            impl<'de> serde_core::Deserialize<'de> for $type {
                fn deserialize<D: serde_core::Deserializer<'de>>(
                    deserializer: D,
                ) -> std::result::Result<Self, D::Error> {
                    deserializer.deserialize_enum(stringify!($type), NAMES, Variants)
                }
            }
        };
    };
}

pub(crate) use impl_serde;

/// Reads which of these variants it is, by its number or its name.
pub(crate) struct VariantNumber(pub(crate) &'static [&'static str]);

impl<'de> DeserializeSeed<'de> for VariantNumber {
    type Value = usize;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<usize, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl Visitor<'_> for VariantNumber {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the name of a variant, or its number below {}", self.0.len())
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<usize, E> {
        let known = usize::try_from(number).ok().filter(|&number| number < self.0.len());
        known.ok_or_else(|| E::invalid_value(Unexpected::Unsigned(number), &self))
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<usize, E> {
        let known = self.0.iter().position(|known| *known == name);
        known.ok_or_else(|| E::unknown_variant(name, self.0))
    }

    fn visit_bytes<E: Error>(self, name: &[u8]) -> Result<usize, E> {
        self.visit_str(&String::from_utf8_lossy(name))
    }
}

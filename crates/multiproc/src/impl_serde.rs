//! `Serialize` and `Deserialize` of the library's own types. A struct is encoded as the tuple of its fields, a
//! variant as its number and the tuple of its fields.
//!
//! serde's derive would bring a parser of Rust into every program. With it, a small program compiles for a
//! third longer. So only a program that derives has it.

use serde_core::Deserialize;
use serde_core::de::{Error, Expected, SeqAccess, Unexpected};

/// Implements both traits:
///
/// - for a struct with named fields, all of which are listed: `impl_serde!(struct Tag { flow, first })`;
/// - for a struct with one unnamed field: `impl_serde!(newtype Buffers)`;
/// - for the latter, whose field is checked when it arrives: `impl_serde!(newtype WorkerRings, Self::checked)`;
/// - for an enum: `impl_serde!(enum Failure { Died, Signal(number), Os { errno } })`.
///
/// Generic parameters of a struct stand behind it: `struct Record<'a> where ['a] { text }`.
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
        impl_serde!(newtype $type $(where [$($generics)*])?, |inner| Ok::<_, std::convert::Infallible>(Self(inner)));
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
                        Self::$variant $(($($item),+))? $({ $($field),+ })? => {
                            let number = Number::$variant as u32;
                            let fields = ($($($item,)+)? $($($field,)+)?);
                            serde_core::Serialize::serialize(&(number, fields), serializer)
                        }
                    )+ }
                }
            }

            struct Variants;

            impl<'de> serde_core::de::Visitor<'de> for Variants {
                type Value = $type;

                fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    f.write_str(concat!("a variant of ", stringify!($type)))
                }

                fn visit_seq<A: serde_core::de::SeqAccess<'de>>(
                    self,
                    mut parts: A,
                ) -> std::result::Result<$type, A::Error> {
                    let number: u32 = $crate::impl_serde::next(&mut parts)?;
                    $(if number == Number::$variant as u32 {
                        #[allow(clippy::let_unit_value, reason = "a variant without fields")]
                        let ($($($item,)+)? $($($field,)+)?) = $crate::impl_serde::next(&mut parts)?;
                        return Ok($type::$variant $(($($item),+))? $({ $($field),+ })?);
                    })+
                    Err($crate::impl_serde::no_such_variant(number, &self))
                }
            }

            impl<'de> serde_core::Deserialize<'de> for $type {
                fn deserialize<D: serde_core::Deserializer<'de>>(
                    deserializer: D,
                ) -> std::result::Result<Self, D::Error> {
                    deserializer.deserialize_tuple(2, Variants)
                }
            }
        };
    };
}

pub(crate) use impl_serde;

/// The next part of a variant.
pub(crate) fn next<'de, T: Deserialize<'de>, A: SeqAccess<'de>>(parts: &mut A) -> Result<T, A::Error> {
    parts.next_element()?.ok_or_else(|| A::Error::custom("a variant ends early"))
}

pub(crate) fn no_such_variant<E: Error>(number: u32, expected: &dyn Expected) -> E {
    E::invalid_value(Unexpected::Unsigned(number.into()), expected)
}

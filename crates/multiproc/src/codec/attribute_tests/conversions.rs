//! Functions and types that the generated types need.

use serde::ser::SerializeSeq;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{List, TaggedTree, Tree};

#[allow(clippy::trivially_copy_pass_by_ref)] // as serde calls them
pub(super) mod as_text {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(number)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }

    pub(crate) fn from_wide<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        u128::deserialize(deserializer)?.try_into().map_err(serde::de::Error::custom)
    }

    /// Another number than the one that was written.
    pub(crate) fn next<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        u64::deserialize(deserializer).map(|number| number.wrapping_add(1))
    }

    pub(crate) fn wide<S: Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i32(i32::try_from(*number).unwrap())
    }
}

pub(super) mod elsewhere {
    #[derive(Clone, Debug, PartialEq)]
    pub(crate) struct Point {
        pub(crate) x: u8,
        y: u8,
    }

    pub(crate) fn point(x: u8, y: u8) -> Point {
        Point { x, y }
    }

    impl Point {
        pub(crate) fn y(&self) -> u8 {
            self.y
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "elsewhere::Point")]
pub(super) struct Foreign {
    x: u8,
    #[serde(getter = "elsewhere::Point::y")]
    y: u8,
}

impl From<Foreign> for elsewhere::Point {
    fn from(foreign: Foreign) -> Self {
        elsewhere::point(foreign.x, foreign.y)
    }
}

pub(super) fn list<X: Clone>(a: &X, b: &X) -> List<X> {
    List { a: a.clone(), next: Some(Box::new(List { a: b.clone(), next: None })) }
}

pub(super) fn tree<X: Clone>(a: &X, b: &X) -> Tree<X> {
    let many = Tree::Many(vec![Tree::Leaf(a.clone()), Tree::Many(Vec::new())]);
    Tree::Both(Box::new(Tree::Leaf(b.clone())), Box::new(many))
}

pub(super) fn tagged_tree<X: Clone>(a: &X, b: &X) -> TaggedTree<X> {
    let inner = TaggedTree::Both(Box::new(TaggedTree::End), Box::new(TaggedTree::Leaf(a.clone())));
    TaggedTree::Both(Box::new(TaggedTree::Leaf(b.clone())), Box::new(inner))
}

/// A list that does not say its length before its elements.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct NoLength<X>(pub(super) Vec<X>);

impl<X: Serialize> Serialize for NoLength<X> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(None)?;
        self.0.iter().try_for_each(|element| list.serialize_element(element))?;
        list.end()
    }
}

impl<'de, X: Deserialize<'de>> Deserialize<'de> for NoLength<X> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::deserialize(deserializer).map(Self)
    }
}

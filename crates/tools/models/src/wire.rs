//! What stands in for what travels between processes: here it stays where it is.

use loom::sync::Arc;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::sys::Rung;

pub(crate) use crate::sys::mapping::Shared as Pages;

/// A descriptor.
#[derive(Clone, Debug)]
pub(crate) struct Handle(pub(crate) Arc<Rung>);

impl Handle {
    pub(crate) fn as_fd(&self) -> &Rung {
        &self.0
    }
}

impl Serialize for Handle {
    fn serialize<S: Serializer>(&self, _serializer: S) -> Result<S::Ok, S::Error> {
        unreachable!("no handle of a model travels")
    }
}

impl<'de> Deserialize<'de> for Handle {
    fn deserialize<D: Deserializer<'de>>(_deserializer: D) -> Result<Self, D::Error> {
        unreachable!("no handle of a model travels")
    }
}

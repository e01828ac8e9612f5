//! A stand-in for `multiproc::task`: a server of a model runs no method.

#![allow(clippy::unused_self)] // as the library has it

use crate::error::{Error, Result};

#[derive(Clone, Copy)]
pub(crate) struct TaskId;

pub(crate) mod method {
    #[derive(Clone, Copy)]
    pub(crate) struct CallMethod;

    impl CallMethod {
        pub(crate) fn name(self) -> &'static str {
            ""
        }
    }
}

impl TaskId {
    pub(crate) fn words(self) -> [u64; 2] {
        [0; 2]
    }

    pub(crate) fn from_words(_words: [u64; 2]) -> Self {
        Self
    }

    pub(crate) fn find<V>(self) -> Result<V> {
        Err(Error)
    }
}

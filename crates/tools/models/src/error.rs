//! A stand-in for `multiproc::error`: in a model no call fails.

#[derive(Debug)]
pub(crate) struct Error;

pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn internal(what: &str) -> Self {
        panic!("{what}")
    }
}

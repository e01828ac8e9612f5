//! The bytes that a self-describing decoder reads, or makes up as a type asks for them.

use std::ops::Range;

use super::Kind;
use super::probe::{Branches, Prober, VisitorKey};
use crate::codec::Error;
use crate::codec::error::short;

type Result<T, E = Error> = std::result::Result<T, E>;

/// The bytes, copied so that no other process changes them meanwhile, and the position in them.
pub(crate) struct Input {
    pub(super) bytes: Vec<u8>,
    pub(super) at: usize,
    /// The bytes that the type has ignored.
    pub(super) ignored: Vec<Range<usize>>,
    /// If present, the bytes are made up as the type asks for them.
    pub(super) prober: Option<Prober>,
}

impl Input {
    #[cold]
    pub(crate) fn new(bytes: &[u8]) -> Self {
        Self { bytes: bytes.to_vec(), at: 0, ignored: Vec::new(), prober: None }
    }

    #[cold]
    pub(super) fn made_up(prober: Prober) -> Self {
        Self { prober: Some(prober), ..Self::new(&[]) }
    }

    #[cold]
    pub(super) fn is_made_up(&self) -> bool {
        self.prober.is_some()
    }

    #[cold]
    pub(super) fn into_prober(self) -> (Vec<u8>, Option<Prober>) {
        (self.bytes, self.prober)
    }

    /// The number of bytes read.
    #[cold]
    pub(crate) fn position(&self) -> usize {
        self.at
    }

    /// The bytes with nothing in place of each value that the type has ignored.
    #[cold]
    pub(super) fn taken(&self) -> Vec<u8> {
        let mut taken = Vec::new();
        let mut start = 0;
        for ignored in &self.ignored {
            taken.extend_from_slice(self.bytes.get(start..ignored.start).unwrap_or_default());
            taken.push(Kind::Nothing as u8);
            start = ignored.end;
        }
        taken.extend_from_slice(self.bytes.get(start..).unwrap_or_default());
        taken
    }

    #[cold]
    pub(super) fn take(&mut self, count: usize) -> Result<&[u8]> {
        let left = self.bytes.len() - self.at;
        if count > left {
            return Err(short(self.at, count as u64, left));
        }
        self.at += count;
        Ok(&self.bytes[self.at - count..self.at])
    }

    #[cold]
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    /// The length of something that takes up at least one byte for each.
    #[cold]
    pub(super) fn length(&mut self) -> Result<usize> {
        let length = u64::from_ne_bytes(self.array()?);
        let left = self.bytes.len() - self.at;
        match usize::try_from(length) {
            Ok(length) if length <= left || self.prober.is_some() => Ok(length),
            _ => Err(short(self.at, length, left)),
        }
    }

    #[cold]
    pub(super) fn text(&mut self) -> Result<String> {
        let bytes = self.blob()?;
        String::from_utf8(bytes).map_err(|error| Error::new(format_args!("{error} before byte {}", self.at)))
    }

    #[cold]
    pub(super) fn blob(&mut self) -> Result<Vec<u8>> {
        let length = self.length()?;
        self.take(length).map(<[u8]>::to_vec)
    }

    #[cold]
    pub(super) fn peek(&self) -> Option<Kind> {
        Kind::of(*self.bytes.get(self.at)?)
    }

    #[cold]
    pub(super) fn kind(&mut self) -> Result<Kind> {
        let [byte] = self.array()?;
        Kind::of(byte).ok_or_else(|| unexpected(self.at, "a kind", byte.into()))
    }

    #[cold]
    pub(super) fn name(&mut self) -> Result<String> {
        match self.kind()? {
            Kind::Name => self.text(),
            other => Err(unexpected(self.at, "a name", other as u32)),
        }
    }

    // The following have an effect only while bytes are made up.

    /// The type asks for a value without parts.
    #[cold]
    pub(super) fn ask(&mut self, kind: Kind, visitor: &'static str, is_unnamed: bool) {
        if let Some(prober) = &mut self.prober {
            prober.leaf(kind, visitor, is_unnamed, &mut self.bytes);
        }
    }

    /// The type asks for a value of `count` parts.
    #[cold]
    pub(super) fn ask_for(&mut self, kind: Kind, count: usize) {
        if self.prober.is_some() {
            self.bytes.push(kind as u8);
            self.bytes.extend_from_slice(&(count as u64).to_ne_bytes());
        }
    }

    /// The type asks for whatever the bytes hold.
    #[cold]
    pub(super) fn ask_any(&mut self) -> Result<()> {
        self.prober.as_mut().map_or(Ok(()), |prober| Err(prober.inspects_data()))
    }

    /// Chooses one of the branches of the type.
    #[cold]
    pub(super) fn choose(&mut self, visitor: VisitorKey, branches: Branches) -> Result<usize> {
        self.prober.as_mut().map_or(Ok(0), |prober| prober.choose(visitor, branches))
    }

    #[cold]
    pub(super) fn with_prober(&mut self, what: impl FnOnce(&mut Prober)) {
        self.prober.as_mut().map(what);
    }
}

#[cold]
pub(super) fn unexpected(end: usize, expected: &str, found: u32) -> Error {
    Error::new(format_args!("{expected} expected before byte {end}, {found:#x} found"))
}

//! An event log that survives its writers: entries of 8 bytes, each appended by one system call.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

use anyhow::{Context, Result};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// The log, as the process that created it holds it.
#[derive(Debug)]
pub(crate) struct EventLog(OwnedFd);

/// The log as its writers open it: a path, valid while its creator lives.
pub(crate) type Path = String;

impl EventLog {
    pub(crate) fn create() -> Result<Self> {
        Ok(Self(memfd_create(c"event-log", MFdFlags::MFD_CLOEXEC).context("cannot make an event log")?))
    }

    pub(crate) fn path(&self) -> Path {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// All entries, in order.
    pub(crate) fn entries(&self) -> Result<Vec<u64>> {
        let file = File::from(self.0.try_clone()?);
        let mut bytes = vec![0; usize::try_from(file.metadata()?.len())?];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes.as_chunks().0.iter().copied().map(u64::from_ne_bytes).collect())
    }

    /// The number of times that each entry was appended.
    pub(crate) fn counts(&self) -> Result<BTreeMap<u64, u32>> {
        let mut counts = BTreeMap::new();
        for entry in self.entries()? {
            *counts.entry(entry).or_default() += 1;
        }
        Ok(counts)
    }
}

static OPEN: OnceLock<Option<File>> = OnceLock::new();

/// Opens the log that [`append`] writes to.
pub(crate) fn open(path: Path) {
    OPEN.get_or_init(|| File::options().append(true).open(path).ok());
}

pub(crate) fn append(entry: u64) {
    if let Some(mut file) = OPEN.get().and_then(Option::as_ref) {
        let _ = file.write_all(&entry.to_ne_bytes());
    }
}

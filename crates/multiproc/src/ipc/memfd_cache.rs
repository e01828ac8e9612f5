//! A cache of memfds that spilled payloads have left, with their mappings: writing to pages that are there, and
//! mapped, takes a fraction of the time.

use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use crate::error::Result;
use crate::sys::mapping::{self, SharedMapping};
use crate::sys::memfd;
use crate::sys::process_local::ProcessLocal;

/// Sizes in bytes of the memfds that are kept, and how many.
const MIN_SIZE: usize = 256 * 1024;
const MAX_SIZE: usize = 16 * 1024 * 1024;
const MAX_COUNT: usize = 4;

/// A memfd with a spilled payload.
#[derive(Debug)]
pub(crate) struct Spill {
    pub(crate) fd: OwnedFd,
    /// Its mapping in this process, if it was recycled.
    pub(crate) mapping: Option<SharedMapping>,
}

/// Spills bytes to a memfd, recycled or new. A recycled one may be larger, with old bytes after these.
pub(crate) fn write(bytes: &[u8]) -> Result<Spill> {
    write_to(if bytes.len() >= MIN_SIZE { with_cache(Vec::pop) } else { None }, bytes)
}

fn write_to(recycled: Option<Spill>, bytes: &[u8]) -> Result<Spill> {
    let Some(Spill { fd, mapping }) = recycled else {
        return Ok(Spill { fd: memfd::write(bytes)?, mapping: None });
    };
    match mapping.filter(|mapping| mapping.size().get() >= bytes.len()) {
        Some(mapping) => {
            mapping.write(0, bytes);
            Ok(Spill { fd, mapping: Some(mapping) })
        }
        // It is too small. A process that had it may have sealed it against that.
        None => {
            Ok(Spill { fd: memfd::write_over(fd, bytes).or_else(|_| memfd::write(bytes))?, mapping: None })
        }
    }
}

/// Keeps a memfd with a payload of this length for the next [`write()`], within limits. No process may read it
/// any more.
pub(crate) fn recycle(spill: Spill, length: usize) {
    if (MIN_SIZE..=MAX_SIZE).contains(&length) {
        with_cache(|cache| {
            if cache.len() < MAX_COUNT {
                cache.extend(spill.mapped());
            }
        });
    }
}

impl Spill {
    /// Maps all of it, unless it is mapped. `None` if there can be no mapping, or if a process that had it has made it
    /// larger than it is worth.
    fn mapped(self) -> Option<Self> {
        let mapping = self.mapping.or_else(|| mapping::map_present(&self.fd, MAX_SIZE).ok())?;
        Some(Self { fd: self.fd, mapping: Some(mapping) })
    }
}

/// A forked copy of the process closes what it inherits: the original goes on to write there.
static CACHE: ProcessLocal<Mutex<Vec<Spill>>> = ProcessLocal::new(|inherited| {
    if let Some(Ok(mut inherited)) = inherited.map(Mutex::try_lock) {
        inherited.clear();
    }
    Mutex::default()
});

fn with_cache<R>(act: impl FnOnce(&mut Vec<Spill>) -> R) -> R {
    act(&mut CACHE.get().lock().unwrap_or_else(PoisonError::into_inner))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use nix::fcntl::{FcntlArg, SealFlag, fcntl};

    use super::*;
    use crate::sys::memfd::read;

    #[test]
    fn a_recycled_memfd_holds_each_payload_whole() {
        let mut recycled = None;
        // New; mapped; too small, so written; too small again; mapped, also for fewer bytes.
        let lengths =
            [(9000, false), (9000, true), (9001, false), (20_000, false), (100, true), (20_000, true)];
        for (number, (length, is_mapped)) in (1..).zip(lengths) {
            let payload = vec![number; length];
            let spill = write_to(recycled, &payload).unwrap();
            assert!(read(&spill.fd, payload.len(), &[]).unwrap() == payload);
            assert_eq!(spill.mapping.is_some(), is_mapped, "{} bytes", payload.len());
            recycled = spill.mapped();
        }
    }

    /// A worker has the descriptor, and may do to the file what it likes.
    #[test]
    fn a_memfd_that_has_grown_or_was_sealed_is_not_recycled() {
        let grown = write_to(None, &[1; 9000]).unwrap();
        fill(&grown.fd, MAX_SIZE + 1);
        assert!(grown.mapped().is_none());
        let mut sealed = write_to(None, &[1; 9000]).unwrap();
        seal(&sealed.fd);
        sealed = write_to(Some(sealed), &[2; 9000]).unwrap();
        assert!(read(&sealed.fd, 9000, &[]).unwrap() == [2; 9000]);
    }

    fn fill(fd: &OwnedFd, length: usize) {
        File::from(fd.try_clone().unwrap()).write_all_at(&vec![1; length], 0).unwrap();
    }

    fn seal(fd: &OwnedFd) {
        fcntl(fd, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE)).unwrap();
    }
}

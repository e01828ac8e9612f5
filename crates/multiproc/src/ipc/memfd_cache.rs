//! A cache of memfds that spilled payloads have left: writing to pages that are there takes a fraction of the
//! time.

use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use crate::error::Result;
use crate::sys::memfd;

/// Sizes in bytes of the memfds that are kept, and how many.
const MIN_SIZE: usize = 256 * 1024;
const MAX_SIZE: usize = 16 * 1024 * 1024;
const MAX_COUNT: usize = 4;

/// Spills bytes to a memfd, recycled or new. A recycled one may be larger, with old bytes behind these.
pub(crate) fn write(bytes: &[u8]) -> Result<OwnedFd> {
    let recycled = if bytes.len() >= MIN_SIZE { with_cache(Vec::pop) } else { None };
    match recycled {
        Some(fd) => memfd::write_over(fd, bytes),
        None => memfd::write(bytes),
    }
}

/// Keeps a memfd of this length for the next [`write()`], within limits. No process may read it any more.
pub(crate) fn recycle(fd: OwnedFd, length: usize) {
    if (MIN_SIZE..=MAX_SIZE).contains(&length) {
        with_cache(|cache| {
            if cache.len() < MAX_COUNT {
                cache.push(fd);
            }
        });
    }
}

/// The cache, and the process that it belongs to: a forked copy of that process begins with an empty one.
static CACHE: Mutex<(u32, Vec<OwnedFd>)> = Mutex::new((0, Vec::new()));

fn with_cache<R>(act: impl FnOnce(&mut Vec<OwnedFd>) -> R) -> R {
    let mut cache = CACHE.lock().unwrap_or_else(PoisonError::into_inner);
    let own = std::process::id();
    if cache.0 != own {
        *cache = (own, Vec::new());
    }
    act(&mut cache.1)
}

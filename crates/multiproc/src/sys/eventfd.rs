//! Waking whoever polls a descriptor. Several processes may hold it; it wakes quicker than a packet on a socket.

use std::os::fd::{BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::failpoint::{self, Failpoint};
use crate::error::{Error, Result};

pub(crate) fn create() -> Result<OwnedFd> {
    if failpoint::should_fail(Failpoint::CreateEvent) {
        return Err(Error::system("create a descriptor to wait for", Errno::EMFILE));
    }
    EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
        .map(OwnedFd::from)
        .map_err(|errno| Error::system("create a descriptor to wait for", errno))
}

/// Makes it readable, until it is cleared. That cannot fail, unless it has been rung more often than can be counted, and
/// then it is readable.
pub(crate) fn notify(bell: BorrowedFd<'_>) {
    let _ = nix::unistd::write(bell, &1_u64.to_ne_bytes());
}

/// Makes it not readable. It need not have been readable before.
pub(crate) fn clear(bell: BorrowedFd<'_>) {
    let _ = nix::unistd::read(bell, &mut [0; size_of::<u64>()]);
}

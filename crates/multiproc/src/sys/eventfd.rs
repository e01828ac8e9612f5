//! `eventfd(2)`: a pollable wake-up between processes; faster than a packet on a socket.

use std::os::fd::{BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::failpoint::{self, Failpoint};
use crate::error::{Error, Result};

pub(crate) fn create() -> Result<OwnedFd> {
    if failpoint::should_fail(Failpoint::CreateEvent) {
        return Err(Error::os("create a descriptor to wait for", Errno::EMFILE));
    }
    EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
        .map(OwnedFd::from)
        .map_err(|errno| Error::os("create a descriptor to wait for", errno))
}

/// Makes it readable until it is cleared. The write fails only when it has been readable for 2^64 writes.
pub(crate) fn notify(event: BorrowedFd<'_>) {
    let _ = nix::unistd::write(event, &1_u64.to_ne_bytes());
}

/// Makes it not readable, if it was.
pub(crate) fn clear(event: BorrowedFd<'_>) {
    let _ = nix::unistd::read(event, &mut [0; size_of::<u64>()]);
}

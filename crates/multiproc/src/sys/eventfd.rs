//! Waking whoever polls a descriptor. Several processes may hold it; it wakes quicker than a packet on a socket.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::error::{Error, Result};

pub(crate) fn create() -> Result<OwnedFd> {
    EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
        .map(OwnedFd::from)
        .map_err(|errno| Error::system("create a descriptor to wait for", errno))
}

/// Makes it readable, until it is cleared.
pub(crate) fn ring(bell: BorrowedFd<'_>) -> Result<()> {
    loop {
        match nix::unistd::write(bell.as_fd(), &1_u64.to_ne_bytes()) {
            Ok(_) | Err(Errno::EAGAIN) => return Ok(()), // it has been rung more often than can be counted
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(Error::system("wake another process", errno)),
        }
    }
}

/// Makes it not readable. It need not have been readable before.
pub(crate) fn clear(bell: BorrowedFd<'_>) {
    let _ = nix::unistd::read(bell.as_fd(), &mut [0; size_of::<u64>()]);
}

//! The file of a trace, to which all processes append whole lines.

use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::unistd::write;

use crate::error::{Error, Result};
use crate::ipc::wire::SharedFd;

/// Begins a trace in a new file, or in place of what a file has held. The closing bracket of the array will
/// never come, since each process appends its own lines; the format allows that.
pub(super) fn create(path: &Path) -> Result<SharedFd> {
    let failed = |error: &std::io::Error| Error::io(&format!("write a trace to {}", path.display()), error);
    let file = OpenOptions::new().append(true).create(true).open(path).map_err(|error| failed(&error))?;
    claim(&file).map_err(|()| {
        Error::invalid(format!("another program is writing its trace to {}", path.display()))
    })?;
    if file.metadata().is_ok_and(|data| data.is_file()) {
        file.set_len(0).map_err(|error| failed(&error))?;
    }
    let file = SharedFd::from(OwnedFd::from(file));
    append(&file, b"[\n").map_err(|errno| failed(&errno.into()))?;
    Ok(file)
}

/// Refuses a file that another program traces into, such as the one that has executed this one with the same
/// environment. The lock belongs to this process and ends with it; children do not have it.
#[allow(clippy::cast_possible_truncation, reason = "numbers from 0 to 2")]
fn claim(file: &File) -> Result<(), ()> {
    let whole = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    match fcntl(file, FcntlArg::F_SETLK(&whole)) {
        Err(Errno::EAGAIN | Errno::EACCES) => Err(()),
        _ => Ok(()), // where there are no locks, the trace goes on without
    }
}

/// Appends whole lines.
pub(super) fn append(file: &SharedFd, mut lines: &[u8]) -> nix::Result<()> {
    while !lines.is_empty() {
        match write(file, lines) {
            Ok(count) => lines = lines.get(count..).unwrap_or_default(),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

//! The file of a trace. One process writes it, so a process that is killed leaves no half of a line in it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use super::buffers::Buffers;
use crate::error::{Error, Result};
use crate::sys::poll::Deadline;

/// Takes the lines of all processes to the file.
pub(super) struct Writer {
    /// `None` after a failure: half of a line may be there.
    file: Mutex<Option<File>>,
    buffers: Buffers,
}

impl Writer {
    /// Begins a trace in a new file, or in place of what a file has held. The closing bracket of the array
    /// will never come, since the program may be killed at any time; the format allows that.
    pub(super) fn create(path: &Path, buffers: &Buffers) -> Result<Self> {
        let failed = |error: &io::Error| Error::io(&format!("write a trace to {}", path.display()), error);
        let open = OpenOptions::new().append(true).create(true).mode(0o600).open(path);
        let mut file = open.map_err(|error| failed(&error))?;
        claim(&file).map_err(|()| {
            Error::invalid(format!("another program is writing its trace to {}", path.display()))
        })?;
        if file.metadata().is_ok_and(|data| data.is_file()) {
            file.set_len(0).map_err(|error| failed(&error))?;
        }
        file.write_all(b"[\n").map_err(|error| failed(&error))?;
        Ok(Self { file: Mutex::new(Some(file)), buffers: buffers.clone() })
    }

    /// Writes these lines and what all processes have put, except those that are stopped in the middle of it.
    pub(super) fn flush(&self, mut lines: Vec<u8>, deadline: Deadline) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        lines.extend(self.buffers.take_all(deadline));
        if file.as_mut().is_some_and(|file| file.write_all(&lines).is_err()) {
            *file = None; // a full disk is no reason to stop the program
        }
    }

    pub(super) fn buffers(&self) -> &Buffers {
        &self.buffers
    }
}

/// Refuses a file that another program traces into, such as the one that has executed this one with the same
/// environment. The lock is of the open file, so it lasts when the program opens and closes the file once more.
#[allow(clippy::cast_possible_truncation, reason = "numbers from 0 to 2")]
fn claim(file: &File) -> Result<(), ()> {
    let whole = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    match fcntl(file, FcntlArg::F_OFD_SETLK(&whole)) {
        Err(Errno::EAGAIN | Errno::EACCES) => Err(()),
        _ => Ok(()), // where there are no locks, the trace goes on without
    }
}

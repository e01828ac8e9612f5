//! The file of a trace. One process writes it, so a process that is killed leaves no half of a line in it.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::mem;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;

use super::buffers::Buffers;
use crate::error::{Error, Result};
use crate::sys::poll::{self, Deadline, PollFlags};

/// Takes the lines of all processes to the file.
pub(super) struct Writer {
    /// A pipe whose reader is slow does not block it.
    file: File,
    output: Mutex<Output>,
    buffers: Buffers,
}

#[derive(Default)]
struct Output {
    /// What the file did not take yet.
    lines: Vec<u8>,
    /// Half of a line may be in the file.
    has_failed: bool,
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
        let _ = fcntl(&file, FcntlArg::F_SETFL(OFlag::O_APPEND | OFlag::O_NONBLOCK)); // else it blocks
        Ok(Self { file, output: Mutex::default(), buffers: buffers.clone() })
    }

    /// Writes the lines that `own` gives and what all processes have put, except those that are stopped in the
    /// middle of it. Returns whether the file has taken all of it. While it does not, no further lines are taken.
    pub(super) fn flush(&self, own: impl FnOnce() -> Vec<u8>, deadline: Deadline) -> bool {
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        if self.write(&mut output) {
            output.lines = own();
            output.lines.extend(self.buffers.take_all(deadline));
            self.write(&mut output);
        }
        output.lines.is_empty()
    }

    /// Waits until the file takes more; returns whether that was before the deadline.
    pub(super) fn wait_for_room(&self, deadline: Deadline) -> bool {
        poll::ready(self.file.as_fd(), PollFlags::POLLOUT, deadline).unwrap_or(false)
    }

    /// Writes as much as the file takes; returns whether that is all.
    fn write(&self, output: &mut Output) -> bool {
        let lines = mem::take(&mut output.lines);
        let mut rest = &lines[..];
        while !rest.is_empty() && !output.has_failed {
            match (&self.file).write(rest) {
                Ok(written @ 1..) => rest = &rest[written..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    output.lines = rest.to_vec();
                    return false;
                }
                Ok(0) | Err(_) => output.has_failed = true, // a full disk is no reason to stop the program
            }
        }
        true
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

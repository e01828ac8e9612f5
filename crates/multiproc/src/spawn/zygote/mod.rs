//! The zygote (Android's word): this program, executed as far as `init`, which forks children on request.
//!
//! [`handle`] is the program's side, [`main`] the zygote's and its children's. A request carries the child's
//! end of a new start socket, and the child waits there for its bootstrap message. So a child can be forked
//! before it is needed (see [`prefork`](super::prefork)), and the zygote never gets a bootstrap message or a
//! descriptor of the program.
//!
//! The zygote may be killed at any instruction. The [page of pids](pid_page) tells the program in every case
//! which children it has forked.

pub(crate) mod handle;
pub(crate) mod main;
mod pid_page;

use nix::errno::Errno;

pub(crate) use self::pid_page::MAX_REQUESTS;

/// The zygote's name in `ps`.
const COMM: &str = "fork-server";

/// When the child of a request is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Priority {
    /// Now, or in a moment: a start waits for it.
    Immediate,
    /// Later. The child has the time to prepare itself.
    Ahead,
}

impl Priority {
    fn encode(self) -> &'static [u8] {
        match self {
            Self::Immediate => b"fork now",
            Self::Ahead => b"fork ahead",
        }
    }

    fn decode(request: &[u8]) -> Self {
        if request == Self::Immediate.encode() { Self::Immediate } else { Self::Ahead }
    }
}

/// The response to a request.
pub(crate) enum Response {
    /// A child with this pid.
    Forked(u32),
    /// The kernel refuses it.
    Failed(Errno),
    TimedOut,
    /// The zygote has ended.
    Exited,
}

/// A zygote's answer to a request: the child's pid, or 0 and an error number.
fn encode_response(pid: u32, errno: i32) -> [u8; 8] {
    (u64::from(pid) << 32 | u64::from(errno.cast_unsigned())).to_le_bytes()
}

fn decode_response(bytes: [u8; 8]) -> Response {
    let number = u64::from_le_bytes(bytes);
    #[allow(clippy::cast_possible_truncation)] // its two halves
    match ((number >> 32) as u32, number as u32) {
        (0, errno) => Response::Failed(Errno::from_raw(errno.cast_signed())),
        (pid, _) => Response::Forked(pid),
    }
}

#[cfg(test)]
mod tests;

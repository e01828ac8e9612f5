//! Packets between processes: `socketpair(2)` of type SEQPACKET.
//!
//! Such sockets keep message boundaries, carry descriptors, raise no signal, deliver each packet exactly once
//! if several processes share an end, and report a hang-up when all holders of the other end are gone.

use std::io::IoSlice;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, Shutdown, SockFlag, SockType, recv, sendmsg, setsockopt,
    shutdown, socketpair, sockopt,
};

use super::failpoint::{self, Failpoint};
use super::poll::{Deadline, PollFlags, ready};
use crate::error::{Error, Result};

/// The most descriptors that Linux takes in one packet (`SCM_MAX_FD`).
pub(crate) const MAX_DESCRIPTORS: usize = 253;

/// The time between two attempts if no event announces a change.
const PAUSE: Duration = Duration::from_millis(1);
/// The time between two attempts if an event announces more of a change than is needed.
const RETRY: Duration = Duration::from_millis(50);

/// How an attempt to send ended.
#[derive(Debug, PartialEq)]
pub(crate) enum Sent {
    Done,
    TimedOut,
    /// No process holds the other end.
    Disconnected,
}

/// How an attempt to receive ended.
#[derive(Debug)]
pub(crate) enum Received {
    /// A packet with these descriptors.
    Packet(Vec<OwnedFd>),
    TimedOut,
    /// No process holds the other end, and everything sent has been received.
    Disconnected,
}

/// The treatment of a packet if this process has no room for its descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnShortage {
    Lose,
    /// It can be received later.
    Leave,
}

/// Two connected sockets, closed on exec.
pub(crate) fn pair() -> Result<(OwnedFd, OwnedFd)> {
    if failpoint::should_fail(Failpoint::CreateSockets) {
        return Err(Error::os("create a pair of sockets", Errno::EMFILE));
    }
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
        .map_err(|errno| Error::os("create a pair of sockets", errno))
}

/// Asks for room for `bytes` of unreceived packets. The kernel grants up to its own limit, silently.
pub(crate) fn reserve(socket: BorrowedFd<'_>, bytes: usize) -> Result<()> {
    setsockopt(&socket, sockopt::SndBuf, &bytes).map_err(|errno| Error::os("size a socket's buffer", errno))
}

/// Sends the parts as one packet, all or nothing. Blocks while the buffer is full, until the deadline.
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    parts: &[&[u8]],
    descriptors: &[BorrowedFd<'_>],
    deadline: Deadline,
) -> Result<Sent> {
    let slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
    let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    if failpoint::should_fail(Failpoint::SendPacket) {
        return Err(Error::os("send a packet", Errno::ENOBUFS));
    }
    loop {
        match sendmsg::<()>(socket.as_raw_fd(), &slices, control, flags, None) {
            Ok(_) => return Ok(Sent::Done),
            Err(Errno::EINTR | Errno::ECONNRESET) => {} // ECONNRESET is about earlier packets, and comes once
            // The kernel only tells of room once three quarters of the buffer are free (`unix_writable`).
            Err(Errno::EAGAIN) => {
                if !ready(socket, PollFlags::POLLOUT, deadline.or_within(RETRY))? && deadline.is_over() {
                    return Ok(Sent::TimedOut);
                }
            }
            // This user has too many descriptors in flight. No event announces that there are fewer.
            Err(Errno::ETOOMANYREFS) => match deadline.left() {
                Some(Duration::ZERO) => return Ok(Sent::TimedOut),
                left => thread::sleep(left.map_or(PAUSE, |left| left.min(PAUSE))),
            },
            Err(Errno::EPIPE) => return Ok(Sent::Disconnected),
            Err(errno) => return Err(Error::os("send a packet", errno)),
        }
    }
}

/// Receives one packet of at most `size` bytes into `buffer`, which it overwrites. Blocks while there is
/// none, until the deadline. Touches only as much memory as the packet needs.
pub(crate) fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut Vec<u8>,
    size: usize,
    deadline: Deadline,
    on_shortage: OnShortage,
) -> Result<Received> {
    let leaves = on_shortage == OnShortage::Leave;
    buffer.clear();
    buffer.reserve(size);
    let room = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: size };
    loop {
        // Without a deadline `recvmsg` itself waits, which saves a `poll`.
        let wait = if matches!(deadline, Deadline::Never) { 0 } else { libc::MSG_DONTWAIT };
        let flags = if leaves { wait | libc::MSG_PEEK } else { wait };
        // SAFETY: the room is ours, and of that length.
        match unsafe { receive_once(socket, room, flags) } {
            Ok((0, _)) => return Ok(Received::Disconnected), // our packets are never empty
            Ok((length, descriptors)) => {
                // SAFETY: the kernel has written that many bytes to the beginning of the room.
                unsafe { buffer.set_len(length) };
                if leaves {
                    discard(socket);
                }
                return Ok(Received::Packet(descriptors));
            }
            // ECONNRESET: the other end is gone and has not received all packets. It is reported once, before
            // the packets that the other end had sent.
            Err(Errno::EINTR | Errno::ECONNRESET) => {}
            Err(Errno::EAGAIN) => {
                if !ready(socket, PollFlags::POLLIN, deadline)? {
                    return Ok(Received::TimedOut);
                }
            }
            Err(Errno::EMFILE) => return Err(Error::os("receive a packet's descriptors", Errno::EMFILE)),
            Err(errno) => {
                if leaves && errno == Errno::EMSGSIZE {
                    discard(socket); // else each later call would fail with it
                }
                return Err(Error::os("receive a packet", errno));
            }
        }
    }
}

/// Copies the next packet, or its beginning, to `buffer`, and leaves it there. Returns its length and
/// duplicates of its descriptors; `None` if there is no packet.
pub(crate) fn peek(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<Option<(usize, Vec<OwnedFd>)>> {
    let room = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    loop {
        // SAFETY: the buffer is ours, and of that length.
        match unsafe { receive_once(socket, room, libc::MSG_PEEK | libc::MSG_DONTWAIT | libc::MSG_TRUNC) } {
            Ok((0, _)) | Err(Errno::EAGAIN) => return Ok(None),
            Ok(packet) => return Ok(Some(packet)),
            Err(Errno::EINTR | Errno::ECONNRESET) => {}
            Err(errno) => return Err(Error::os("receive a packet's descriptors", errno)),
        }
    }
}

/// Whether a process certainly holds the other end. False if a packet waits here.
pub(crate) fn is_surely_connected(socket: BorrowedFd<'_>) -> bool {
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    recv(socket.as_raw_fd(), &mut [0], flags) == Err(Errno::EAGAIN)
}

/// Discards the next packet, if there is one.
pub(crate) fn discard(socket: BorrowedFd<'_>) {
    while let Err(Errno::EINTR | Errno::ECONNRESET) =
        recv(socket.as_raw_fd(), &mut [0], MsgFlags::MSG_DONTWAIT)
    {}
}

/// Shuts the connection down for all holders of both ends. Packets that were sent can still be received.
pub(crate) fn hang_up(socket: BorrowedFd<'_>) {
    let _ = shutdown(socket.as_raw_fd(), Shutdown::Both); // fails if it is shut down already
}

/// The first bytes, up to 64, of the next packet, which stays there.
pub(crate) fn waiting_packet(socket: BorrowedFd<'_>) -> Option<Vec<u8>> {
    let mut seen = vec![0; 64];
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    let length = recv(socket.as_raw_fd(), &mut seen, flags).ok()?;
    seen.truncate(length);
    Some(seen)
}

/// Room for the control data of one packet, aligned as its header wants.
#[repr(C, align(8))]
struct Control([u8; CONTROL_BYTES]);

const CONTROL_BYTES: usize = nix::sys::socket::cmsg_space::<[RawFd; MAX_DESCRIPTORS]>();

/// One `recvmsg`. Not through `nix`, which leaks the descriptors that arrived if others found no room.
///
/// # Safety
/// `room` is memory that may be written to.
unsafe fn receive_once(
    socket: BorrowedFd<'_>,
    mut room: libc::iovec,
    flags: i32,
) -> nix::Result<(usize, Vec<OwnedFd>)> {
    let mut control = Control([0; CONTROL_BYTES]);
    // SAFETY: all-zero bytes are a valid msghdr: null pointers and zero lengths.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_iov = &raw mut room;
    header.msg_iovlen = 1;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = CONTROL_BYTES as _;
    // SAFETY: every pointer in the header is to a live local of the given length, or to the caller's room.
    let length =
        unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags | libc::MSG_CMSG_CLOEXEC) };
    let length = Errno::result(length)?;
    let descriptors = arrived(&header);
    if header.msg_flags & libc::MSG_CTRUNC != 0 {
        return Err(Errno::EMFILE); // drops, and so closes, those that arrived
    }
    if header.msg_flags & libc::MSG_TRUNC != 0 && flags & libc::MSG_TRUNC == 0 {
        return Err(Errno::EMSGSIZE);
    }
    Ok((length.cast_unsigned(), descriptors))
}

/// Takes ownership of every descriptor that came with a packet.
fn arrived(header: &libc::msghdr) -> Vec<OwnedFd> {
    let mut descriptors = Vec::new();
    // SAFETY: `recvmsg` has filled the header; its control data is alive in the caller.
    let mut message = unsafe { libc::CMSG_FIRSTHDR(header) };
    // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR give null or a whole header inside the control data.
    while let Some(&libc::cmsghdr { cmsg_len, cmsg_level, cmsg_type, .. }) = unsafe { message.as_ref() } {
        if (cmsg_level, cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            // SAFETY: `message` is a header inside the control data; its data follow it.
            let data = unsafe { libc::CMSG_DATA(message) };
            #[allow(clippy::unnecessary_cast)] // musl has another type
            let bytes = cmsg_len as usize - (data.addr() - message.addr());
            for offset in (0..bytes).step_by(size_of::<RawFd>()) {
                // SAFETY: the header says that this many bytes follow it.
                let at = unsafe { data.add(offset) };
                // SAFETY: they are numbers of this type, at any alignment.
                let fd = unsafe { at.cast::<RawFd>().read_unaligned() };
                // SAFETY: the kernel has just made this descriptor; nothing else knows its number.
                descriptors.push(unsafe { OwnedFd::from_raw_fd(fd) });
            }
        }
        // SAFETY: as for CMSG_FIRSTHDR.
        message = unsafe { libc::CMSG_NXTHDR(header, message) };
    }
    descriptors
}

//! Packets between processes: a pair of connected sockets of type SEQPACKET.
//!
//! Why this kind: it keeps message boundaries, carries descriptors, raises no signal, delivers each packet exactly
//! once when several processes share an end, and reports the end when the last holder of the other end, killed or
//! not, is gone.

use std::io::IoSlice;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, getsockopt, sendmsg, setsockopt, socketpair,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::failpoint::{self, Failpoint};
use super::poll::{Deadline, PollFlags, ready};
use crate::error::{Error, Result};

/// As many descriptors as Linux takes in one packet (`SCM_MAX_FD`).
pub(crate) const MAX_DESCRIPTORS: usize = 253;

/// How long to wait where nothing announces a change.
const PAUSE: Duration = Duration::from_millis(1);

/// How an attempt to send ended.
#[derive(Debug, PartialEq)]
pub(crate) enum Sent {
    Done,
    /// The deadline came first.
    TimedOut,
    /// Nobody holds the other end any more.
    Disconnected,
}

/// How an attempt to receive ended.
#[derive(Debug)]
pub(crate) enum Received {
    /// A packet, with these descriptors.
    Packet(Vec<OwnedFd>),
    /// The deadline came first.
    TimedOut,
    /// Nobody holds the other end any more, and everything sent has been received.
    Disconnected,
}

/// What becomes of a packet for whose descriptors there is no room in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnShortage {
    Lose,
    /// It can be received later.
    Leave,
}

/// Two connected sockets, closed on exec.
pub(crate) fn pair() -> Result<(OwnedFd, OwnedFd)> {
    if failpoint::should_fail(Failpoint::CreateSockets) {
        return Err(Error::system("create a pair of sockets", Errno::EMFILE));
    }
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
        .map_err(|errno| Error::system("create a pair of sockets", errno))
}

/// Asks for room for `bytes` of unreceived packets; the system grants up to its own limit, silently.
pub(crate) fn reserve(socket: BorrowedFd<'_>, bytes: usize) -> Result<()> {
    setsockopt(&socket, sockopt::SndBuf, &bytes)
        .map_err(|errno| Error::system("size a socket's buffer", errno))
}

/// Sends the parts as one packet: all of it or nothing. Blocks while the buffer is full, until the deadline.
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
        return Err(Error::system("send a packet", Errno::ENOBUFS));
    }
    loop {
        match sendmsg::<()>(socket.as_raw_fd(), &slices, control, flags, None) {
            Ok(_) => return Ok(Sent::Done),
            Err(Errno::EINTR | Errno::ECONNRESET) => {} // the second is about what was sent before, and told once
            Err(Errno::EAGAIN) => {
                if !ready(socket, PollFlags::POLLOUT, deadline)? {
                    return Ok(Sent::TimedOut);
                }
            }
            // All processes of this user have too many descriptors in packets that nobody has received yet. Nothing
            // announces that there are fewer.
            Err(Errno::ETOOMANYREFS) => match deadline.left() {
                Some(Duration::ZERO) => return Ok(Sent::TimedOut),
                left => thread::sleep(left.map_or(PAUSE, |left| left.min(PAUSE))),
            },
            Err(Errno::EPIPE) => return Ok(Sent::Disconnected),
            Err(errno) => return Err(Error::system("send a packet", errno)),
        }
    }
}

/// Receives one packet of at most `size` bytes into `buffer`, in place of what is there. Blocks while there is none, until
/// the deadline. Of the room that is made for it only as much is touched as the packet needs.
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
        // Without a deadline the system call itself may wait, which saves one to poll.
        let wait = if matches!(deadline, Deadline::Never) { 0 } else { libc::MSG_DONTWAIT };
        let flags = if leaves { wait | libc::MSG_PEEK } else { wait };
        // SAFETY: there is room for so many bytes, which is ours.
        match unsafe { receive_once(socket, room, flags) } {
            Ok((0, _)) => return Ok(Received::Disconnected), // our packets are never empty
            Ok((length, descriptors)) => {
                // SAFETY: so many bytes have been written to the beginning of the room.
                unsafe { buffer.set_len(length) };
                if leaves {
                    discard(socket);
                }
                return Ok(Received::Packet(descriptors));
            }
            // The other end has gone without having received all from us. That is told once, and comes before what
            // the other end had sent, which is still here.
            Err(Errno::EINTR | Errno::ECONNRESET) => {}
            Err(Errno::EAGAIN) => {
                if !ready(socket, PollFlags::POLLIN, deadline)? {
                    return Ok(Received::TimedOut);
                }
            }
            Err(Errno::EMFILE) => return Err(Error::system("receive a packet's descriptors", Errno::EMFILE)),
            Err(errno) => {
                if leaves && errno == Errno::EMSGSIZE {
                    discard(socket); // else it would stay there, as an error
                }
                return Err(Error::system("receive a packet", errno));
            }
        }
    }
}

/// Shows the next packet, which stays, and gives its length and duplicates of its descriptors; `None` when there is none.
/// Of a packet longer than the buffer, the beginning is shown.
pub(crate) fn peek(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<Option<(usize, Vec<OwnedFd>)>> {
    let room = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    loop {
        // SAFETY: the buffer is ours, and of that length.
        match unsafe { receive_once(socket, room, libc::MSG_PEEK | libc::MSG_DONTWAIT | libc::MSG_TRUNC) } {
            Ok((0, _)) | Err(Errno::EAGAIN) => return Ok(None),
            Ok(packet) => return Ok(Some(packet)),
            Err(Errno::EINTR | Errno::ECONNRESET) => {}
            Err(errno) => return Err(Error::system("receive a packet's descriptors", errno)),
        }
    }
}

/// Whether it is sure that somebody holds the other end. It is not where a packet is waiting.
pub(crate) fn is_held(socket: BorrowedFd<'_>) -> bool {
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    nix::sys::socket::recv(socket.as_raw_fd(), &mut [0], flags) == Err(Errno::EAGAIN)
}

/// Throws the next packet away, if there is one.
pub(crate) fn discard(socket: BorrowedFd<'_>) {
    while let Err(Errno::EINTR | Errno::ECONNRESET) =
        nix::sys::socket::recv(socket.as_raw_fd(), &mut [0], MsgFlags::MSG_DONTWAIT)
    {}
}

/// Ends the connection for both sides, whoever holds copies of this end. What was sent can still be received.
pub(crate) fn hang_up(socket: BorrowedFd<'_>) {
    let _ = nix::sys::socket::shutdown(socket.as_raw_fd(), nix::sys::socket::Shutdown::Both); // else it is over already
}

/// From now on, this process is killed when the other end is gone. Nothing may arrive on this socket any more.
///
/// The kernel checks the right to send that signal against who asked for it here, so it holds also after this process,
/// or the other one, has become another user.
pub(crate) fn signal_on_hangup(socket: BorrowedFd<'_>) -> nix::Result<()> {
    const F_SETSIG: i32 = 10; // `libc` does not have it; the same on all of Linux (asm-generic/fcntl.h)
    let fd = socket.as_raw_fd();
    let own_pid = nix::unistd::getpid().as_raw();
    for (command, argument) in
        [(libc::F_SETOWN, own_pid), (F_SETSIG, libc::SIGKILL), (libc::F_SETFL, libc::O_ASYNC)]
    {
        // SAFETY: these commands take a number.
        Errno::result(unsafe { libc::fcntl(fd, command, argument) })?;
    }
    Ok(())
}

/// The first bytes, up to 64, of the packet that is waiting, if there is one; takes nothing.
pub(crate) fn waiting_packet(socket: BorrowedFd<'_>) -> Option<Vec<u8>> {
    let mut seen = vec![0; 64];
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    let length = nix::sys::socket::recv(socket.as_raw_fd(), &mut seen, flags).ok()?;
    seen.truncate(length);
    Some(seen)
}

/// Room for the control data of one packet, aligned as its header wants.
#[repr(C, align(8))]
struct Control([u8; CONTROL_BYTES]);

const CONTROL_BYTES: usize = nix::sys::socket::cmsg_space::<[RawFd; MAX_DESCRIPTORS]>();

/// One `recvmsg`. Not through `nix`, which forgets the descriptors that did arrive when others found no room.
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
    // SAFETY: every pointer in the header is to a live local of the length given beside it, or to the caller's room.
    let length =
        unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags | libc::MSG_CMSG_CLOEXEC) };
    let length = Errno::result(length)?;
    let descriptors = arrived(&header);
    if header.msg_flags & libc::MSG_CTRUNC != 0 {
        return Err(Errno::EMFILE); // those that did arrive are closed by their owners here
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
            #[allow(clippy::unnecessary_cast)] // not everywhere: musl has a type of its own
            let bytes = cmsg_len as usize - (data.addr() - message.addr());
            for offset in (0..bytes).step_by(size_of::<RawFd>()) {
                // SAFETY: the header says that so many bytes follow it.
                let place = unsafe { data.add(offset) };
                // SAFETY: they are numbers of this type, at whatever alignment.
                let fd = unsafe { place.cast::<RawFd>().read_unaligned() };
                // SAFETY: the kernel has just made this descriptor for us; nobody else knows its number.
                descriptors.push(unsafe { OwnedFd::from_raw_fd(fd) });
            }
        }
        // SAFETY: as for CMSG_FIRSTHDR.
        message = unsafe { libc::CMSG_NXTHDR(header, message) };
    }
    descriptors
}

/// Who made a pair of sockets, by the kernel's word.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SocketOwner {
    pub(crate) pid: i32,
    pub(crate) user: u32,
    pub(crate) group: u32,
}

/// Who made this start socket; nothing if it is none.
pub(crate) fn maker(socket: BorrowedFd<'_>) -> Option<SocketOwner> {
    let kind = getsockopt(&socket, sockopt::SockType).ok()?;
    let mark = getsockopt(&socket, sockopt::SendTimeout).ok()?;
    let maker = getsockopt(&socket, sockopt::PeerCredentials).ok()?;
    (kind == SockType::SeqPacket && mark.tv_sec() == MARK).then(|| SocketOwner {
        pid: maker.pid(),
        user: maker.uid(),
        group: maker.gid(),
    })
}

/// Makes this a start socket for whoever gets it, also when all that was in it has been read.
///
/// The mark is a number of seconds, 58 years, for which a call that sends would wait; ours never wait in such
/// a call. A time limit is the one thing at such a socket that can be set freely and stays.
pub(crate) fn mark(socket: BorrowedFd<'_>) -> nix::Result<()> {
    setsockopt(&socket, sockopt::SendTimeout, &TimeVal::seconds(MARK))
}

/// The bytes `mult`.
const MARK: i64 = 0x6d75_6c74;

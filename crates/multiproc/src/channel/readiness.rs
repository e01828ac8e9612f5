//! A pollable descriptor: readable while a message is there or all senders are gone. It is an epoll instance
//! over the receivers' eventfd and socket.
//!
//! Senders write the eventfd only while the wakeup flag is set. So while no thread receives, the flag stays
//! set, and the eventfd is kept readable while messages are in the ring. A sender may write it after its
//! message was received already; the descriptor is then readable once too often, until the next receiving
//! call corrects it.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::OnceLock;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

use crate::channel::ReceiverCore;
use crate::sys::atomic::{SeqCst, fence};

/// Made when it is first asked for; costs nothing before.
#[derive(Default)]
pub(crate) struct ReadinessFd(OnceLock<Epoll>);

impl ReadinessFd {
    /// The descriptor; `None` when the kernel refuses one.
    pub(crate) fn get_or_create(&self, receiver: &ReceiverCore) -> Option<BorrowedFd<'_>> {
        if self.0.get().is_none() {
            let _ = self.0.set(create(receiver).ok()?); // another thread may have set it first
            self.update(receiver);
        }
        self.0.get().map(|epoll| epoll.0.as_fd())
    }

    /// To be called after each call that may have received or waited.
    #[inline]
    pub(crate) fn update(&self, receiver: &ReceiverCore) {
        // While another thread creates the descriptor: that thread gets the lock, or the lock's holder sees
        // it set.
        fence(SeqCst);
        if self.0.get().is_some() {
            // On an error the eventfd stays as it is: the next call that receives meets the error itself.
            let _ = receiver.update_readiness();
        }
    }
}

fn create(receiver: &ReceiverCore) -> nix::Result<Epoll> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(receiver.end().endpoint.eventfd(), EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
    epoll.add(&receiver.end().fds().socket, EpollEvent::new(EpollFlags::empty(), 0))?; // for EPOLLHUP
    Ok(epoll)
}

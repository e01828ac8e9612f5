//! A descriptor that is readable while a message is there, or all senders are gone, for a program that waits for several
//! things at once.
//!
//! The event count alone does not say so, as it is rung only for one who waits. So while nobody receives, the wakeup flag stays armed,
//! and the event count is kept readable while messages are in the ring. The descriptor is for both, the event count and the socket. (A
//! sender may ring when what he has sent was received already; so it can be readable once too often, and who then looks
//! whether there is anything makes it right.)

use crate::sys::atomic::{SeqCst, fence};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::OnceLock;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

use crate::channel::ReceiverCore;

/// Costs nothing until it is asked for.
#[derive(Default)]
pub(crate) struct ReadinessFd(OnceLock<Epoll>);

impl ReadinessFd {
    /// The descriptor; `None` when the system has none to give.
    pub(crate) fn begin(&self, messages: &ReceiverCore) -> Option<BorrowedFd<'_>> {
        if self.0.get().is_none() {
            let _ = self.0.set(both(messages).ok()?); // or another thread has been quicker
            self.settle(messages);
        }
        self.0.get().map(|both| both.0.as_fd())
    }

    /// To be called after everything that may have received or waited.
    #[inline]
    pub(crate) fn settle(&self, messages: &ReceiverCore) {
        // Two threads may be here, one of which begins: either it gets the lock, or who has it sees the watch after.
        fence(SeqCst);
        if self.0.get().is_some() {
            // On an error the event count stays as it is: the next call that receives meets the error itself.
            let _ = messages.update_readiness();
        }
    }
}

fn both(messages: &ReceiverCore) -> nix::Result<Epoll> {
    let both = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    both.add(messages.eventfd(), EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
    both.add(&messages.fds().socket, EpollEvent::new(EpollFlags::empty(), 0))?; // a hang-up is reported unasked
    Ok(both)
}

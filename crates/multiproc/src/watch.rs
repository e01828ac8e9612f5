//! A descriptor that is readable while a message is there, for a program that waits for several things at once.
//!
//! The socket alone does not say so, as a packet comes only to one who waits. So while nobody receives, the alarm stays
//! armed, and a flag is up exactly while messages are in the ring: the descriptor is for both, the packet and the flag.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::channel::Receiving;

/// Costs nothing until it is asked for.
#[derive(Default)]
pub(crate) struct Watch(OnceLock<Watched>);

struct Watched {
    both: Epoll,
    flag: EventFd,
    is_up: AtomicBool,
}

impl Watch {
    /// The descriptor; `None` when the system has none to give.
    pub(crate) fn begin(&self, messages: &Receiving) -> Option<BorrowedFd<'_>> {
        if self.0.get().is_none() {
            let _ = self.0.set(Watched::new(messages).ok()?); // or another thread has been quicker
            fence(Ordering::SeqCst); // either we get the lock now, or who has it sees the watch when he has let it go
            self.settle(messages);
        }
        self.0.get().map(|watched| watched.both.0.as_fd())
    }

    /// To be called after everything that may have received or waited.
    #[inline]
    pub(crate) fn settle(&self, messages: &Receiving) {
        fence(Ordering::SeqCst); // see above
        if let Some(watched) = self.0.get() {
            // On an error the flag stays as it is: the next call that receives meets the error itself.
            let _ = messages.settle(|is_there| watched.show(is_there));
        }
    }
}

impl Watched {
    fn new(messages: &Receiving) -> nix::Result<Self> {
        let both = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let flag = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        both.add(messages.socket(), EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        both.add(&flag, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        Ok(Self { both, flag, is_up: AtomicBool::new(false) })
    }

    /// Puts the flag up or down; under the lock.
    fn show(&self, is_there: bool) {
        if self.is_up.swap(is_there, Ordering::Relaxed) != is_there {
            let _ = if is_there { self.flag.write(1).map(drop) } else { self.flag.read().map(drop) };
        }
    }
}

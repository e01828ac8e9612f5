//! The page of pids that program and zygote share: one word for each request that can be pending.
//!
//! The kernel writes a child's pid to its word before the child's first instruction (`CLONE_PARENT_SETTID`).
//! The program clears the word when it has sent the bootstrap message. A set word is a child that no start
//! took.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::ipc::packet::PacketSocket;
use crate::sys::atomic::AtomicU32;
use crate::sys::futex;
use crate::sys::mapping::SharedMapping;
use crate::sys::pidfd::PidFd;
use crate::sys::process::{exit_immediately, own_pid};

/// How many requests can be pending.
pub(crate) const MAX_REQUESTS: usize = WORDS - 1;
/// One for each pending request, and one for the child that was taken last and may not be
/// [released](PidPage::release).
const WORDS: usize = 8;

/// The bit beside a child's pid that says that it sleeps until it is [released](PidPage::release).
pub(super) const WAITS: u32 = 1 << 31;
/// How often a child that waits to be released checks that its parent lives.
pub(super) const RELEASE_RECHECK: Duration = Duration::from_millis(100);

/// Requests are numbered from 0. Their words are reused in turn.
pub(crate) struct PidPage(pub(super) Arc<SharedMapping>);

impl PidPage {
    pub(super) const SIZE: NonZeroUsize = NonZeroUsize::new(4 * WORDS).unwrap();

    pub(super) fn word(&self, number: u64) -> &AtomicU32 {
        self.0.word32(4 * usize::try_from(number % WORDS as u64).unwrap_or(0)) // below WORDS
    }

    /// The child of this request, if there is one that was not [released](Self::release). For a request whose
    /// response was not taken, when no later one can use its word.
    pub(crate) fn unclaimed(&self, number: u64) -> Option<(u32, PidFd)> {
        match self.word(number).load(Ordering::Relaxed) & !WAITS {
            0 => None,
            pid => PidFd::of_child(pid).ok().map(|pidfd| (pid, pidfd)),
        }
    }

    /// Makes the child of this request, which has its bootstrap message, a child like any other.
    pub(crate) fn release(&self, number: u64) {
        let word = self.word(number);
        if word.swap(0, Ordering::Release) & WAITS != 0 {
            futex::wake_all(word);
        }
    }

    /// In the child: has the kernel map the page, which [`wait_for_release`](Self::wait_for_release) will use.
    pub(super) fn prefault(&self, number: u64) {
        self.word(number).load(Ordering::Relaxed);
    }

    /// In the child: waits until the parent has [released](Self::release) it. It has its bootstrap message,
    /// so the parent is about to leave the system call that sent it.
    ///
    /// Until then the kernel may still be about to announce that packet. After
    /// [`kill_on_hangup`](crate::sys::parent_death::kill_on_hangup), which asks for SIGKILL when the socket
    /// changes, that would kill this process.
    pub(super) fn wait_for_release(&self, number: u64, start_socket: &PacketSocket) {
        let (word, pid) = (self.word(number), own_pid());
        loop {
            match word.compare_exchange(pid, pid | WAITS, Ordering::Relaxed, Ordering::Acquire) {
                Err(now) if now & !WAITS != pid => return,
                _ => futex::wait(word, pid | WAITS, Some(RELEASE_RECHECK)),
            }
            // The parent may have been stopped and then killed just there.
            if start_socket.is_hung_up() {
                exit_immediately(1);
            }
        }
    }
}

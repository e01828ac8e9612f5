//! Waiting for a word in shared memory to change.

use std::ptr;
use std::time::Duration;

use nix::libc;

use super::atomic::AtomicU32;

/// Blocks while `word` is `expected`, at most for `time`. Returns early now and then: the caller looks again.
pub(crate) fn wait(word: &AtomicU32, expected: u32, time: Option<Duration>) {
    let timeout = time.map(|time| libc::timespec {
        tv_sec: libc::time_t::try_from(time.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: time.subsec_nanos().into(),
    });
    let timeout = timeout.as_ref().map_or(ptr::null(), ptr::from_ref);
    // SAFETY: the word and the timeout outlive the call; without FUTEX_PRIVATE_FLAG the word may be shared.
    unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, expected, timeout);
    }
}

/// Wakes everyone who waits on `word`, in whatever process. Returns how many threads that were.
pub(crate) fn wake_all(word: &AtomicU32) -> usize {
    // SAFETY: FUTEX_WAKE only uses the address as a key.
    let woken = unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX, ptr::null::<()>())
    };
    usize::try_from(woken).unwrap_or(0)
}

/// Lets another thread run that is about to sleep or to wake, whatever the priorities of both.
pub(crate) fn pause() {
    std::thread::sleep(Duration::from_micros(10));
}

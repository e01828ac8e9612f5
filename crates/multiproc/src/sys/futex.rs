//! `futex(2)`: waiting for a word in shared memory to change.

use std::ptr;
use std::time::Duration;

use nix::libc;

use super::atomic::{AtomicU32, AtomicU64};

/// Blocks while `word` is `expected`, at most for `time`. May return early: the caller checks again.
pub(crate) fn wait(word: &AtomicU32, expected: u32, time: Option<Duration>) {
    wait_at(word.as_ptr(), expected, time);
}

/// As [`wait`], for the low half of a word.
#[cfg(target_endian = "little")]
#[allow(clippy::cast_possible_truncation)] // the half is what is asked for
pub(crate) fn wait_low_half(word: &AtomicU64, expected: u64, time: Option<Duration>) {
    wait_at(word.as_ptr().cast(), expected as u32, time);
}

fn wait_at(word: *mut u32, expected: u32, time: Option<Duration>) {
    let timeout = time.map(|time| libc::timespec {
        tv_sec: libc::time_t::try_from(time.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: time.subsec_nanos().into(),
    });
    let timeout = timeout.as_ref().map_or(ptr::null(), ptr::from_ref);
    // SAFETY: the kernel refuses an address that is not mapped, and the timeout outlives the call. (Without
    // FUTEX_PRIVATE_FLAG the word may be shared.)
    unsafe {
        libc::syscall(libc::SYS_futex, word, libc::FUTEX_WAIT, expected, timeout);
    }
}

/// Wakes all threads that wait on `word`, in all processes. Returns how many there were.
pub(crate) fn wake_all(word: &AtomicU32) -> usize {
    wake(word.as_ptr(), i32::MAX)
}

/// Wakes one thread that waits on the low half of a word.
#[cfg(target_endian = "little")]
pub(crate) fn wake_one_at_low_half(word: &AtomicU64) {
    wake(word.as_ptr().cast(), 1);
}

fn wake(word: *mut u32, max: i32) -> usize {
    // SAFETY: FUTEX_WAKE only uses the address as a key.
    let woken = unsafe { libc::syscall(libc::SYS_futex, word, libc::FUTEX_WAKE, max, ptr::null::<()>()) };
    usize::try_from(woken).unwrap_or(0)
}

/// Sleeps for a moment, so that another thread runs, whatever the priorities of both.
pub(crate) fn pause() {
    std::thread::sleep(Duration::from_micros(10));
}

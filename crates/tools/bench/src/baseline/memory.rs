//! A forked process, memory that it shares with its parent, and waiting there.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::atomic::AtomicU32;

use anyhow::{Result, bail, ensure};
use bench::program::Wrong;

/// A child that has not been waited for. Dropped, it is killed.
pub(super) struct Child(libc::pid_t);

/// Forks; the child does `work` and exits. It dies with its parent.
pub(super) fn fork(work: impl FnOnce()) -> Result<Child> {
    // SAFETY: this process has one thread, so that its copy may do anything.
    let pid = unsafe { libc::fork() };
    match pid {
        -1 => bail!("cannot fork: {}", std::io::Error::last_os_error()),
        0 => {
            // SAFETY: the call only sets the signal for the parent's death.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            let code = i32::from(catch_unwind(AssertUnwindSafe(work)).is_err());
            // SAFETY: ends the process.
            unsafe { libc::_exit(code) }
        }
        pid => Ok(Child(pid)),
    }
}

impl Child {
    pub(super) fn pid(&self) -> u32 {
        self.0.cast_unsigned()
    }

    /// Waits until the child has ended, which must be with 0.
    pub(super) fn join(self) -> Result<()> {
        ensure!(self.wait() == 0, Wrong("a forked child has found its work wrong".to_owned()));
        Ok(())
    }

    pub(super) fn kill(self) {
        drop(self);
    }

    fn wait(self) -> i32 {
        let mut status = 0;
        // SAFETY: the child was not waited for before, and `status` is there to be written.
        unsafe { libc::waitpid(self.0, &raw mut status, 0) };
        std::mem::forget(self);
        status
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // SAFETY: the child was not waited for, so that the number is still its own.
        unsafe { libc::kill(self.0, libc::SIGKILL) };
        // SAFETY: as above; the status is not needed.
        unsafe { libc::waitpid(self.0, ptr::null_mut(), 0) };
    }
}

/// New memory that forked children share: zeros, never unmapped.
pub(super) fn shared(length: usize) -> Result<*mut u8> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
    // SAFETY: a new mapping at an address of the kernel's choice.
    let memory = unsafe { libc::mmap(ptr::null_mut(), length, protection, flags, -1, 0) };
    ensure!(memory != libc::MAP_FAILED, "cannot map memory: {}", std::io::Error::last_os_error());
    Ok(memory.cast())
}

/// New memory that holds a value made of zeros.
pub(super) fn shared_value<T>() -> Result<&'static T> {
    let memory = shared(size_of::<T>())?.cast::<T>();
    // SAFETY: a mapping is aligned to pages, long enough, and never unmapped. Every `T` here is made of
    // atomics, for which zeros are a value.
    Ok(unsafe { &*memory })
}

/// Sleeps while the word is `value`.
pub(super) fn sleep_while(word: &AtomicU32, value: u32) {
    // SAFETY: the word is there; the kernel only reads it.
    unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, value, ptr::null::<libc::timespec>())
    };
}

/// Wakes the processes that sleep on the word.
pub(super) fn wake(word: &AtomicU32) {
    // SAFETY: the word is there; the kernel takes its address.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX) };
}

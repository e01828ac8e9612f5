//! The atomics that processes share memory through. One thin layer, so that a model checker can put its own in place
//! of it: the package `models` compiles the files that use it against those.

pub(crate) use std::sync::atomic::Ordering::{self, AcqRel, Acquire, Relaxed, Release, SeqCst};
pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64};

/// As the standard library's. On x86-64 any locked instruction is a full fence, and takes a tenth of the time of the one
/// that the compiler has for it.
#[inline]
pub(crate) fn fence(ordering: Ordering) {
    #[cfg(target_arch = "x86_64")]
    if ordering == SeqCst {
        // SAFETY: it changes no bit of what lies on the stack there, and the flags only, which the compiler is told. It
        // may touch memory for all the compiler knows, so no access moves across it.
        unsafe { std::arch::asm!("lock or dword ptr [rsp], 0") };
        return;
    }
    std::sync::atomic::fence(ordering);
}

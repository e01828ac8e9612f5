//! Atomics in shared memory: a thin layer over the standard library's, which the package `models` replaces
//! with those of the model checker loom.

pub(crate) use std::sync::atomic::Ordering::{self, AcqRel, Acquire, Relaxed, Release, SeqCst};
pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64};

/// The cheap side of an asymmetric barrier: stores before it and loads after it keep their order for a
/// process that calls [`membarrier`](super::membarrier::barrier).
#[inline]
pub(crate) fn light_fence() {
    std::sync::atomic::compiler_fence(SeqCst);
}

/// As [`std::sync::atomic::fence`]. On x86-64 any locked instruction is a full fence, and takes a tenth of
/// the time of the `mfence` that the compiler emits.
#[inline]
pub(crate) fn fence(ordering: Ordering) {
    #[cfg(target_arch = "x86_64")]
    if ordering == SeqCst {
        // SAFETY: it changes no bit on the stack, only the flags, which `asm!` takes for granted. The
        // compiler must assume that it touches memory, so no access moves across it.
        unsafe { std::arch::asm!("lock or dword ptr [rsp], 0") };
        return;
    }
    std::sync::atomic::fence(ordering);
}

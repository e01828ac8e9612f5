//! An asymmetric memory barrier (`membarrier(2)`): one side pays with a system call, the other with nothing.

use nix::libc;

/// `MEMBARRIER_CMD_GLOBAL_EXPEDITED` and the command that registers for it, which `libc` does not name.
const BARRIER: libc::c_int = 1 << 1;
const REGISTER: libc::c_int = 1 << 2;

/// Makes [`barrier`] include this process. Returns whether the kernel does.
pub(crate) fn register() -> bool {
    call(REGISTER)
}

/// Acts as if every registered process had executed a full fence at this instant. Returns false if the kernel
/// refuses.
pub(crate) fn barrier() -> bool {
    call(BARRIER)
}

fn call(command: libc::c_int) -> bool {
    // SAFETY: the call takes numbers, and touches no memory of this process.
    unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
}

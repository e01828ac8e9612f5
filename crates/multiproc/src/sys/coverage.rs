//! Coverage (`-C instrument-coverage`) of forked processes, which end without exit handlers.
//!
//! LLVM's profiling runtime writes a profile in an exit handler, and puts the pid of the program's start into
//! its name. So a forked child names and writes its own. Without the runtime these functions do nothing.

use std::env;
use std::ffi::{CStr, CString, c_char, c_int};
use std::mem;
use std::os::unix::ffi::OsStrExt;
use std::ptr;

use super::weak::weak_address;

/// In a process that was just forked: resets the counters, and gives the profile its own name.
pub(crate) fn begin() {
    let (reset, set_name) =
        (weak_address!("__llvm_profile_reset_counters"), weak_address!("__llvm_profile_set_filename"));
    if reset.is_null() || set_name.is_null() {
        return;
    }
    // SAFETY: that symbol is this function of the runtime.
    let reset: extern "C" fn() = unsafe { mem::transmute(reset) };
    // SAFETY: as above. It copies a C string, or takes null.
    let set_name: extern "C" fn(*const c_char) = unsafe { mem::transmute(set_name) };
    reset();
    set_name(ptr::null()); // the runtime does not expand the same pattern twice
    if let Some(pattern) = pattern() {
        set_name(pattern.as_ptr());
    }
}

/// The pattern of profile names.
fn pattern() -> Option<CString> {
    let given = env::var_os("LLVM_PROFILE_FILE").filter(|pattern| !pattern.is_empty());
    if let Some(pattern) = given {
        return CString::new(pattern.as_bytes()).ok();
    }
    let built_in = weak_address!("__llvm_profile_filename").cast::<c_char>();
    // SAFETY: that symbol is a C string that the compiler has emitted.
    (!built_in.is_null()).then(|| unsafe { CStr::from_ptr(built_in) }.to_owned())
}

/// Writes the profile of this process, which is about to end.
pub(crate) fn write() {
    let write = weak_address!("__llvm_profile_write_file");
    if !write.is_null() {
        // SAFETY: that symbol is this function of the runtime.
        let write: extern "C" fn() -> c_int = unsafe { mem::transmute(write) };
        write();
    }
}

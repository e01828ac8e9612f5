//! Coverage (`-C instrument-coverage`) of processes that are forked, and that end without exit handlers.
//!
//! The profiling runtime of LLVM, which such a program is linked with, writes a process's profile when that
//! exits. It fills in the process id where a program begins. Where the program is built without it, none of
//! this does anything.

use std::env;
use std::ffi::{CStr, CString, c_char, c_int};
use std::mem;
use std::os::unix::ffi::OsStrExt;
use std::ptr;

use super::weak::weak_address;

/// In a process that was just forked: counts from zero, and gives its profile a name of its own.
pub(crate) fn begin() {
    let (reset, set_name) =
        (weak_address!("__llvm_profile_reset_counters"), weak_address!("__llvm_profile_set_filename"));
    if reset.is_null() || set_name.is_null() {
        return;
    }
    // SAFETY: that symbol is this function of the runtime.
    let reset: extern "C" fn() = unsafe { mem::transmute(reset) };
    // SAFETY: as above. It takes a string, which it copies, or null.
    let set_name: extern "C" fn(*const c_char) = unsafe { mem::transmute(set_name) };
    reset();
    set_name(ptr::null()); // a pattern that it has already would not be filled in once more
    if let Some(pattern) = pattern() {
        set_name(pattern.as_ptr());
    }
}

/// The pattern of the names of profiles.
fn pattern() -> Option<CString> {
    let given = env::var_os("LLVM_PROFILE_FILE").filter(|pattern| !pattern.is_empty());
    if let Some(pattern) = given {
        return CString::new(pattern.as_bytes()).ok();
    }
    let built_in = weak_address!("__llvm_profile_filename").cast::<c_char>();
    // SAFETY: where that symbol is, it is a string that the compiler has put there.
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

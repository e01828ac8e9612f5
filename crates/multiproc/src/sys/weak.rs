//! Weak symbols: functions and variables that a program may have or not.

/// The address of a symbol of this program or its libraries, or null. (Stable Rust has no weak symbols.)
macro_rules! weak_address {
    ($name:literal) => {{
        #[allow(unused_mut, unused_assignments)]
        let mut address: *const u8 = std::ptr::null();
        // SAFETY: loads an entry of the global offset table, which the linker has made for this instruction.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            std::arch::asm!(
                concat!(".weak ", $name),
                concat!("mov {}, qword ptr [rip + ", $name, "@GOTPCREL]"),
                out(reg) address,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        unsafe {
            std::arch::asm!(
                concat!(".weak ", $name),
                concat!("adrp {0}, :got:", $name),
                concat!("ldr {0}, [{0}, :got_lo12:", $name, "]"),
                out(reg) address,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        address
    }};
}
pub(crate) use weak_address;

#[cfg(test)]
mod tests {
    #[test]
    fn a_symbol_is_found_if_it_exists() {
        assert_eq!(weak_address!("multiproc_has_no_such_symbol"), std::ptr::null());
        assert_eq!(weak_address!("malloc"), nix::libc::malloc as *const u8);
    }
}

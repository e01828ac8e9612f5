//! The build id and the path of this executable.

use std::fs::{File, read_link};
use std::hash::{DefaultHasher, Hasher};
use std::io::Read;
use std::path::PathBuf;

use crate::sys::entry;
use crate::sys::process_local::ProcessLocal;

/// A number that differs between builds: the linker's, or else a hash of the whole executable.
pub(super) fn identity() -> u64 {
    static IDENTITY: ProcessLocal<u64> = ProcessLocal::new(|inherited| match inherited {
        Some(known) => *known,
        None if entry::has_build_id() => entry::build(),
        None => hash_of_executable().unwrap_or_else(entry::build),
    });
    *IDENTITY.get()
}

/// The executable's path.
pub(super) fn program() -> Option<PathBuf> {
    read_link("/proc/self/exe").ok()
}

fn hash_of_executable() -> Option<u64> {
    let mut file = File::open("/proc/self/exe").ok()?;
    let mut hasher = DefaultHasher::new();
    let mut bytes = vec![0; 64 * 1024];
    loop {
        match file.read(&mut bytes).ok()? {
            0 => return Some(hasher.finish()),
            length => hasher.write(bytes.get(..length)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_has_one_identity() {
        assert_eq!(identity(), identity());
        assert_eq!(hash_of_executable().unwrap(), hash_of_executable().unwrap());
    }
}

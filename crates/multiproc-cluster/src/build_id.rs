//! Identifies the program that this process runs.

use std::fmt::Write;
use std::fs::File;
use std::io::Read;
use std::sync::OnceLock;

use multiproc::Result;
use multiproc::pool::encoded;
use sha2::{Digest, Sha256};

use crate::protocol::Build;

/// The SHA-256 of this program's file. A function's offset means the same function on all hosts that have it
/// in common.
pub(crate) fn own() -> Result<Build> {
    static OWN: OnceLock<Build> = OnceLock::new();
    if let Some(build) = OWN.get() {
        return Ok(*build);
    }
    let build = hash("/proc/self/exe")
        .map_err(|error| encoded::invalid(format!("cannot read this program's file: {error}")))?;
    Ok(*OWN.get_or_init(|| build))
}

/// As text.
pub(crate) fn hex(build: &Build) -> String {
    build.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The beginning of a build as text, which is enough to tell a few of them apart.
pub(crate) fn short(build: &str) -> &str {
    build.get(..12).unwrap_or(build)
}

fn hash(path: &str) -> std::io::Result<Build> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finalize().into()),
            length => hasher.update(&buffer[..length]),
        }
    }
}

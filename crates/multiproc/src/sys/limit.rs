//! How much memory a process may have.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::fork::own_stack;
use crate::error::{Bytes, Error, Result};

/// What a worker needs at least beyond what it has when it is started (bytes), to be able to say what went wrong.
const ROOM: u64 = 1024 * 1024;

/// Limits the memory that is this process's alone and can be written: its heap, its threads' stacks, private mappings.
/// Its children inherit the limit, each for itself.
///
/// Not the address space, although that would be simpler to explain: of that, a thread reserves a hundred times what it
/// uses, and memory that several processes share would count for each of them.
pub(crate) fn limit_memory(bytes: u64) -> Result<()> {
    // The first thread's stack does not count, wherever it is.
    let stack = own_stack();
    let own = own_memory()?.saturating_sub(stack);
    if bytes < own + ROOM {
        return Err(Error::invalid(format!(
            "memory limit {} is too low: a worker uses {} before its first task, and needs {} more",
            Bytes(bytes),
            Bytes(own),
            Bytes(ROOM)
        )));
    }
    let bytes = bytes.saturating_add(stack);
    let limited = getrlimit(Resource::RLIMIT_DATA)
        .and_then(|(soft, hard)| setrlimit(Resource::RLIMIT_DATA, bytes.min(soft), bytes.min(hard)));
    limited.map_err(|errno| Error::system("limit a worker's memory", errno))
}

/// So many bytes, or less if this process is limited to that, and its children with it.
pub(crate) fn memory_in_force(bytes: u64) -> u64 {
    getrlimit(Resource::RLIMIT_DATA).map_or(bytes, |(soft, _)| bytes.min(soft))
}

/// What counts against the limit, in bytes.
fn own_memory() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")
        .map_err(|error| Error::io("read /proc/self/status", &error))?;
    let data = status.lines().find_map(|line| line.strip_prefix("VmData:"));
    let kibibytes = data.and_then(|data| data.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    Ok(kibibytes.unwrap_or(0) * 1024)
}

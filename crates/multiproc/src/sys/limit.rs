//! A process's memory limit, by `RLIMIT_DATA`.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{SysconfVar, sysconf};

use super::fork::forking_thread_stack_size;
use crate::error::{Bytes, Error, Result};

/// The memory (bytes) that a worker needs at least beyond its use at the start, so that it can report an
/// error.
const ROOM: u64 = 1024 * 1024;

/// Limits this process's private writable memory: its heap, its threads' stacks, private mappings. Its
/// children inherit the limit, each for itself.
///
/// `RLIMIT_AS` would limit the address space, of which a thread reserves a hundred times what it uses, and
/// would count shared memory for each process.
pub(crate) fn limit_memory(bytes: u64) -> Result<()> {
    // The first thread's stack does not count, whether the kernel or the zygote made it.
    let stack = forking_thread_stack_size();
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
    limited.map_err(|errno| Error::os("limit a worker's memory", errno))
}

/// The lower of `bytes` and the limit that this process and its children have.
pub(crate) fn effective_memory_limit(bytes: u64) -> u64 {
    getrlimit(Resource::RLIMIT_DATA).map_or(bytes, |(soft, _)| bytes.min(soft))
}

/// The private memory of a process in bytes, without what is swapped out. It includes what the process shares
/// with the one that it was forked from, until either writes there. `None` if it is gone.
pub(crate) fn private_memory(pid: u32) -> Option<u64> {
    let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten().and_then(|size| u64::try_from(size).ok());
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let mut pages = statm.split(' ').skip(1).map_while(|number| number.parse::<u64>().ok());
    let (resident, shared) = (pages.next()?, pages.next()?);
    Some(resident.saturating_sub(shared) * page.unwrap_or(4096))
}

/// The memory in bytes that counts against the limit.
fn own_memory() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")
        .map_err(|error| Error::io("read /proc/self/status", &error))?;
    let data = status.lines().find_map(|line| line.strip_prefix("VmData:"));
    let kibibytes = data.and_then(|data| data.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    Ok(kibibytes.unwrap_or(0) * 1024)
}

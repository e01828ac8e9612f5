//! What a process occupies, as the kernel counts it.

use anyhow::{Context, Result};
use procfs::process::Process;

/// The memory of a process that is in the machine at this moment, in bytes.
///
/// # Errors
/// When there is no such process, or it is another user's.
pub fn resident(pid: u32) -> Result<u64> {
    rollup(pid, "Rss")
}

/// A process's own part of that, in bytes: a page that it shares with others counts in proportion, so that
/// the parts of all processes add up to what they occupy together.
///
/// # Errors
/// As [`resident`].
pub fn proportional(pid: u32) -> Result<u64> {
    rollup(pid, "Pss")
}

/// `/proc/PID/status` would be cheaper, but its figures are late by some pages a core.
fn rollup(pid: u32, name: &str) -> Result<u64> {
    let read = || Process::new(pid.try_into()?)?.smaps_rollup().map_err(anyhow::Error::from);
    let rollup = read().with_context(|| format!("cannot read what process {pid} occupies"))?;
    let maps = rollup.memory_map_rollup;
    let value = maps.iter().find_map(|map| map.extension.map.get(name).copied());
    value.with_context(|| format!("the kernel does not say {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_touched_is_resident() {
        let me = std::process::id();
        let before = resident(me).unwrap();
        let block = std::hint::black_box(vec![1_u8; 32 << 20]);
        assert!(resident(me).unwrap() >= before + (30 << 20));
        assert!(proportional(me).unwrap() <= resident(me).unwrap() + (1 << 20));
        drop(block);
    }

    #[test]
    fn a_process_that_is_not_there_is_an_error() {
        assert!(resident(u32::MAX).is_err());
    }
}

//! Memory and CPU time of a process, as the kernel counts them.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;

/// The memory of a process in kB; what it shares with others counts in proportion (PSS).
pub fn proportional(pid: u32) -> Result<f64> {
    kilobytes(&format!("/proc/{pid}/smaps_rollup"), "Pss:")
}

/// The memory of this process that is in the machine at this moment, in kB.
pub fn resident() -> Result<f64> {
    kilobytes("/proc/self/smaps_rollup", "Rss:")
}

/// The most that this process has had in the machine since [`forget_peak`], in kB.
pub fn peak() -> Result<f64> {
    kilobytes("/proc/self/status", "VmHWM:")
}

/// Resets the peak.
pub fn forget_peak() -> Result<()> {
    fs::write("/proc/self/clear_refs", "5").context("cannot reset the peak of memory")
}

/// How long all processes of a family together have been on a processor.
pub fn processor_time(family: &[u32]) -> Result<Duration> {
    let one = |pid: &u32| {
        let clock = clock_getcpuclockid(Pid::from_raw(pid.cast_signed()))?;
        Ok(Duration::from(nix::time::clock_gettime(clock)?))
    };
    family.iter().map(one).sum()
}

/// This process, its children, their children, and so on.
pub fn family() -> Result<Vec<u32>> {
    let mut family = vec![std::process::id()];
    let all = all_processes()?;
    let mut next = 0;
    while let Some(&parent) = family.get(next) {
        family.extend(all.iter().filter(|(_, its_parent)| *its_parent == parent).map(|(pid, _)| pid));
        next += 1;
    }
    Ok(family)
}

/// Every process with its parent.
fn all_processes() -> Result<Vec<(u32, u32)>> {
    let mut all = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        // "pid (any name) state parent …"
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        all.extend(parent.map(|parent| (pid, parent)));
    }
    Ok(all)
}

fn kilobytes(file: &str, name: &str) -> Result<f64> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    number.with_context(|| format!("{file} does not say {name}"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_child_is_of_the_family_and_its_time_counts() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let family = family().unwrap();
        let _ = (child.kill(), child.wait());
        assert!(family.contains(&child.id()) && family.contains(&std::process::id()));
        assert!(processor_time(&[std::process::id()]).unwrap() > Duration::ZERO);
    }

    #[test]
    fn the_peak_outlives_what_was_touched() {
        forget_peak().unwrap();
        let before = peak().unwrap();
        drop(std::hint::black_box(vec![1_u8; 32 << 20]));
        assert!(peak().unwrap() > before + 30_000.0);
        assert!(resident().unwrap() < peak().unwrap());
        assert!(proportional(std::process::id()).unwrap() > 0.0);
    }
}

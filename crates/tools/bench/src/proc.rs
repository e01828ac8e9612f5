//! Memory and CPU time of a process, as the kernel counts them.

use std::collections::HashSet;
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

/// How long all processes of a process tree together have been on a CPU.
pub fn cpu_time(process_tree: &[u32]) -> Result<Duration> {
    let one = |pid: &u32| {
        let clock = clock_getcpuclockid(Pid::from_raw(pid.cast_signed()))?;
        Ok(Duration::from(nix::time::clock_gettime(clock)?))
    };
    process_tree.iter().map(one).sum()
}

/// This process, its children, their children, and so on.
pub fn process_tree() -> Result<Vec<u32>> {
    Ok(ProcessTree::default().refresh()?.to_vec())
}

/// The same, asked for again and again: what each process is, is read once.
#[derive(Default)]
pub struct ProcessTree {
    members: Vec<u32>,
    others: HashSet<u32>,
}

impl ProcessTree {
    /// This process first.
    pub fn refresh(&mut self) -> Result<&[u32]> {
        let running: HashSet<u32> = all_processes()?.collect();
        self.members.retain(|pid| running.contains(pid));
        self.others.retain(|pid| running.contains(pid));
        if self.members.is_empty() {
            self.members.push(std::process::id());
        }
        let is_new = |pid: &u32| !self.members.contains(pid) && !self.others.contains(pid);
        let new = running.into_iter().filter(is_new);
        let mut new: Vec<(u32, u32)> = new.filter_map(|pid| Some((pid, parent(pid)?))).collect();
        loop {
            let (members, others): (Vec<_>, Vec<_>) =
                new.into_iter().partition(|(_, parent)| self.members.contains(parent));
            self.members.extend(members.iter().map(|(pid, _)| pid));
            new = others;
            if members.is_empty() {
                break;
            }
        }
        self.others.extend(new.iter().map(|(pid, _)| pid));
        Ok(&self.members)
    }
}

fn all_processes() -> Result<impl Iterator<Item = u32>> {
    Ok(fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()))
}

/// Nothing if the process is gone.
fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // "pid (any name) state parent …"
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
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
    fn a_child_is_in_the_process_tree_and_its_time_counts() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let process_tree = process_tree().unwrap();
        let _ = (child.kill(), child.wait());
        assert!(process_tree.contains(&child.id()) && process_tree.contains(&std::process::id()));
        assert!(cpu_time(&[std::process::id()]).unwrap() > Duration::ZERO);
    }

    #[test]
    fn a_process_tree_follows_births_and_deaths() {
        let mut process_tree = ProcessTree::default();
        process_tree.refresh().unwrap();
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let is_new = process_tree.refresh().unwrap().contains(&child.id());
        let _ = (child.kill(), child.wait());
        assert!(is_new);
        let members = process_tree.refresh().unwrap();
        assert_eq!(members.first(), Some(&std::process::id()));
        assert!(!members.contains(&child.id()));
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

//! Resource snapshots: descriptors, mappings and children that must not leak.

use std::fmt;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use multiproc::{Connection, Pool, SharedSlice, pipe};

/// Descriptors, mappings of shared memory, and children, by kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ResourceSnapshot {
    descriptors: Vec<String>,
    mappings: usize,
    children: Vec<String>,
}

/// How long leftovers may take to go: another thread closes the last descriptors of a child.
const GRACE: Duration = Duration::from_secs(2);

/// More than any cache of the library holds.
const MAX_CACHED: usize = 16;

impl ResourceSnapshot {
    /// The resources of this process now.
    pub(crate) fn now() -> Result<Self> {
        let mut descriptors = Vec::new();
        for entry in fs::read_dir("/proc/self/fd")? {
            let Ok(target) = fs::read_link(entry?.path()) else { continue };
            let target = target.display().to_string();
            if target.starts_with("/proc/") && target.ends_with("/fd") {
                continue; // what lists them
            }
            // Sockets and pipes differ by their inode numbers.
            descriptors.push(target.split_once(":[").map_or(target.clone(), |(kind, _)| kind.to_owned()));
        }
        descriptors.sort_unstable();
        let maps = fs::read_to_string("/proc/self/maps")?;
        let mappings = maps.lines().filter(|line| line.contains("memfd:multiproc")).count();
        let (children, ready) = children()?;
        // Each pre-forked child has a socket; the number of these varies.
        let sockets = descriptors.iter().filter(|kind| *kind == "socket").count();
        if let Some(first) = descriptors.iter().position(|kind| kind == "socket") {
            descriptors.drain(first..first + ready.min(sockets));
        }
        Ok(Self { descriptors, mappings, children })
    }

    /// The resources of this process once the library has filled its caches: memory of large items, and
    /// received `SharedSlice` data.
    pub(crate) fn after_warm_up() -> Result<Self> {
        let pool = Pool::new(1)?;
        // The only worker waits, so that all items are in memory at the same time.
        let (gate, theirs) = pipe::<(), ()>()?;
        let waiting = pool.submit(|gate: Connection<(), ()>| drop(gate.recv()), (theirs,))?;
        let handles: Vec<_> = (0..MAX_CACHED)
            .map(|_| pool.submit(|bytes: Vec<u8>| bytes.len(), (vec![0; 300_000],)))
            .collect::<multiproc::Result<_>>()?;
        drop(gate);
        waiting.get()?;
        handles.into_iter().try_for_each(|handle| handle.get().map(drop))?;
        pool.join();
        let (one, other) = pipe::<SharedSlice<u64>, ()>()?;
        for number in 0..MAX_CACHED {
            one.send(SharedSlice::from_slice(&[number as u64])?)?;
            other.recv()?;
        }
        drop((one, other));
        thread::sleep(GRACE / 10);
        Self::now()
    }

    /// Waits until this process holds no more than this.
    pub(crate) fn wait_until_restored(&self) -> Result<()> {
        let begun = Instant::now();
        loop {
            let now = Self::now()?;
            if now.is_within(self) {
                return Ok(());
            }
            if begun.elapsed() > GRACE {
                bail!("left behind: {now}; it was {self}");
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn is_within(&self, other: &Self) -> bool {
        self.descriptors.len() <= other.descriptors.len()
            && self.mappings <= other.mappings
            && self.children.len() <= other.children.len()
    }
}

impl fmt::Display for ResourceSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut kinds: Vec<(&str, usize)> = Vec::new();
        for descriptor in &self.descriptors {
            match kinds.last_mut() {
                Some((kind, count)) if kind == descriptor => *count += 1,
                _ => kinds.push((descriptor, 1)),
            }
        }
        let kinds: Vec<_> = kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        write!(
            f,
            "[{}], {} mappings, children [{}]",
            kinds.join(", "),
            self.mappings,
            self.children.join(", ")
        )
    }
}

/// The children of this process, zombies included, without the fork server and its pre-forked children; and
/// the number of the latter.
fn children() -> Result<(Vec<String>, usize)> {
    let own = std::process::id();
    let (mut children, mut ready) = (Vec::new(), 0);
    for task in fs::read_dir(format!("/proc/{own}/task"))? {
        let Ok(pids) = fs::read_to_string(task?.path().join("children")) else { continue };
        for pid in pids.split_whitespace() {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            if name.trim() == "mp-preforked" && !is_dead(pid) {
                ready += 1;
            } else if name.trim() != "fork-server" {
                children.push(format!("{pid} {}", name.trim()));
            }
        }
    }
    Ok((children, ready))
}

fn is_dead(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
}

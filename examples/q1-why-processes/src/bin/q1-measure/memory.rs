//! Memory: a limit for one child alone, and its return to the kernel afterwards.

use std::hint::black_box;

use anyhow::{Context, Result};
use experiments::memory::resident;
use experiments::{Chart, Finding, crash};
use multiproc::{Connection, Process, pipe};
use nix::sys::resource::{Resource, setrlimit};

static OCCUPIED: Chart = Chart {
    title: "Memory before, during and after the use of 128 MiB",
    quantity: "memory",
    unit: "MiB",
    along: "",
    logarithmic: false,
};

const MIB: u64 = 1 << 20;
const IN_A_CHILD: &str = "used by a child, which ends";
const IN_PLACE: &str = "used in one process, 15 of 16 blocks freed";

/// One child that may have 256 MiB, and one that may have any amount.
pub(crate) fn limit() -> Result<Finding> {
    let limited = Process::spawn(take, (Some(256 * MIB),))?;
    let free = Process::spawn(take, (None,))?;
    let (limited, free) = (limited.join(), free.join());
    let killed = limited.as_ref().err().and_then(multiproc::Error::signal) == Some(6);
    let figure = match (killed, free.is_ok()) {
        (true, true) => "SIGABRT; the other is well".to_owned(),
        _ => format!("limited: {limited:?}; free: {free:?}"),
    };
    Ok(Finding::new(killed && free.is_ok(), figure))
}

/// Asks for 512 MiB and does not touch them. Rust aborts a program that gets no memory.
fn take(limit: Option<u64>) -> usize {
    crash::suppress_diagnostics();
    if let Some(bytes) = limit {
        let _ = setrlimit(Resource::RLIMIT_AS, bytes, bytes); // without it, the child survives: that shows
    }
    black_box(Vec::<u8>::with_capacity(512 << 20)).capacity()
}

pub(crate) fn comes_back() -> Result<Finding> {
    let me = std::process::id();
    let before = resident(me)?;
    let (ours, theirs) = pipe::<(), ()>()?;
    let child = Process::spawn(hold, (theirs,))?;
    ours.recv().context("the child ended before its time")?;
    let during = resident(me)? + resident(child.pid())?;
    ours.send(())?;
    child.join()?.context("the child could not wait")?;
    let after = resident(me)?; // the child is gone, and `join` has seen it go
    let holds = during > before + 120 * MIB && after < before + 8 * MIB;
    let figure = format!("{}, {}, then {} MiB", mib(before), mib(during), mib(after));
    Ok([before, during, after]
        .into_iter()
        .zip(["before", "in use", "after"])
        .fold(Finding::new(holds, figure), |finding, (bytes, when)| {
            finding.point(&OCCUPIED, IN_A_CHILD, when, exact_mib(bytes))
        }))
}

fn hold(parent: Connection<(), ()>) -> Option<()> {
    let block = black_box(vec![1_u8; 128 << 20]);
    parent.send(()).ok()?;
    parent.recv().ok()?;
    drop(black_box(block));
    Some(())
}

/// Fragments the heap as a long-lived program does, in a child, so that this program stays small.
pub(crate) fn stays() -> Result<Finding> {
    let [before, during, after] =
        Process::spawn(free_most, ())?.join()?.context("no figures from the child")?;
    let kept = percent(after.saturating_sub(before), during.saturating_sub(before));
    let figure = format!("{kept} % of it still occupied");
    Ok([before, during, after]
        .into_iter()
        .zip(["before", "in use", "after"])
        .fold(Finding::new(kept > 50, figure), |finding, (bytes, when)| {
            finding.point(&OCCUPIED, IN_PLACE, when, exact_mib(bytes))
        }))
}

/// Every page keeps one block that is in use, so none can be given back.
fn free_most() -> Option<[u64; 3]> {
    let occupied = || resident(std::process::id()).ok();
    let before = occupied()?;
    let mut blocks: Vec<Option<Box<[u8; 240]>>> = (0..1 << 19).map(|_| Some(Box::new([1; 240]))).collect();
    let during = occupied()?;
    for (number, block) in black_box(&mut blocks).iter_mut().enumerate() {
        if number % 16 != 0 {
            *block = None;
        }
    }
    let after = occupied()?;
    drop(black_box(blocks));
    Some([before, during, after])
}

fn mib(bytes: u64) -> u64 {
    (bytes + MIB / 2) / MIB
}

#[allow(clippy::cast_precision_loss)] // for a picture
fn exact_mib(bytes: u64) -> f64 {
    bytes as f64 / MIB as f64
}

fn percent(part: u64, whole: u64) -> u64 {
    (part * 100).checked_div(whole).unwrap_or(0)
}

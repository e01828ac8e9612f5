//! Children that log while the memory of their records is overwritten.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Result, bail};
use log::{LevelFilter, Log, Metadata, Record, info};
use multiproc::Process;
use tests::corrupter::Random;

use super::bounds::Bounds;
use super::processes::START;
use super::{MOST_FAILURES, Rest};

/// The logger of the parent, which counts records.
struct Counter(AtomicU64);

static COUNTER: Counter = Counter(AtomicU64::new(0));

impl Log for Counter {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, _: &Record<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn flush(&self) {}
}

fn count(records: u64) {
    (0..records).for_each(|number| info!("{number}"));
}

#[allow(clippy::unnecessary_wraps)] // as for all work
pub(super) fn log(random: &mut Random, _: &Bounds) -> Result<Rest> {
    log::set_max_level(LevelFilter::Info);
    let records = random.below(1_000);
    Ok(Box::new(move |_, bounds| {
        for _ in 0..3 {
            let child = bounds.within(START, "Process::spawn", || Process::spawn(count, (records,)))?;
            let Ok(child) = child else { continue };
            drop(bounds.at_once("Process::join of one that has logged", || child.join())?);
        }
        log::set_max_level(LevelFilter::Off);
        Ok(())
    }))
}

/// Sets the logger, and has the library make the records' memory, which stays.
pub(super) fn begin(bounds: &Bounds) -> Result<()> {
    log::set_logger(&COUNTER).map_err(anyhow::Error::msg)?;
    must_come(bounds)
}

/// Records come when nothing is overwritten, or no longer.
pub(super) fn must_come(bounds: &Bounds) -> Result<()> {
    log::set_max_level(LevelFilter::Info);
    for _ in 0..=MOST_FAILURES {
        let before = COUNTER.0.load(Ordering::Relaxed);
        let log = || Process::spawn(count, (1,)).and_then(Process::join);
        let ended = bounds.within(START, "Process::spawn of one that logs", log)?;
        if ended.is_ok() && COUNTER.0.load(Ordering::Relaxed) > before {
            log::set_max_level(LevelFilter::Off);
            return Ok(());
        }
    }
    bail!("no records come")
}

//! W10: what a log record costs the child that logs it. A program of its own, since the other cases measure
//! the library without its feature `log`.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bench::case;
use bench::measure::{Scale, median};
use bench::program::{self, Measured, entry};
use log::{LevelFilter, Log, Metadata, Record, info};
use multiproc::Process;

/// Counts records, as a logger that costs nothing.
struct Counter(AtomicU64);

static COUNTER: Counter = Counter(AtomicU64::new(0));

impl Log for Counter {
    fn enabled(&self, _metadata: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, _record: &Record<'_>) {
        self.0.fetch_add(1, Relaxed);
    }

    fn flush(&self) {}
}

/// The ring holds some batches.
const BATCH: u32 = 1000;

/// Nanoseconds for each record of a batch, in each of `batches`.
fn log_in_batches(batches: u32) -> Vec<f64> {
    let one = |batch| {
        let start = Instant::now();
        for number in 0..BATCH {
            info!("item {number} of batch {batch}");
        }
        let time = start.elapsed();
        sleep(Duration::from_millis(5)); // the logger catches up
        time.as_secs_f64() * 1e9 / f64::from(BATCH)
    };
    (0..batches).map(one).collect()
}

fn log(scale: Scale) -> Result<Measured> {
    let batches = if scale.quick { 20 } else { 200 };
    log::set_logger(&COUNTER).map_err(anyhow::Error::msg)?;
    log::set_max_level(LevelFilter::Info);
    let times = Process::spawn(log_in_batches, (batches,))?.join()?;
    let arrived = COUNTER.0.load(Relaxed);
    let lost = u64::from(batches * BATCH).saturating_sub(arrived);
    ensure!(arrived > 0, "no record has arrived");
    Ok(Measured::new(median(times)?).with(format!("median of {batches} batches, {lost} records lost")))
}

fn main() -> ExitCode {
    multiproc::init();
    program::run(&[entry("multiproc", &case::LOG, log)])
}

//! Children that log. What a logger has written is in the first process, whatever dies right after it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Result, ensure};
use log::{LevelFilter, Log, Metadata, Record, info};
use multiproc::failpoints::now;
use multiproc::{Process, StartMethod};

use super::{AllowedFailures, Observed};

const RECORDS: u32 = 40;

/// The logger of the first process.
struct Collector(Mutex<Kept>);

struct Kept {
    /// The texts of the children's records, in the order in which they came.
    texts: Vec<String>,
    lost: u32,
}

static COLLECTOR: Collector = Collector(Mutex::new(Kept::NONE));

impl Kept {
    const NONE: Self = Self { texts: Vec::new(), lost: 0 };
}

impl Collector {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log for Collector {
    fn enabled(&self, _metadata: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let text = record.args().to_string();
        let mut kept = self.lock();
        match text.split_once(" log records of child processes were lost") {
            Some((count, _)) => kept.lost += count.parse().unwrap_or(0),
            None => kept.texts.push(text),
        }
    }

    fn flush(&self) {}
}

fn count() {
    (0..RECORDS).for_each(|number| info!("{number}"));
}

/// The records of each child come in its order and without a gap. None is missing unless its child was killed before
/// it, or it was counted as lost because another child was stopped while it wrote.
pub(super) fn records(allowed: AllowedFailures) -> Result<Observed> {
    let mut observed = Observed::default();
    let _ = log::set_logger(&COLLECTOR); // the second time, it is
    *COLLECTOR.lock() = Kept::NONE;
    log::set_max_level(LevelFilter::Info);
    let names = ["one", "another", "spawned"];
    let method = |name| if name == "spawned" { StartMethod::Spawn } else { StartMethod::ForkServer };
    let children =
        names.map(|name| Process::builder().name(name).start_method(method(name)).spawn(count, ()));
    let mut has_all = Vec::new();
    for child in children {
        has_all.push(observed.tolerate(child.and_then(Process::join), allowed)?.is_some());
    }
    observed.settled = Some(now());
    log::set_max_level(LevelFilter::Off);
    let kept = COLLECTOR.lock();
    let mut missing = 0;
    for (name, has_all) in names.into_iter().zip(has_all) {
        let numbers = numbers_of(name, &kept.texts);
        ensure!(numbers.is_sorted_by(|one, next| one < next), "{name} logs {numbers:?}");
        let whole = u32::try_from(numbers.len())?;
        if has_all {
            missing += RECORDS - whole;
        } else {
            ensure!(kept.lost > 0 || numbers.iter().copied().eq(0..whole), "{name}: {numbers:?}");
        }
    }
    ensure!(missing <= kept.lost, "{missing} records are missing, and {} are said to be lost", kept.lost);
    Ok(observed)
}

fn numbers_of(name: &str, texts: &[String]) -> Vec<u32> {
    let number = |text: &String| {
        let (process, number) = text.split_once("]: ")?;
        (process.split('[').next() == Some(name)).then_some(number.parse().ok()?)
    };
    texts.iter().filter_map(number).collect()
}

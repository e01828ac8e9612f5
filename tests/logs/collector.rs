//! A logger that keeps what it gets.

use std::collections::HashMap;
use std::io::stdout;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use log::kv::{self, Key, Value, VisitSource};
use log::{Level, LevelFilter, Log, Metadata, Record};
use multiproc::{Pool, Process};

#[derive(Clone, Debug)]
pub(crate) struct Kept {
    pub(crate) level: Level,
    pub(crate) target: String,
    pub(crate) place: String,
    pub(crate) text: String,
    pub(crate) values: HashMap<String, String>,
}

impl Kept {
    /// The number at the end of the text.
    pub(crate) fn number(&self) -> u32 {
        self.text.rsplit(' ').next().unwrap().parse().unwrap()
    }
}

struct Collector;

static KEPT: Mutex<Vec<Kept>> = Mutex::new(Vec::new());

/// While this is locked, the logger blocks at records with the target `gate`.
pub(crate) static GATE: Mutex<()> = Mutex::new(());

/// Whether the logger has had a record with the target `stdout`, at which it locks standard output.
static HAS_MET_STDOUT: AtomicBool = AtomicBool::new(false);

pub(crate) fn has_met_stdout() -> bool {
    HAS_MET_STDOUT.load(SeqCst)
}

/// For tests that no other test may disturb: one at a time runs.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the logger does first at a record with this target.
fn meet(target: &str) {
    match target {
        "gate" => drop(GATE.lock()),
        "stdout" => {
            HAS_MET_STDOUT.store(true, SeqCst);
            drop(stdout().lock());
        }
        "children" => {
            Process::spawn(|| log::info!("from a logger's child"), ()).unwrap().join().unwrap();
            drop(Pool::new(1).unwrap());
        }
        _ => {}
    }
}

pub(crate) fn set_logger() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&Collector).unwrap();
        log::set_max_level(LevelFilter::Debug);
    });
}

fn kept() -> MutexGuard<'static, Vec<Kept>> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

fn with(key: &str, is_wanted: impl Fn(&str) -> bool) -> Vec<Kept> {
    let has = |record: &&Kept| record.values.get(key).is_some_and(|value| is_wanted(value));
    kept().iter().filter(has).cloned().collect()
}

/// The records of the process with this name.
pub(crate) fn records_of(process: &str) -> Vec<Kept> {
    with("process", |name| name == process)
}

pub(crate) fn records_of_workers(pids: &[u32]) -> Vec<Kept> {
    with("pid", |pid| pids.contains(&pid.parse().unwrap()))
}

/// What the library itself has logged.
pub(crate) fn own_records() -> Vec<Kept> {
    kept().iter().filter(|record| record.target == "multiproc").cloned().collect()
}

impl Log for Collector {
    fn enabled(&self, _metadata: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        meet(record.target());
        let text = record.args().to_string();
        assert!(!text.ends_with("what the logger cannot bear"));
        let mut values = Values(HashMap::new());
        record.key_values().visit(&mut values).unwrap();
        let place = format!("{}:{}", record.file().unwrap_or(""), record.line().unwrap_or(0));
        let (level, target) = (record.level(), record.target().to_owned());
        kept().push(Kept { level, target, place, text, values: values.0 });
    }

    fn flush(&self) {}
}

struct Values(HashMap<String, String>);

impl<'kvs> VisitSource<'kvs> for Values {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        self.0.insert(key.to_string(), value.to_string());
        Ok(())
    }
}

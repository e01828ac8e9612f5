//! A logger that keeps what it gets.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use log::kv::{self, Key, Value, VisitSource};
use log::{Level, LevelFilter, Log, Metadata, Record};

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
        if record.target() == "gate" {
            drop(GATE.lock());
        }
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

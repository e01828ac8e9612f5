//! A child's logger.

use std::sync::{OnceLock, PoisonError, RwLock};

use log::{LevelFilter, Log, Metadata, Record};

use super::LogLink;
use super::record::SentRecord;
use crate::impl_serde::impl_serde;
use crate::sys::process::own_pid;
use crate::sys::process_local::ProcessLocal;

struct ChildLogger {
    link: LogLink,
    process: String,
}

static LOGGER: OnceLock<ChildLogger> = OnceLock::new();

/// What this process's own children get.
pub(super) fn link() -> Option<LogLink> {
    LOGGER.get().map(|logger| logger.link.clone())
}

/// Sets the logger of this process, unless the program has set one before.
pub(crate) fn install(link: LogLink, process: &str) {
    let level = link.filter.max_level();
    let logger = LOGGER.get_or_init(|| ChildLogger { link, process: process.to_owned() });
    if log::set_logger(logger).is_ok() {
        log::set_max_level(level);
    }
}

impl Log for ChildLogger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.link.filter.wants(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let record = SentRecord::new(record, &self.process, own_pid(), running_item());
            record.encode(|bytes| self.link.ring.put(bytes));
        }
    }

    fn flush(&self) {}
}

/// The number of the item that this worker runs, counted from its start.
type RunningItem = Box<dyn Fn() -> Option<u32> + Send + Sync>;

static RUNNING_ITEM: OnceLock<RunningItem> = OnceLock::new();

/// The number of an item in records, if they are wanted at all: its index, if its call has several items, or one that
/// the caller has chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FirstItem(Option<u64>);

impl_serde!(newtype FirstItem);

impl FirstItem {
    /// For a call: of one item, or of several; with the number of its first one, if the caller has chosen that.
    pub(crate) fn of_call(is_single: bool, number: Option<u64>) -> Self {
        let first = number.or((!is_single).then_some(0));
        Self(first.filter(|_| log::max_level() > LevelFilter::Off))
    }

    pub(crate) fn at(self, index: u64) -> Self {
        Self(self.0.map(|first| first.wrapping_add(index)))
    }
}

/// The index of the item with this number.
static ITEMS: ProcessLocal<RwLock<(FirstItem, u32)>> =
    ProcessLocal::new(|_| RwLock::new((FirstItem(None), 0)));

/// Says where this worker's number of the running item can be loaded.
pub(crate) fn set_running_item(number: impl Fn() -> Option<u32> + Send + Sync + 'static) {
    let _ = RUNNING_ITEM.set(Box::new(number));
}

/// Says that the items from this number on have the indices from `first` on.
pub(crate) fn begin_items(first: FirstItem, number: u32) {
    *ITEMS.get().write().unwrap_or_else(PoisonError::into_inner) = (first, number);
}

fn running_item() -> Option<u64> {
    let number = RUNNING_ITEM.get()?()?;
    let (FirstItem(first), at) = *ITEMS.get().read().unwrap_or_else(PoisonError::into_inner);
    Some(first?.wrapping_add(number.wrapping_sub(at).into()))
}

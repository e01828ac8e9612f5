//! The log thread of the first process: passes its children's records to the program's logger.

use std::cell::Cell;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::filter::Filter;
use super::progress::LogProgress;
use super::reader::LogReader;
use super::record::SentRecord;
use super::ring::LogRing;
use super::{LogLink, lock};
use crate::error::{Error, Result};
use crate::ipc::panic::catch_panic;
use crate::sys::poll::Deadline;
use crate::sys::process_local::ProcessLocal;
use crate::sys::signals::with_signals_blocked;

/// A forked copy of this process has no thread that delivers, until it starts its own.
static PROGRESS: ProcessLocal<Mutex<Option<Arc<LogProgress>>>> = ProcessLocal::new(|_| Mutex::default());

/// After some records the thread sleeps for this time, so that writers need not wake it for each.
const BATCH_DELAY: Duration = Duration::from_millis(1);
/// The longest sleep: a writer may have been killed before it woke the thread.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

thread_local! {
    /// This thread passes records to the logger, which may use this library.
    static DELIVERS: Cell<bool> = const { Cell::new(false) };
}

/// What a child needs. `None` if this process's logger wants no records; or if the kernel refuses memory or a
/// thread, when a start should not fail for its records.
pub(super) fn link() -> Option<LogLink> {
    let filter = Filter::of_this_process()?;
    let mut progress = lock(PROGRESS.get());
    let progress = match &mut *progress {
        Some(progress) => progress,
        none => none.insert(start().ok()?),
    };
    Some(LogLink { ring: progress.ring.clone(), filter })
}

fn start() -> Result<Arc<LogProgress>> {
    let progress = Arc::new(LogProgress::new(LogRing::create()?));
    let run = {
        let progress = Arc::clone(&progress);
        move || forward(&progress)
    };
    let thread = thread::Builder::new().name("mp-log".to_owned());
    let started = with_signals_blocked(|| thread.spawn(run));
    started.map(|_| progress).map_err(|error| Error::io("start a thread", &error))
}

fn forward(progress: &Arc<LogProgress>) -> ! {
    DELIVERS.set(true);
    let mut reader = LogReader::new(Arc::clone(progress));
    loop {
        if pass_on(&mut reader) {
            progress.sleep_unless_awaited(BATCH_DELAY);
        } else {
            reader.wait(CHECK_INTERVAL);
        }
    }
}

/// Blocks until the logger has got all records that children have sent before this call; until the deadline,
/// and not beyond a second or two in which the logger takes no record. Does nothing if the logger itself calls
/// it.
///
/// Only the thread `mp-log` calls the logger: the caller may hold a lock that the logger needs.
pub(crate) fn deliver(deadline: Deadline) {
    let progress = lock(PROGRESS.get()).clone();
    if let Some(progress) = progress.filter(|_| !DELIVERS.get()) {
        progress.wait(deadline);
    }
}

fn pass_on(reader: &mut LogReader) -> bool {
    let take = |bytes: &[u8]| {
        // A panic of the logger is its own: its message is printed, and the next record follows.
        let _ = SentRecord::decode(bytes).map(|record| catch_panic(|| record.log()));
    };
    let take_lost = |count| {
        let _ = catch_panic(|| {
            log::warn!(target: "multiproc", "{count} log records of child processes were lost: too large, or faster than the logger");
        });
    };
    reader.read(take, take_lost)
}

//! The first process: passes its children's records to its logger.

use std::cell::Cell;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::filter::Filter;
use super::record::SentRecord;
use super::ring::{LogReader, LogRing};
use super::{LogLink, lock};
use crate::error::{Error, Result};
use crate::ipc::panic::catch_panic;
use crate::sys::signals::with_signals_blocked;

static READER: Mutex<Option<Arc<LogReader>>> = Mutex::new(None);

/// After some records the thread sleeps for this time, so that writers need not wake it for each.
const NAP: Duration = Duration::from_millis(1);
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
    let mut reader = lock(&READER);
    let reader = match &mut *reader {
        Some(reader) => reader,
        none => none.insert(start().ok()?),
    };
    Some(LogLink { ring: reader.ring.clone(), filter })
}

fn start() -> Result<Arc<LogReader>> {
    let reader = Arc::new(LogReader::new(LogRing::create()?));
    let run = {
        let reader = Arc::clone(&reader);
        move || forward(&reader)
    };
    let thread = thread::Builder::new().name("mp-log".to_owned());
    let started = with_signals_blocked(|| thread.spawn(run));
    started.map(|_| reader).map_err(|error| Error::io("start a thread", &error))
}

fn forward(reader: &LogReader) -> ! {
    loop {
        if pass_on(reader) {
            thread::sleep(NAP);
        } else {
            reader.wait(CHECK_INTERVAL);
        }
    }
}

/// Passes all records to the logger that children have sent before this call. Does nothing if the logger
/// itself is the caller.
pub(crate) fn deliver() {
    let reader = lock(&READER).clone();
    if let Some(reader) = reader {
        pass_on(&reader);
    }
}

fn pass_on(reader: &LogReader) -> bool {
    if DELIVERS.replace(true) {
        return false;
    }
    let take = |bytes: &[u8]| {
        // A panic of the logger is its own: its message is printed, and the next record follows.
        let _ = SentRecord::decode(bytes).map(|record| catch_panic(|| record.log()));
    };
    let take_lost = |count| {
        let _ = catch_panic(|| {
            log::warn!(target: "multiproc", "{count} log records of child processes were lost: the logger is too slow");
        });
    };
    let has_records = reader.read(take, take_lost);
    DELIVERS.set(false);
    has_records
}

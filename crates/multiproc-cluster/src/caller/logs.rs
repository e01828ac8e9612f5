//! Feature `log`: passes what tasks log on their hosts to this program's logger.

use std::convert::Infallible;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, channel, sync_channel};
use std::thread;
use std::time::Duration;

use multiproc::pool::encoded::PrivateMutex;

use crate::log_record::LogRecord;

/// Passes records to the logger, in a thread of its own: the logger may block, or use this library.
#[derive(Default)]
pub(crate) struct Logs {
    thread: PrivateMutex<Option<LogThread>>,
    /// Records that the logger has not got, and of which it has not heard.
    lost: Arc<AtomicU64>,
    /// Records that the logger has got.
    passed: Arc<AtomicU64>,
}

struct LogThread {
    records: SyncSender<LogRecord>,
    /// Disconnected at the thread's end.
    ended: Receiver<Infallible>,
}

/// The most records that wait for the logger.
const QUEUE_LEN: usize = 4096;

/// The highest level of the records that the logger wants; 0: none.
pub(super) fn wanted_level() -> u8 {
    log::max_level() as u8
}

impl Logs {
    pub(super) fn take(&self, record: LogRecord) {
        let Some(mut thread) = self.thread.lock() else { return };
        if thread.is_none() {
            *thread = LogThread::start(&self.lost, &self.passed).ok();
        }
        let is_taken = thread.as_ref().is_some_and(|thread| thread.records.try_send(record).is_ok());
        self.lose(u64::from(!is_taken));
    }

    /// A host has lost so many.
    pub(super) fn lose(&self, count: u64) {
        self.lost.fetch_add(count, Relaxed);
    }

    /// Blocks until the logger has what has arrived, but not beyond this time in which it takes no record.
    pub(crate) fn end(&self, time: Duration) {
        let Some(thread) = self.thread.lock().and_then(|mut thread| thread.take()) else { return };
        drop(thread.records);
        let mut before = None;
        while thread.ended.recv_timeout(time) == Err(RecvTimeoutError::Timeout) {
            let passed = Some(self.passed.load(Relaxed));
            if passed == before {
                return;
            }
            before = passed;
        }
    }
}

impl LogThread {
    fn start(lost: &Arc<AtomicU64>, passed: &Arc<AtomicU64>) -> io::Result<Self> {
        let (records, taken) = sync_channel::<LogRecord>(QUEUE_LEN);
        let (end, ended) = channel();
        let (lost, passed) = (Arc::clone(lost), Arc::clone(passed));
        thread::Builder::new().name("mp-cluster-log".to_owned()).spawn(move || {
            let _end = end;
            for record in taken {
                tell_lost(&lost);
                // A panic of the logger is its own: its message is printed, and the next record follows.
                let _ = catch_unwind(AssertUnwindSafe(|| record.log()));
                passed.fetch_add(1, Relaxed);
            }
            tell_lost(&lost);
        })?;
        Ok(Self { records, ended })
    }
}

fn tell_lost(lost: &AtomicU64) {
    let count = lost.swap(0, Relaxed);
    if count > 0 {
        let _ = catch_unwind(|| {
            log::warn!(target: "multiproc", "{count} log records of tasks on hosts were lost: too large, or faster than the connection or the logger");
        });
    }
}

//! Feature `log`: sends what tasks log to their callers.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU8, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use multiproc::pool::encoded;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::{logger, print_line};
use crate::connection::Connection;
use crate::log_record::LogRecord;
use crate::protocol::{self, Request, Session};

/// The log records of a session's tasks, on their way to its caller.
pub(super) struct Forwarder {
    /// Tells the session's items from those of others.
    number: u64,
    queue: Arc<Queue>,
}

struct Queue {
    /// The highest level of the records that the caller wants.
    level: AtomicU8,
    queued: mpsc::Sender<Queued>,
    /// Records that are not sent, and of which the caller does not know yet.
    lost: AtomicU64,
}

enum Queued {
    Record(LogRecord),
    /// Drops it when all records before it are sent.
    Flush(oneshot::Sender<()>),
}

/// The most records of a session that wait to be sent.
const QUEUE_LEN: usize = 4096;
/// How long the results of a chunk wait at most until what its tasks have logged is sent. Longer only if there is no
/// connection, so that the results cannot be sent, either.
const FLUSH_TIME: Duration = Duration::from_secs(10);

/// An item's number in log records has the session's number, and in these bits its index and one, or zero for a submitted
/// task.
const INDEX_BITS: u32 = 40;
const INDEX: u64 = (1 << INDEX_BITS) - 1;

static QUEUES: Mutex<BTreeMap<u64, Weak<Queue>>> = Mutex::new(BTreeMap::new());
static SESSIONS: AtomicU64 = AtomicU64::new(0);

/// Passes a record on to the caller whose task has logged it. If that does not want it, or if it is of no task, it is
/// printed here.
pub(super) fn pass_on(mut record: LogRecord) {
    let number = record.item.take();
    record.item = number.and_then(|number| (number & INDEX).checked_sub(1));
    let queue = number.and_then(|number| lock().get(&(number >> INDEX_BITS))?.upgrade());
    match queue.filter(|queue| record.level <= queue.level.load(Relaxed)) {
        Some(queue) => {
            let is_queued = queue.queued.try_send(Queued::Record(record)).is_ok();
            queue.lost.fetch_add(u64::from(!is_queued), Relaxed);
        }
        None => print_line(&record.to_string()),
    }
}

impl Forwarder {
    /// Sends until it drops.
    pub(super) fn start(connection: &Connection, session: &Session, level: u8) -> Self {
        let (queued, taken) = mpsc::channel(QUEUE_LEN);
        let forwarder = Self::new(queued, level);
        let queue = Arc::downgrade(&forwarder.queue);
        tokio::spawn(send(connection.clone(), session.back(), taken, queue));
        forwarder
    }

    /// One that sends nothing.
    #[cfg(test)]
    pub(super) fn idle() -> Self {
        Self::new(mpsc::channel(1).0, 0)
    }

    fn new(queued: mpsc::Sender<Queued>, level: u8) -> Self {
        let queue = Arc::new(Queue { level: level.into(), queued, lost: AtomicU64::new(0) });
        let number = SESSIONS.fetch_add(1, Relaxed) & (u64::MAX >> INDEX_BITS);
        lock().insert(number, Arc::downgrade(&queue));
        Self { number, queue }
    }

    pub(super) fn set_level(&self, level: u8) {
        self.queue.level.store(level, Relaxed);
    }

    /// The number of a chunk's first item in log records. `None` if they do not come to this library's logger.
    pub(super) fn number_of(&self, first: Option<u64>) -> Option<u64> {
        logger::is_installed().then(|| self.join(first))
    }

    fn join(&self, first: Option<u64>) -> u64 {
        self.number << INDEX_BITS | first.map_or(0, |first| first.wrapping_add(1) & INDEX)
    }

    /// Blocks, for a limited time, until the records are in the queue that tasks have logged before.
    pub(super) fn collect(&self) {
        if self.queue.level.load(Relaxed) > 0 {
            encoded::deliver_logs(FLUSH_TIME);
        }
    }

    /// Waits, for a limited time, until the records are sent that are in the queue.
    pub(super) async fn flush(&self) {
        if self.queue.level.load(Relaxed) > 0 {
            let (flush, flushed) = oneshot::channel();
            let _ = timeout(FLUSH_TIME, async {
                let _ = self.queue.queued.send(Queued::Flush(flush)).await;
                let _ = flushed.await;
            })
            .await;
        }
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        lock().remove(&self.number);
    }
}

/// On the connection and the subject of results, so records that are sent before results arrive before them.
async fn send(
    connection: Connection,
    subject: String,
    mut queued: mpsc::Receiver<Queued>,
    queue: Weak<Queue>,
) {
    while let Some(next) = queued.recv().await {
        let mut lost = queue.upgrade().map_or(0, |queue| queue.lost.swap(0, Relaxed));
        let _flush = match next {
            Queued::Record(record) => {
                lost += u64::from(!publish(&connection, &subject, &Request::Log(record)).await);
                None
            }
            Queued::Flush(flush) => Some(flush),
        };
        if lost > 0 {
            publish(&connection, &subject, &Request::LogsLost(lost)).await;
        }
    }
}

/// False if the message is too large.
async fn publish(connection: &Connection, subject: &str, request: &Request) -> bool {
    let Ok(message) = protocol::join(request, &[]) else { return false };
    message.len() <= connection.max_payload()
        && connection.client.publish(subject.to_owned(), message.into()).await.is_ok()
}

fn lock() -> MutexGuard<'static, BTreeMap<u64, Weak<Queue>>> {
    QUEUES.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use log::{Level, Record};

    use super::*;

    fn record(number: u64, level: Level) -> LogRecord {
        let values = [("process", log::kv::Value::from("w")), ("pid", log::kv::Value::from(7))];
        let record = Record::builder().level(level).key_values(&values).args(format_args!("text")).build();
        let mut record = LogRecord::new(&record, "h");
        record.item = Some(number);
        record
    }

    #[test]
    fn a_record_goes_to_the_caller_of_its_task_if_that_wants_it() {
        let (queued, mut taken) = mpsc::channel(8);
        let (other, mut of_other) = mpsc::channel(8);
        let (forwarder, other) =
            (Forwarder::new(queued, Level::Warn as u8), Forwarder::new(other, Level::Warn as u8));
        let mut next = || match taken.try_recv() {
            Ok(Queued::Record(record)) => Some(record.item),
            _ => None,
        };
        pass_on(record(forwarder.join(Some(0)) + 2, Level::Error));
        pass_on(record(forwarder.join(None), Level::Warn));
        pass_on(record(forwarder.join(None), Level::Info));
        assert_eq!((next(), next(), next()), (Some(Some(2)), Some(None), None));
        forwarder.set_level(Level::Info as u8);
        pass_on(record(forwarder.join(Some(INDEX - 1)), Level::Info));
        assert_eq!(next(), Some(Some(INDEX - 1)));
        assert!(of_other.try_recv().is_err());
        drop(forwarder);
        pass_on(record(other.join(Some(4)), Level::Warn));
        assert!(of_other.try_recv().is_ok() && next().is_none());
    }

    #[test]
    fn records_that_are_too_many_are_counted() {
        let (queued, _taken) = mpsc::channel(2);
        let forwarder = Forwarder::new(queued, Level::Warn as u8);
        for _ in 0..5 {
            pass_on(record(forwarder.join(None), Level::Warn));
        }
        assert_eq!(forwarder.queue.lost.load(Relaxed), 3);
    }
}

//! Feature `log`: sends what tasks log to their callers.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use multiproc::pool::encoded;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::connection::Connection;
use crate::log_record::{LogMessage, LogRecord, QueuedBytes};
use crate::protocol::{self, Session};

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
    bytes: QueuedBytes,
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
/// After this many bytes of records, what else the agent says comes first: adverts and renewals must not wait for long
/// on a slow link.
const BURST_LEN: usize = 32 * 1024;
/// How long the results of a chunk wait at most for each of two things: that the logger has what tasks have logged
/// before, and that it is sent.
const FLUSH_TIME: Duration = Duration::from_secs(2);

/// An item's number in log records has the session's number, which is not zero, and in these bits its index and one, or
/// zero for a submitted task. The items of a task's own pools have their indices alone.
const INDEX_BITS: u32 = 40;
const INDEX: u64 = (1 << INDEX_BITS) - 1;
const MAX_SESSION: u64 = u64::MAX >> INDEX_BITS;

static IS_ENABLED: AtomicBool = AtomicBool::new(false);
static QUEUES: Mutex<BTreeMap<u64, Weak<Queue>>> = Mutex::new(BTreeMap::new());
static SESSIONS: AtomicU64 = AtomicU64::new(0);

/// The agent's logger passes records on.
pub(super) fn enable() {
    IS_ENABLED.store(true, Relaxed);
}

/// Passes a record on to the caller whose task has logged it. Returns it if that does not want it, or if it is of no
/// caller's task.
pub(super) fn pass_on(mut record: LogRecord) -> Option<LogRecord> {
    let number = record.item.filter(|number| number >> INDEX_BITS > 0);
    if let Some(number) = number {
        record.item = (number & INDEX).checked_sub(1);
    }
    let queue = number.and_then(|number| lock().get(&(number >> INDEX_BITS))?.upgrade());
    match queue.filter(|queue| record.level <= queue.level.load(Relaxed)) {
        Some(queue) => {
            queue.add(record);
            None
        }
        None => Some(record),
    }
}

impl Queue {
    fn add(&self, record: LogRecord) {
        let has_room = self.bytes.add(&record);
        let is_queued = has_room
            && match self.queued.try_send(Queued::Record(record)) {
                Err(mpsc::error::TrySendError::Full(Queued::Record(record))) => {
                    self.bytes.remove(&record);
                    false
                }
                sent => sent.is_ok(),
            };
        self.lost.fetch_add(u64::from(!is_queued), Relaxed);
    }
}

impl Forwarder {
    /// Sends until it drops.
    pub(super) fn start(connection: &Connection, session: &Session, level: u8) -> Self {
        let (queued, taken) = mpsc::channel(QUEUE_LEN);
        let forwarder = Self::new(queued, level);
        let queue = Arc::downgrade(&forwarder.queue);
        tokio::spawn(send(connection.clone(), session.logs(), taken, queue));
        forwarder
    }

    /// One that sends nothing.
    #[cfg(test)]
    pub(super) fn idle() -> Self {
        Self::new(mpsc::channel(1).0, 0)
    }

    fn new(queued: mpsc::Sender<Queued>, level: u8) -> Self {
        let (bytes, lost) = (QueuedBytes::default(), AtomicU64::new(0));
        let queue = Arc::new(Queue { level: level.into(), queued, bytes, lost });
        let number = SESSIONS.fetch_add(1, Relaxed) % MAX_SESSION + 1;
        lock().insert(number, Arc::downgrade(&queue));
        Self { number, queue }
    }

    pub(super) fn set_level(&self, level: u8) {
        self.queue.level.store(level, Relaxed);
    }

    /// The number of a chunk's first item in log records: its index, if they do not come to this library's logger.
    pub(super) fn number_of(&self, first: Option<u64>) -> Option<u64> {
        if IS_ENABLED.load(Relaxed) { Some(self.join(first)) } else { first }
    }

    fn join(&self, first: Option<u64>) -> u64 {
        self.number << INDEX_BITS | first.map_or(0, |first| first.wrapping_add(1) & INDEX)
    }

    /// Blocks, for a limited time, until the records are in the queue that tasks have logged before.
    pub(super) fn collect(&self) {
        if self.is_of_use() {
            encoded::deliver_logs(FLUSH_TIME);
        }
    }

    /// Waits, for a limited time, until the records are sent that are in the queue.
    pub(super) async fn flush(&self) {
        if self.is_of_use() {
            let (flush, flushed) = oneshot::channel();
            let _ = timeout(FLUSH_TIME, async {
                let _ = self.queue.queued.send(Queued::Flush(flush)).await;
                let _ = flushed.await;
            })
            .await;
        }
    }

    fn is_of_use(&self) -> bool {
        IS_ENABLED.load(Relaxed) && self.queue.level.load(Relaxed) > 0
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        lock().remove(&self.number);
    }
}

/// On the connection of results, so records that are sent before results arrive before them.
async fn send(
    connection: Connection,
    subject: String,
    mut queued: mpsc::Receiver<Queued>,
    queue: Weak<Queue>,
) {
    let mut unflushed = 0;
    while let Some(next) = queued.recv().await {
        let mut lost = 0;
        if let Some(queue) = queue.upgrade() {
            lost = queue.lost.swap(0, Relaxed);
            if let Queued::Record(record) = &next {
                queue.bytes.remove(record);
            }
        }
        let _flush = match next {
            Queued::Record(record) => {
                let sent = publish(&connection, &subject, &LogMessage::Record(record)).await;
                lost += u64::from(sent.is_none());
                unflushed += sent.unwrap_or(0);
                None
            }
            Queued::Flush(flush) => Some(flush),
        };
        if lost > 0 {
            publish(&connection, &subject, &LogMessage::Lost(lost)).await;
        }
        if unflushed >= BURST_LEN {
            let _ = connection.client.flush().await;
            unflushed = 0;
        }
    }
}

/// The bytes of the message. `None` if it is too large.
async fn publish(connection: &Connection, subject: &str, message: &LogMessage) -> Option<usize> {
    let message =
        protocol::join(message, &[]).ok().filter(|message| message.len() <= connection.max_payload())?;
    let length = message.len();
    connection.client.publish(subject.to_owned(), message.into()).await.ok()?;
    Some(length)
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
        let is_passed = |number, level| pass_on(record(number, level)).is_none();
        assert!(is_passed(forwarder.join(Some(0)) + 2, Level::Error));
        assert!(is_passed(forwarder.join(None), Level::Warn));
        assert!(!is_passed(forwarder.join(None), Level::Info));
        assert_eq!((next(), next(), next()), (Some(Some(2)), Some(None), None));
        forwarder.set_level(Level::Info as u8);
        assert!(is_passed(forwarder.join(Some(INDEX - 1)), Level::Info));
        assert_eq!(next(), Some(Some(INDEX - 1)));
        let unwanted = pass_on(record(7, Level::Error)).unwrap();
        assert_eq!(unwanted.item, Some(7), "an item of a task's own pool");
        assert!(of_other.try_recv().is_err());
        let ended = forwarder.join(Some(9));
        drop(forwarder);
        assert_eq!(pass_on(record(ended, Level::Error)).unwrap().item, Some(9));
        assert!(is_passed(other.join(Some(4)), Level::Warn));
        assert!(of_other.try_recv().is_ok() && next().is_none());
    }

    #[test]
    fn records_that_are_too_many_are_counted() {
        let (queued, _taken) = mpsc::channel(2);
        let forwarder = Forwarder::new(queued, Level::Warn as u8);
        for _ in 0..5 {
            assert!(pass_on(record(forwarder.join(None), Level::Warn)).is_none());
        }
        assert_eq!(forwarder.queue.lost.load(Relaxed), 3);
    }

    #[test]
    fn records_that_are_too_large_together_are_counted() {
        let (queued, _taken) = mpsc::channel(1000);
        let forwarder = Forwarder::new(queued, Level::Warn as u8);
        let text = "t".repeat(1 << 20);
        for _ in 0..20 {
            let mut builder = Record::builder();
            builder.level(Level::Warn);
            let mut record = LogRecord::new(&builder.args(format_args!("{text}")).build(), "h");
            record.item = Some(forwarder.join(None));
            assert!(pass_on(record).is_none());
        }
        assert_eq!(forwarder.queue.lost.load(Relaxed), 5); // of 16 MiB, their other bytes take a part
    }
}

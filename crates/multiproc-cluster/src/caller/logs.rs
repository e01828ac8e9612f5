//! Feature `log`: passes what tasks log on their hosts to this program's logger.

use std::convert::Infallible;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, TrySendError, channel, sync_channel};
use std::thread;
use std::time::Duration;

use async_nats::{Message, Subscriber};
use futures_util::{FutureExt, StreamExt};
use multiproc::Result;
use multiproc::pool::encoded::PrivateMutex;

use super::{Caller, monitor};
use crate::log_record::{LogMessage, QueuedBytes};
use crate::protocol;

/// The way of records to the logger.
#[derive(Default)]
pub(crate) struct Logs {
    /// Disconnected at its end.
    ended: PrivateMutex<Option<Receiver<Infallible>>>,
    /// Records that the logger has got.
    passed: Arc<AtomicU64>,
}

/// The highest level of the records that the logger wants; 0: none.
pub(super) fn wanted_level() -> u8 {
    log::max_level() as u8
}

/// Subscribes, and passes records on until the session is over.
pub(super) async fn start(caller: &Arc<Caller>) -> Result<()> {
    let messages = monitor::subscribe(caller, caller.session.logs()).await?;
    let (end, ended) = channel();
    if let Some(mut own) = caller.logs.ended.lock() {
        *own = Some(ended);
    }
    caller.runtime.spawn(pass_on(Arc::clone(caller), messages, end));
    Ok(())
}

impl Logs {
    /// Blocks until the logger has what has arrived, but not beyond this time in which it takes no record.
    pub(crate) fn end(&self, time: Duration) {
        let Some(ended) = self.ended.lock().and_then(|mut ended| ended.take()) else { return };
        let mut before = self.passed.load(Relaxed);
        while ended.recv_timeout(time) == Err(RecvTimeoutError::Timeout) {
            let passed = self.passed.load(Relaxed);
            if passed == before {
                return;
            }
            before = passed;
        }
    }
}

async fn pass_on(caller: Arc<Caller>, mut messages: Subscriber, end: Sender<Infallible>) {
    let mut thread = None;
    let mut take = |message: &Message| {
        let Ok((message, _)) = protocol::split::<LogMessage>(&message.payload) else { return };
        if thread.is_none() {
            thread = LogThread::start(&caller.logs.passed, end.clone()).ok();
        }
        if let Some(thread) = &thread {
            thread.take(message);
        }
    };
    loop {
        tokio::select! {
            message = messages.next() => match message {
                Some(message) => take(&message),
                None => return,
            },
            () = caller.ended() => break,
        }
    }
    // What was sent before the last results is here.
    while let Some(Some(message)) = messages.next().now_or_never() {
        take(&message);
    }
}

/// Calls the logger, which may block, or use this library.
struct LogThread {
    queued: SyncSender<LogMessage>,
    bytes: Arc<QueuedBytes>,
    /// Records that the logger does not get, and of which it has not heard.
    lost: Arc<AtomicU64>,
}

/// The most records that wait for the logger.
const QUEUE_LEN: usize = 4096;

impl LogThread {
    fn start(passed: &Arc<AtomicU64>, end: Sender<Infallible>) -> io::Result<Self> {
        let (queued, taken) = sync_channel(QUEUE_LEN);
        let (bytes, lost) = (Arc::<QueuedBytes>::default(), Arc::<AtomicU64>::default());
        let new = Self { queued, bytes: Arc::clone(&bytes), lost: Arc::clone(&lost) };
        let passed = Arc::clone(passed);
        thread::Builder::new().name("mp-cluster-log".to_owned()).spawn(move || {
            let _end = end;
            for message in taken {
                // A panic of the logger is its own: its message is printed, and the next record follows.
                let _ = match message {
                    LogMessage::Record(record) => {
                        bytes.remove(&record);
                        catch_unwind(AssertUnwindSafe(|| record.log()))
                    }
                    LogMessage::Lost(count) => catch_unwind(|| tell_lost(count)),
                };
                let _ = catch_unwind(AssertUnwindSafe(|| tell_lost(lost.swap(0, Relaxed))));
                passed.fetch_add(1, Relaxed);
            }
        })?;
        Ok(new)
    }

    fn take(&self, message: LogMessage) {
        let has_room = match &message {
            LogMessage::Record(record) => self.bytes.add(record),
            LogMessage::Lost(_) => true,
        };
        let refused = if has_room { self.queued.try_send(message) } else { Err(TrySendError::Full(message)) };
        if let Err(TrySendError::Full(message) | TrySendError::Disconnected(message)) = refused {
            if let LogMessage::Record(record) = &message
                && has_room
            {
                self.bytes.remove(record);
            }
            let count = if let LogMessage::Lost(count) = message { count } else { 1 };
            self.lost.fetch_add(count, Relaxed);
        }
    }
}

fn tell_lost(count: u64) {
    if count > 0 {
        log::warn!(target: "multiproc", "{count} log records of tasks on hosts were lost: too large, or faster than the connection or the logger");
    }
}

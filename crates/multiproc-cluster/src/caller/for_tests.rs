//! A caller for unit tests: it has no stream, and nothing of it runs by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::{Duration, Instant};

use async_nats::jetstream::stream::StorageType;
use multiproc::pool::encoded::{self, OriginalProcess, PrivateMutex};
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::inbox::Inbox;
use super::logs::Logs;
use super::outstanding::Outstanding;
use super::permits::Permits;
use super::state::State;
use super::{Caller, NewChunk, Settings};
use crate::fake_broker;
use crate::options::HostLoss;
use crate::protocol::Session;

/// A caller whose broker [answers](fake_broker::connect) so.
pub(super) async fn caller(answer: impl Fn(&[u8]) -> Vec<u8> + Clone + Send + 'static) -> Arc<Caller> {
    let lease = Duration::from_secs(3600);
    let settings = Settings { build: [0; 32], lease, storage: StorageType::Memory, max_pending: 1 };
    Arc::new(Caller {
        session: Session { pool: "p".to_owned(), id: "s".to_owned() },
        connection: fake_broker::connect(1_000_000, answer).await.unwrap(),
        settings,
        runtime: Handle::current(),
        original: OriginalProcess::current(),
        state: PrivateMutex::new(State::new()),
        next_chunk: AtomicU64::new(0),
        permits: Permits::new(1),
        logs: Logs::default(),
        over: watch::Sender::new(false),
        store: tokio::sync::Mutex::default(),
        has_store: AtomicBool::new(false),
    })
}

/// Has a chunk of one item be out; returns its inbox.
pub(super) fn submit(caller: &Caller, chunk: u64) -> Arc<Inbox> {
    let mut function = Vec::new();
    encoded::encode(&(1_u64, 1_u64), &mut function, "a function").unwrap();
    let inbox = Arc::<Inbox>::default();
    let mut new = NewChunk {
        inbox: Arc::clone(&inbox),
        function: encoded::decode(&function, "a function").unwrap(),
        first: None,
        count: 1,
        items: Vec::new(),
        timeout: None,
        grace: Duration::ZERO,
        retries: 0,
        on_host_loss: HostLoss::default(),
        permit: None,
        called: Instant::now(),
    };
    caller.lock().outstanding.insert(chunk, Outstanding::new(&mut new));
    inbox
}

//! A program's session with a pool of the cluster: its outstanding chunks, and the hosts that serve them.

mod contact;
#[cfg(test)]
mod for_tests;
pub(crate) mod inbox;
#[cfg_attr(not(feature = "log"), path = "logs_off.rs")]
mod logs;
mod monitor;
mod outstanding;
pub(crate) mod permits;
mod publish;
mod replies;
mod state;
mod stream;
mod withdraw;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::{Duration, Instant};

use async_nats::jetstream::stream::StorageType;
use multiproc::pool::encoded::{self, FunctionId, OriginalProcess, PrivateMutex};
use multiproc::{Error, Result};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::timeout;

use self::inbox::Inbox;
use self::logs::Logs;
use self::outstanding::Outstanding;
use self::permits::{Permit, Permits};
pub(crate) use self::replies::unreadable;
use self::state::{HostState, Locked, State};
use self::stream::make_stream;
pub(crate) use self::stream::remove_streams;
use crate::build_id;
use crate::connection::Connection;
use crate::options::HostLoss;
use crate::original;
use crate::payload;
use crate::protocol::{Build, CallerAdvert, Session};
use crate::stats::PoolStats;

/// A program's session with a pool, from [`Cluster::pool`](crate::Cluster::pool) until the pool is dropped.
pub(crate) struct Caller {
    pub(crate) session: Session,
    pub(crate) connection: Connection,
    pub(crate) settings: Settings,
    pub(crate) runtime: Handle,
    original: OriginalProcess,
    state: PrivateMutex<State>,
    next_chunk: AtomicU64,
    pub(crate) permits: Arc<Permits>,
    pub(crate) logs: Logs,
    over: watch::Sender<bool>,
    /// Whether the object store was made. Held while that is done, and while an existing one is removed.
    store: tokio::sync::Mutex<bool>,
    /// Whether there may be an object store.
    has_store: AtomicBool,
}

/// How long the end of a session may wait for the broker.
pub(crate) const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) build: Build,
    pub(crate) lease: Duration,
    pub(crate) storage: StorageType,
    pub(crate) max_pending: usize,
}

impl Settings {
    fn advert(&self, is_over: bool) -> CallerAdvert {
        CallerAdvert {
            build: build_id::hex(&self.build),
            lease_ms: u64::try_from(self.lease.as_millis()).unwrap_or(u64::MAX),
            is_over,
            log_level: logs::wanted_level(),
        }
    }
}

/// What a chunk is submitted with.
pub(crate) struct NewChunk {
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) function: FunctionId,
    /// The input index of its first item. `None` for a submitted task.
    pub(crate) first: Option<u64>,
    pub(crate) count: u32,
    pub(crate) items: Vec<u8>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) grace: Duration,
    pub(crate) retries: u32,
    pub(crate) on_host_loss: HostLoss,
    /// Of a submitted task.
    pub(crate) permit: Option<Permit>,
    /// When its call began. A call that is older than a lease does not wait for hosts or broker.
    pub(crate) called: Instant,
}

/// A host as [`Pool::hosts`](crate::Pool::hosts) shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Host {
    /// Its name: that of the machine, or what its agent's options say.
    pub name: String,
    /// The number of its workers.
    pub workers: u32,
    /// The beginning of the SHA-256 of its program, as text.
    pub build: String,
    /// Whether that is this program, so that the host serves the pool.
    pub serves: bool,
}

impl Caller {
    /// Makes the stream and its consumer, and starts the tasks of the session. What it has made goes if one of them
    /// fails.
    pub(crate) async fn begin(
        pool: String,
        connection: Connection,
        settings: Settings,
        runtime: Handle,
    ) -> Result<Arc<Self>> {
        let id = connection.client.new_inbox().rsplit('.').next().unwrap_or_default().to_owned();
        let session = Session { pool, id };
        let begun = Self::try_begin(session.clone(), connection.clone(), settings, runtime).await;
        if begun.is_err() {
            let _ = timeout(CLOSE_TIMEOUT, remove_streams(&connection, &session)).await;
        }
        begun
    }

    async fn try_begin(
        session: Session,
        connection: Connection,
        settings: Settings,
        runtime: Handle,
    ) -> Result<Arc<Self>> {
        let asked = Instant::now();
        make_stream(&connection, &session, settings).await?;
        let round_trip = asked.elapsed();
        let caller = Arc::new(Self {
            session,
            connection,
            settings,
            runtime,
            original: OriginalProcess::current(),
            state: PrivateMutex::new(State::new()),
            next_chunk: AtomicU64::new(0),
            permits: Permits::new(settings.max_pending),
            logs: Logs::default(),
            over: watch::Sender::new(false),
            store: tokio::sync::Mutex::default(),
            has_store: AtomicBool::new(false),
        });
        replies::start(&caller).await?;
        logs::start(&caller).await?;
        monitor::start(&caller, round_trip).await?;
        Ok(caller)
    }

    /// Sends a chunk to the hosts; its results arrive in its inbox. Returns its number.
    pub(crate) fn submit(self: &Arc<Self>, mut new: NewChunk) -> Result<u64> {
        let chunk = self.next_chunk.fetch_add(1, Relaxed);
        {
            let mut state = self.lock();
            if let Some(failure) = &state.failure {
                return Err(failure.clone());
            }
            if let Some(silence) = state.silence.clone()
                && new.called.elapsed() > self.settings.lease
            {
                drop(state);
                Outstanding::new(&mut new).fail(chunk, silence);
                return Ok(chunk);
            }
            state.outstanding.insert(chunk, Outstanding::new(&mut new));
        }
        self.runtime.spawn(publish::publish(Arc::clone(self), chunk, new));
        Ok(chunk)
    }

    /// Withdraws a chunk: it is not begun any more, and ended where it runs. False if it is not outstanding.
    pub(crate) fn withdraw(self: &Arc<Self>, chunk: u64) -> bool {
        let Some(mut outstanding) = self.lock().outstanding.remove(&chunk) else { return false };
        self.discard(chunk, &mut outstanding);
        true
    }

    /// As [`withdraw`](Self::withdraw), with an error for its items.
    pub(crate) fn fail(self: &Arc<Self>, chunk: u64, error: Error) -> bool {
        let Some(outstanding) = self.lock().outstanding.remove(&chunk) else { return false };
        self.end_chunk(chunk, outstanding, error);
        true
    }

    /// Ends a chunk whose host is lost, and counts its tasks as lost there, unless it has its results.
    fn fail_lost(self: &Arc<Self>, chunk: u64, host: String) {
        let mut state = self.lock();
        let Some(outstanding) = state.outstanding.remove(&chunk) else { return };
        state.stats_of(&host).tasks_lost += u64::from(outstanding.count);
        drop(state);
        self.end_chunk(chunk, outstanding, outstanding::loss(&[host]));
    }

    fn end_chunk(self: &Arc<Self>, chunk: u64, mut outstanding: Outstanding, error: Error) {
        self.discard(chunk, &mut outstanding);
        outstanding.fail(chunk, error);
    }

    /// The number of chunks that keep all known workers busy while results and new chunks travel.
    pub(crate) fn window(&self) -> usize {
        (self.workers() * 4).clamp(8, 8192)
    }

    /// The number of workers of the hosts that serve the pool.
    pub(crate) fn workers(&self) -> usize {
        let state = self.lock();
        let own = build_id::hex(&self.settings.build);
        let hosts = state.heard_within(self.settings.lease);
        hosts.filter(|host| host.build == own).map(|host| host.workers as usize).sum()
    }

    pub(crate) fn hosts(&self) -> Vec<Host> {
        let own = build_id::hex(&self.settings.build);
        let state = self.lock();
        let mut hosts: Vec<_> =
            state.heard_within(self.settings.lease).map(|host| host.public(&own)).collect();
        hosts.sort_by(|a, b| a.name.cmp(&b.name));
        hosts
    }

    pub(crate) fn stats(&self) -> PoolStats {
        let state = self.lock();
        let pending = state.outstanding.values().map(|outstanding| u64::from(outstanding.count)).sum();
        PoolStats { hosts: state.stats.values().cloned().collect(), pending }
    }

    /// Whether a host has begun a chunk that has no results, and is not given up.
    pub(crate) fn is_running(&self, chunk: u64) -> bool {
        let state = self.lock();
        state.outstanding.get(&chunk).is_some_and(|chunk| chunk.has_live_host(&state.hosts))
    }

    /// Fails in a forked copy.
    pub(crate) fn check_not_forked(&self) -> Result<()> {
        original::check(self.original)
    }

    /// Why the session is of no more use, if it is not.
    pub(crate) fn failure(&self) -> Option<Error> {
        self.lock().failure.clone()
    }

    /// Ends all calls with an error, and the session with them.
    fn end_with(self: &Arc<Self>, failure: Error) {
        self.lock().failure.get_or_insert_with(|| failure.clone());
        self.fail_all(&failure);
    }

    fn fail_all(self: &Arc<Self>, error: &Error) {
        let chunks: Vec<u64> = self.lock().outstanding.keys().copied().collect();
        for chunk in chunks {
            self.fail(chunk, error.clone());
        }
    }

    /// Tells agents that a chunk is withdrawn, and removes it from the stream.
    fn discard(self: &Arc<Self>, chunk: u64, outstanding: &mut Outstanding) {
        if *self.over.borrow() {
            return; // agents are told that the session is over
        }
        outstanding.leave_host();
        self.remove_results(chunk, std::mem::take(&mut outstanding.past));
        let (caller, sequence, has_object) = (Arc::clone(self), outstanding.sequence, outstanding.has_object);
        self.runtime.spawn(async move {
            tokio::select! {
                () = withdraw::withdraw(&caller, chunk, sequence, has_object) => {}
                () = caller.ended() => {}
            }
        });
    }

    /// Removes results that agents have stored and that no call waits for. An agent that stores some later learns that
    /// when it reports them.
    fn remove_results(self: &Arc<Self>, chunk: u64, past: Vec<(u64, String)>) {
        if past.is_empty() || !self.has_store.load(Relaxed) {
            return;
        }
        let caller = Arc::clone(self);
        self.runtime.spawn(async move {
            for (grant, agent) in past {
                let name = payload::results_name(chunk, grant, &agent);
                payload::remove(&caller.connection, &caller.session, &name).await;
            }
        });
    }

    /// Ends the session: agents leave it, stream and objects are removed.
    pub(crate) async fn close(self: Arc<Self>) {
        if self.over.send_replace(true) {
            return;
        }
        self.end_with(encoded::cancelled());
        monitor::advertise(&self, true).await;
        let _store = self.store.lock().await; // a store that is being made would stay
        remove_streams(&self.connection, &self.session).await;
    }

    /// Makes the object store, unless the session is over, or has made one. `again` asks the broker nevertheless, after
    /// a failure: the store may have been deleted.
    async fn make_store(&self, again: bool) -> Result<()> {
        let mut is_made = self.store.lock().await;
        if *self.over.borrow() {
            return Err(encoded::cancelled());
        }
        if *is_made && !again {
            return Ok(());
        }
        self.has_store.store(true, Relaxed);
        payload::make_store(&self.connection, &self.session, self.settings.storage).await?;
        *is_made = true;
        Ok(())
    }

    /// Waits for the session's end.
    async fn ended(&self) {
        let _ = self.over.subscribe().wait_for(|over| *over).await;
    }

    fn lock(&self) -> Locked<'_> {
        self.state.lock().map_or_else(Locked::copy, Locked::Original)
    }
}

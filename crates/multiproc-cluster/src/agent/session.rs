//! A caller's session, served by this agent.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_nats::client::RequestErrorKind;
use futures_util::StreamExt;
use tokio::sync::{Notify, oneshot, watch};

use super::forwarder::Forwarder;
use super::slot::{self, Kind};
use super::{Agent, print_line};
use crate::caller::remove_streams;
use crate::connection::{Connection, REQUEST_TIMEOUT, RETURN_TIME, SMALL_LEN};
use crate::protocol::{self, CallerAdvert, Reply, Request, Session};

pub(crate) struct Served {
    pub(super) session: Session,
    pub(super) lease: Duration,
    /// When the caller was heard.
    heard: Mutex<Instant>,
    /// Sends the caller what its tasks log.
    pub(super) forwarder: Forwarder,
    over: watch::Sender<bool>,
    /// Has a slot pull a chunk [ahead](Kind::Ahead).
    pub(super) ahead: Notify,
    /// The chunks that run.
    running: Mutex<HashMap<u64, Running>>,
}

struct Running {
    /// Withdraws it, once.
    stop: Option<oneshot::Sender<()>>,
    /// At its end, whether it is finished.
    ended: watch::Sender<Option<bool>>,
}

/// Whether a chunk that is delivered runs already: a broker that was killed forgets a renewal.
pub(super) enum Registered {
    /// It does not, but from now on.
    New(Registration),
    /// It does. The receiver hears of its end.
    Runs(watch::Receiver<Option<bool>>),
}

/// A chunk counts as running until this drops: also if what runs it panics, or another delivery would wait for its end
/// for ever.
pub(super) struct Registration {
    served: Arc<Served>,
    chunk: u64,
    /// Hears that the chunk is withdrawn.
    stopped: oneshot::Receiver<()>,
    is_finished: bool,
}

impl Registration {
    /// Waits until the chunk is withdrawn.
    pub(super) async fn stopped(&mut self) {
        if (&mut self.stopped).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// The chunk has ended, and is finished or not.
    pub(super) fn end(mut self, is_finished: bool) {
        self.is_finished = is_finished;
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Some(running) = lock(&self.served.running).remove(&self.chunk) {
            running.ended.send_replace(Some(self.is_finished));
        }
    }
}

/// How many connections may end while large results are on their way, before those go in parts: a slow link may need
/// longer for them than the client has patience.
const MAX_CUTS: u32 = 2;

/// What became of a request to the caller.
pub(super) enum Answer {
    Reply(Reply),
    /// The broker says that the caller is not there.
    Absent,
    None,
}

impl Served {
    /// Starts a slot of each kind for each worker: so the workers are busy while chunks and results travel.
    pub(super) fn start(agent: &Arc<Agent>, session: Session, advert: &CallerAdvert) -> Arc<Self> {
        let forwarder = Forwarder::start(&agent.connection, &session, advert.log_level);
        let served = Arc::new(Self {
            session,
            forwarder,
            lease: Duration::from_millis(advert.lease_ms.max(1)),
            heard: Mutex::new(Instant::now()),
            over: watch::Sender::new(false),
            ahead: Notify::new(),
            running: Mutex::default(),
        });
        for _ in 0..agent.workers {
            for kind in [Kind::Waiting, Kind::Ahead] {
                tokio::spawn(slot::serve(Arc::clone(agent), Arc::clone(&served), kind));
            }
        }
        tokio::spawn(take_stops(Arc::clone(agent), Arc::clone(&served)));
        tokio::spawn(watch_caller(Arc::clone(agent), Arc::clone(&served)));
        served
    }

    /// The caller is there, and may want other log records.
    pub(super) fn hear(&self, advert: &CallerAdvert) {
        self.note_heartbeat();
        self.forwarder.set_level(advert.log_level);
    }

    fn note_heartbeat(&self) {
        *lock(&self.heard) = Instant::now();
    }

    pub(super) fn end(&self) {
        self.forwarder.set_level(0); // the caller takes no more records
        self.over.send_replace(true);
    }

    /// Waits for the session's end.
    pub(super) async fn is_over(&self) {
        let _ = self.over.subscribe().wait_for(|over| *over).await;
    }

    /// Registers a chunk to run. If this agent runs it already, it is told of the end of that.
    pub(super) fn register(self: &Arc<Self>, chunk: u64) -> Registered {
        match lock(&self.running).entry(chunk) {
            Entry::Occupied(running) => Registered::Runs(running.get().ended.subscribe()),
            Entry::Vacant(vacant) => {
                let (stop, stopped) = oneshot::channel();
                vacant.insert(Running { stop: Some(stop), ended: watch::Sender::new(None) });
                let served = Arc::clone(self);
                Registered::New(Registration { served, chunk, stopped, is_finished: false })
            }
        }
    }

    /// If this agent runs the chunk, the receiver hears of its end.
    pub(super) fn running(&self, chunk: u64) -> Option<watch::Receiver<Option<bool>>> {
        lock(&self.running).get(&chunk).map(|running| running.ended.subscribe())
    }

    /// Asks the caller once. It may be further away than a lease: whether it answers in time is for others to say.
    pub(super) async fn ask(&self, connection: &Connection, request: &Request, body: &[u8]) -> Answer {
        self.ask_within(REQUEST_TIMEOUT, connection, request, body).await
    }

    async fn ask_within(
        &self,
        time: Duration,
        connection: &Connection,
        request: &Request,
        body: &[u8],
    ) -> Answer {
        let Ok(payload) = protocol::join(request, body) else { return Answer::None };
        let request = async_nats::Request::new().payload(payload.into()).timeout(Some(time));
        match connection.client.send_request(self.session.back(), request).await {
            Ok(message) => match protocol::split::<Reply>(&message.payload) {
                Ok((reply, _)) => Answer::Reply(reply),
                Err(_) => Answer::None,
            },
            Err(error) if error.kind() == RequestErrorKind::NoResponders => Answer::Absent,
            Err(_) => Answer::None,
        }
    }

    /// Asks the caller until it answers. The session's end ends the task that asks.
    pub(super) async fn ask_until_answered(&self, connection: &Connection, request: &Request) -> Reply {
        loop {
            if connection.is_connected()
                && let Answer::Reply(reply) = self.ask(connection, request, &[]).await
            {
                return reply;
            }
            self.pause().await;
        }
    }

    /// As [`ask_until_answered`](Self::ask_until_answered), with results. `None` once they are too large for a
    /// message: the server may have another limit after a reconnect, or they may be what has ended the connection.
    pub(super) async fn hand_in(
        &self,
        connection: &Connection,
        request: &Request,
        results: &[u8],
    ) -> Option<Reply> {
        let mut cuts = 0;
        while fits(connection, request, results) && cuts < MAX_CUTS {
            if connection.is_connected() {
                match connection.unless_cut(self.ask(connection, request, results)).await {
                    Some(Answer::Reply(reply)) => return Some(reply),
                    Some(Answer::Absent | Answer::None) => {}
                    None => cuts += u32::from(results.len() > SMALL_LEN),
                }
            }
            self.pause().await;
        }
        None
    }

    /// Pauses before another question.
    async fn pause(&self) {
        tokio::time::sleep((self.lease / 20).min(Duration::from_millis(200))).await;
    }
}

/// Whether a request is no larger than a message may be, and its results are worth no object.
fn fits(connection: &Connection, request: &Request, results: &[u8]) -> bool {
    let header = protocol::join(request, &[]).map_or(usize::MAX, |message| message.len());
    results.len() <= connection.max_payload()
        && header.saturating_add(results.len()) <= connection.client.max_payload()
}

/// Ends chunks that the caller withdraws.
async fn take_stops(agent: Arc<Agent>, served: Arc<Served>) {
    let Ok(mut stops) = agent.connection.client.subscribe(served.session.stop()).await else { return };
    loop {
        tokio::select! {
            stop = stops.next() => {
                let Some(stop) = stop else { return };
                let Ok(chunk) = <[u8; 8]>::try_from(&stop.payload[..]) else { continue };
                let mut running = lock(&served.running);
                let running = running.get_mut(&u64::from_le_bytes(chunk));
                if let Some(stop) = running.and_then(|running| running.stop.take()) {
                    let _ = stop.send(());
                }
            }
            () = served.is_over() => return,
        }
    }
}

/// How often an agent looks whether a caller is silent, whatever its lease.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// Notices that the caller is gone, and withdraws its work. A silent broker, or one that this host cannot
/// reach, says nothing about the caller.
async fn watch_caller(agent: Arc<Agent>, served: Arc<Served>) {
    let mut unanswered = 0;
    loop {
        tokio::select! {
            () = tokio::time::sleep((served.lease / 4).min(MAX_PAUSE)) => {}
            () = served.is_over() => return,
        }
        if !agent.connection.is_connected() {
            served.note_heartbeat();
        }
        if lock(&served.heard).elapsed() <= served.lease {
            unanswered = 0;
            continue;
        }
        unanswered += silence(&agent, &served).await;
        if unanswered < 2 {
            continue;
        }
        // What follows cannot be undone, and the broker may have been silent until now: then the caller may be about to
        // connect again. So the agent asks once more, later.
        tokio::select! {
            () = tokio::time::sleep(RETURN_TIME) => {}
            () = served.is_over() => return,
        }
        if silence(&agent, &served).await > 0 {
            break;
        }
    }
    served.end();
    agent.lock().remove(&served.session);
    remove_streams(&agent.connection, &served.session).await;
    print_line(&format!("the caller of pool {:?} is gone", served.session.pool));
}

/// Asks the caller: 0 if it answers, or the broker is silent, too; 2 if the broker says that it is not there;
/// otherwise 1.
async fn silence(agent: &Agent, served: &Served) -> u32 {
    let time = REQUEST_TIMEOUT.min(served.lease);
    match served.ask_within(time, &agent.connection, &Request::Ping, &[]).await {
        Answer::Reply(_) => {
            served.note_heartbeat();
            0
        }
        Answer::Absent => 2,
        Answer::None => u32::from(agent.connection.broker_answers(served.session.stream()).await),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;
    use std::sync::atomic::Ordering::Relaxed;

    use futures_util::FutureExt;

    use super::*;
    use crate::fake_broker;

    fn served(lease: Duration) -> Served {
        Served {
            session: Session { pool: "p".to_owned(), id: "s".to_owned() },
            forwarder: Forwarder::idle(),
            lease,
            heard: Mutex::new(Instant::now()),
            over: watch::Sender::new(false),
            ahead: Notify::new(),
            running: Mutex::default(),
        }
    }

    fn done() -> Request {
        Request::Done { chunk: 1, grant: 0, host: "h".to_owned(), work: Duration::ZERO, object: None }
    }

    #[tokio::test]
    async fn a_chunk_does_not_run_any_more_once_what_runs_it_has_panicked() {
        let served = Arc::new(served(Duration::from_secs(1)));
        for is_finished in [Some(true), Some(false), None] {
            let Registered::New(registration) = served.register(7) else { panic!("it runs already") };
            let Registered::Runs(mut ended) = served.register(7) else { panic!("it runs twice") };
            let run = async move {
                registration.end(is_finished.expect("what runs it panics"));
            };
            assert_eq!(tokio::spawn(run).await.is_ok(), is_finished.is_some());
            let end = ended.wait_for(Option::is_some).now_or_never().expect("it runs").map(|end| *end);
            assert_eq!(end.ok(), Some(Some(is_finished == Some(true))));
        }
    }

    /// The client refuses a message that is too large, which would count as no answer.
    #[tokio::test]
    async fn what_is_too_large_with_its_header_is_not_handed_in() {
        let answer = |_: &[u8]| protocol::join(&Reply::Finished, &[]).unwrap();
        let connection = fake_broker::connect(8192, answer).await.unwrap();
        let served = served(Duration::from_secs(1));
        let header = protocol::join(&done(), &[]).unwrap().len();
        for (host, length, fits) in
            [(0, 4096, true), (0, 4097, false), (4095, 4096 - header, true), (4096, 4096, false)]
        {
            let host = "h".repeat(1 + host);
            let request = Request::Done { chunk: 1, grant: 0, host, work: Duration::ZERO, object: None };
            let results = vec![0; length];
            let handed_in = served.hand_in(&connection, &request, &results);
            let reply = tokio::time::timeout(Duration::from_secs(60), handed_in).await;
            let reply = reply.expect("it is tried without end");
            assert_eq!(reply, fits.then_some(Reply::Finished), "{length}");
        }
    }

    /// The broker ends the first connections that bring them.
    #[tokio::test]
    async fn large_results_that_end_connections_are_not_offered_without_end() {
        for (ended, reply) in [(1, Some(Reply::Finished)), (MAX_CUTS, None)] {
            let left = Arc::new(AtomicU32::new(ended));
            let answer = move |_: &[u8]| {
                let is_ended = left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok();
                if is_ended { Vec::new() } else { protocol::join(&Reply::Finished, &[]).unwrap() }
            };
            let connection = fake_broker::connect(1_000_000, answer).await.unwrap();
            let (served, request, results) = (served(Duration::from_secs(1)), done(), vec![0; SMALL_LEN + 1]);
            let handed_in = served.hand_in(&connection, &request, &results);
            let handed_in = tokio::time::timeout(Duration::from_secs(60), handed_in).await;
            assert_eq!(handed_in.expect("they are offered without end"), reply, "{ended}");
        }
    }

    #[tokio::test]
    async fn an_answer_that_takes_longer_than_the_lease_is_heard() {
        let lease = Duration::from_millis(1);
        let answer = move |_: &[u8]| {
            std::thread::sleep(100 * lease);
            protocol::join(&Reply::Finished, &[]).unwrap()
        };
        let connection = fake_broker::connect(1_000_000, answer).await.unwrap();
        let reply = tokio::time::timeout(Duration::from_secs(60), async {
            served(lease).hand_in(&connection, &done(), b"results").await
        });
        assert_eq!(reply.await.expect("no answer is heard"), Some(Reply::Finished));
    }
}

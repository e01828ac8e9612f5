//! A chunk's life at an agent: asks for it, runs it, hands in its results, acknowledges it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::{Message, Subject, jetstream};
use multiproc::Result;
use multiproc::pool::encoded;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::lease::Lease;
use super::run::{Ran, Stop, StopOnDrop};
use super::session::{Registered, Served};
use super::slot::free_place;
use super::{Agent, pace, print_line, run};
use crate::connection::REQUEST_TIMEOUT;
use crate::payload;
use crate::protocol::{self, Delivery, Reply, Request, WorkHeader};

/// What the broker says of a delivery.
#[derive(Clone, Copy)]
struct Delivered {
    /// How often the message was delivered.
    count: i64,
    /// Whether other chunks wait at the broker.
    has_more: bool,
}

impl From<jetstream::message::Info<'_>> for Delivered {
    fn from(info: jetstream::message::Info<'_>) -> Self {
        Self { count: info.delivered, has_more: info.pending > 0 }
    }
}

/// Takes a chunk, `asked` for then, from its delivery to its end. One that is not acknowledged comes again after the
/// lease.
pub(super) async fn take(
    agent: &Arc<Agent>,
    served: &Arc<Served>,
    (message, asked): (Message, Instant),
    place: OwnedSemaphorePermit,
) {
    let context = agent.connection.context.clone();
    let message = jetstream::Message { message, context };
    let Some(acknowledge) = message.message.reply.clone() else { return };
    let Some(delivered) = message.info().ok().map(Delivered::from) else { return };
    let Some((header, items)) = open(agent, &message.message.payload) else {
        print_line(&format!("an unreadable chunk of pool {:?} is dropped", served.session.pool));
        return finish(agent, acknowledge).await;
    };
    let chunk = header.chunk;
    let is_finished = match served.register(chunk) {
        Registered::Runs(ended) => {
            drop(place);
            follow(agent, served, &acknowledge, ended).await
        }
        Registered::New(mut registration) => {
            let lease = Lease::new(agent, served, &acknowledge, asked);
            let serving = serve(agent, served, (header, items), delivered, lease, place);
            let is_finished = tokio::select! {
                is_finished = serving => is_finished,
                () = registration.stopped() => true,
                () = served.is_over() => false,
            };
            registration.end(is_finished);
            is_finished
        }
    };
    if is_finished {
        finish(agent, acknowledge).await;
    }
}

/// Keeps a delivery of a chunk that this agent runs already: another host would take the chunk for lost. It needs
/// no place. False if this agent does not run the chunk.
pub(super) async fn follow_running(agent: &Agent, served: &Served, message: &Message) -> bool {
    let Some(acknowledge) = message.reply.clone() else { return false };
    let Some((header, _)) = open(agent, &message.payload) else { return false };
    let Some(ended) = served.running(header.chunk) else { return false };
    if follow(agent, served, &acknowledge, ended).await {
        finish(agent, acknowledge).await;
    }
    true
}

/// Keeps a second delivery of a chunk that this agent runs already, until that ends.
async fn follow(
    agent: &Agent,
    served: &Served,
    acknowledge: &Subject,
    mut ended: watch::Receiver<Option<bool>>,
) -> bool {
    loop {
        let waited = timeout(served.lease / 3, ended.wait_for(Option::is_some)).await;
        if let Ok(ended) = waited.map(|ended| ended.is_ok_and(|ended| *ended == Some(true))) {
            return ended;
        }
        if agent.connection.is_connected() {
            let _ = agent.connection.client.publish(acknowledge.clone(), "+WPI".into()).await;
        }
    }
}

/// A chunk that was sent by this build: its header, and its items.
fn open(agent: &Agent, payload: &[u8]) -> Option<(WorkHeader, Vec<u8>)> {
    let (build, rest) = payload.split_first_chunk::<32>()?;
    if *build != agent.build {
        return None;
    }
    let (header, items) = protocol::split::<WorkHeader>(rest).ok()?;
    Some((header, items.to_vec()))
}

/// Removes the chunk from the stream.
async fn finish(agent: &Agent, acknowledge: Subject) {
    let _ = agent.connection.client.publish(acknowledge, "+ACK".into()).await;
}

/// Runs a chunk and hands in its results. True if it is finished: it has its results, or is withdrawn.
async fn serve(
    agent: &Arc<Agent>,
    served: &Arc<Served>,
    (header, items): (WorkHeader, Vec<u8>),
    delivered: Delivered,
    mut lease: Lease<'_>,
    place: OwnedSemaphorePermit,
) -> bool {
    let chunk = header.chunk;
    let mut place = Some(place);
    let grant = match begin(agent, served, &header, delivered.count, &mut lease, &mut place).await {
        Reply::Granted(grant) => grant,
        Reply::Finished => return true,
        Reply::Superseded | Reply::Made | Reply::Pong => return false,
    };
    if delivered.has_more && agent.pace().is_short(header.function) {
        served.ahead.notify_one();
    }
    let reported = run_and_report(agent, served, (header, items), grant, place);
    tokio::select! {
        reply = reported => reply == Some(Reply::Finished),
        reply = lease.keep((chunk, grant)) => reply == Reply::Finished,
    }
}

/// Tells the caller that the chunk begins; asks whether it may where another agent may have begun it, as after a late
/// delivery, or where the message does not leave soon. Without an answer soon, the place goes; the lease is renewed
/// meanwhile.
async fn begin(
    agent: &Agent,
    served: &Served,
    header: &WorkHeader,
    delivered: i64,
    lease: &mut Lease<'_>,
    place: &mut Option<OwnedSemaphorePermit>,
) -> Reply {
    let chunk = header.chunk;
    // A broker that was killed may have forgotten a delivery. After a late one, another host may have the next.
    let is_first = delivered == 1 && !agent.connection.was_cut_within(served.lease) && lease.may_be_renewed();
    if is_first && !header.must_ask && tell(agent, served, chunk).await {
        return Reply::Granted(0);
    }
    let delivery = Delivery { copy: header.copy, count: delivered };
    let begin = Request::Begin { chunk, delivery, agent: agent.id.clone(), host: agent.host.clone() };
    let mut answered = pin!(served.ask_until_answered(&agent.connection, &begin));
    if let Ok(reply) = timeout(pace::MAX_WAIT, &mut answered).await {
        return reply;
    }
    drop(place.take()); // the caller may be stopped: others run meanwhile
    while lease.may_be_renewed() {
        if let Ok(reply) = timeout(lease.left(), &mut answered).await {
            return reply;
        }
        lease.renew().await;
    }
    answered.await
}

/// Tells the caller that the chunk begins. True once the kernel has the message: an agent that is killed after
/// that counts as the chunk's host.
async fn tell(agent: &Agent, served: &Served, chunk: u64) -> bool {
    let begun = Request::Begun { chunk, agent: agent.id.clone(), host: agent.host.clone() };
    let Ok(begun) = protocol::join(&begun, &[]) else { return false };
    let client = &agent.connection.client;
    let sent = async {
        let is_published = client.publish(served.session.back(), begun.into()).await.is_ok();
        is_published && client.flush().await.is_ok()
    };
    timeout(REQUEST_TIMEOUT.min(served.lease / 4), sent).await.unwrap_or(false)
}

/// Waits for a place if the chunk has none any more. `None` if there are no results to report.
async fn run_and_report(
    agent: &Arc<Agent>,
    served: &Arc<Served>,
    (header, items): (WorkHeader, Vec<u8>),
    grant: u64,
    mut place: Option<OwnedSemaphorePermit>,
) -> Option<Reply> {
    let chunk = (header.chunk, grant);
    let read = match &header.object {
        None => Ok(items),
        Some(object) => {
            drop(place.take()); // others run meanwhile
            payload::get(&agent.connection, &served.session, object, served.lease).await
        }
    };
    let place = match place {
        Some(place) => place,
        None => free_place(agent, served).await?,
    };
    let encoded = match read {
        Ok(items) => run(agent, served, header, protocol::values(&items).ok()?, place).await?,
        Err(error) => Err(error),
    };
    match encoded {
        Ok((results, work)) => {
            served.forwarder.flush().await; // what the tasks have logged comes before their results
            report(agent, served, results, work, chunk).await
        }
        Err(error) => Some(refuse(agent, served, &error, chunk).await),
    }
}

/// Hands in results: in the message, or in an object if they are too large for one. `None` at the session's end.
///
/// What is stored goes on when the chunk is withdrawn, so that the object is complete and its end is known: who
/// does not want it removes it.
async fn report(
    agent: &Arc<Agent>,
    served: &Arc<Served>,
    results: Vec<u8>,
    work: Duration,
    (chunk, grant): (u64, u64),
) -> Option<Reply> {
    let done = Request::Done { chunk, grant, host: agent.host.clone(), work, object: None };
    if let Some(reply) = served.hand_in(&agent.connection, &done, &results).await {
        return Some(reply);
    }
    let (agent, served) = (Arc::clone(agent), Arc::clone(served));
    let reported = tokio::spawn(async move {
        tokio::select! {
            reply = report_object(&agent, &served, &results, work, (chunk, grant)) => Some(reply),
            () = served.is_over() => None,
        }
    });
    reported.await.ok()?
}

/// Hands in results in an object.
async fn report_object(
    agent: &Agent,
    served: &Served,
    results: &[u8],
    work: Duration,
    (chunk, grant): (u64, u64),
) -> Reply {
    let name = payload::results_name(chunk, grant, &agent.id);
    if let Err(error) = store(agent, served, &name, results).await {
        return refuse(agent, served, &error, (chunk, grant)).await;
    }
    let (host, object) = (agent.host.clone(), Some(name.clone()));
    let done = Request::Done { chunk, grant, host, work, object };
    let reply = served.ask_until_answered(&agent.connection, &done).await;
    if reply == Reply::Superseded {
        payload::remove(&agent.connection, &served.session, &name).await;
    }
    reply
}

/// Ends a chunk with one error for all its items.
async fn refuse(
    agent: &Agent,
    served: &Served,
    error: &multiproc::Error,
    (chunk, grant): (u64, u64),
) -> Reply {
    let refused = Request::Refused { chunk, grant, host: agent.host.clone(), error: shorten(error) };
    served.ask_until_answered(&agent.connection, &refused).await
}

/// The encoded results, and the work that they were. `None` if it is stopped, or the pool has ended. If this is
/// dropped, the items are stopped.
async fn run(
    agent: &Arc<Agent>,
    served: &Arc<Served>,
    header: WorkHeader,
    items: Vec<Vec<u8>>,
    place: OwnedSemaphorePermit,
) -> Option<Result<(Vec<u8>, Duration)>> {
    let stop = Arc::<Stop>::default();
    let guard = StopOnDrop(Arc::clone(&stop));
    let (runner, served) = (Arc::clone(agent), Arc::clone(served));
    let started = start_thread(move || {
        let number = served.forwarder.number_of(header.first);
        let Ran { results, work } = run::run(&runner, (&header, number), items, &stop, place)?;
        served.forwarder.collect();
        Some(encode(&results).map(|results| (results, work)))
    });
    let ran = match started {
        Ok(running) => running.await,
        Err(error) => {
            agent.fail(error); // other hosts run the chunk after the lease
            return None;
        }
    };
    drop(guard);
    ran.ok()?
}

/// Runs what blocks in a thread. An error if the system starts none, and none is there to take it: the runtime panics
/// then.
fn start_thread<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> Result<JoinHandle<T>> {
    catch_unwind(AssertUnwindSafe(|| tokio::task::spawn_blocking(run))).map_err(|panic| {
        let why = panic.downcast::<String>().map_or_else(|_| String::new(), |why| format!(": {why}"));
        encoded::unreachable(format!("the agent cannot start a thread that runs tasks{why}"))
    })
}

/// The results as they are sent.
fn encode(results: &[Result<Vec<u8>>]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for result in results {
        protocol::push_result(&mut bytes, result)?;
    }
    Ok(bytes)
}

/// Stores results in the object store. Tries for a lease after the first failure: an attempt may take longer.
async fn store(agent: &Agent, served: &Served, name: &str, results: &[u8]) -> Result<()> {
    let (mut deadline, mut again) = (None, false);
    loop {
        served.ask(&agent.connection, &Request::MakeStore { again }, &[]).await;
        match payload::put(&agent.connection, &served.session, name, results).await {
            Err(_) if Instant::now() <= *deadline.get_or_insert_with(|| Instant::now() + served.lease) => {
                tokio::time::sleep(served.lease / 20).await;
            }
            stored => return stored,
        }
        again = true;
    }
}

/// The characters of an error's text that fit into any message.
const MAX_ERROR_LEN: usize = 256;

fn shorten(error: &multiproc::Error) -> String {
    error.to_string().chars().take(MAX_ERROR_LEN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_cannot_start_is_an_error() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let started = runtime.block_on(async { start_thread(|| 3).unwrap().await });
        assert_eq!(started.unwrap(), 3);
        // Without a runtime there is no thread, either.
        let error = start_thread(|| 3).unwrap_err().to_string();
        assert!(error.contains("cannot start a thread"), "{error}");
    }
}

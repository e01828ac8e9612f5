//! What a session does by the clock: it advertises itself, and notices lost hosts, streams and brokers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::context::ConsumerInfoErrorKind;
use async_nats::jetstream::stream::StorageType;
use async_nats::{Message, Subscriber};
use futures_util::StreamExt;
use multiproc::pool::encoded;
use multiproc::{Error, Result};

use super::contact::Contact;
use super::outstanding::Outstanding;
use super::{Caller, HostState, State, publish};
use crate::build_id;
use crate::connection::REQUEST_TIMEOUT;
use crate::options::HostLoss;
use crate::protocol::{CONSUMER, HELLO, HostAdvert};

/// Starts the clock, and the subscriptions to what agents say of themselves. The broker has just answered, after
/// `round_trip`.
pub(super) async fn start(caller: &Arc<Caller>, round_trip: Duration) -> Result<()> {
    let mut hosts = subscribe(caller, caller.session.hosts()).await?;
    let mut hellos = subscribe(caller, HELLO.to_owned()).await?;
    let caller = Arc::clone(caller);
    caller.runtime.clone().spawn(async move {
        let mut clock = tokio::time::interval(caller.settings.lease / 3);
        clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let checks = tokio::spawn(check_regularly(Arc::clone(&caller), round_trip));
        loop {
            tokio::select! {
                _ = clock.tick() => advertise(&caller, false).await,
                Some(_) = hellos.next() => advertise(&caller, false).await,
                Some(advert) = hosts.next() => note_host(&caller, &advert),
                () = caller.ended() => break,
            }
        }
        checks.abort();
    });
    Ok(())
}

pub(super) async fn subscribe(caller: &Caller, subject: String) -> Result<Subscriber> {
    let subscribed = caller.connection.client.subscribe(subject).await;
    subscribed.map_err(|error| encoded::unreachable(format!("cannot subscribe at the broker: {error}")))
}

pub(super) async fn advertise(caller: &Caller, is_over: bool) {
    if !caller.connection.is_connected() || (!is_over && caller.failure().is_some()) {
        return;
    }
    if let Ok(json) = serde_json::to_vec(&caller.settings.advert(is_over)) {
        let _ = caller.connection.client.publish(caller.session.caller(), json.into()).await;
    }
}

fn note_host(caller: &Caller, message: &Message) {
    let Ok(advert) = serde_json::from_slice::<HostAdvert>(&message.payload) else { return };
    let HostAdvert { id, host: name, build, workers } = advert;
    let mut state = caller.lock();
    if build == build_id::hex(&caller.settings.build) {
        state.unserved_since = None;
        state.silence = None;
    }
    state.hosts.insert(id, HostState { name, build, workers, seen: Instant::now() });
}

async fn check_regularly(caller: Arc<Caller>, round_trip: Duration) {
    let lease = caller.settings.lease;
    let period = (lease / 4).min(Duration::from_secs(1));
    let mut contact = Contact::new(Instant::now(), round_trip);
    let mut server = server_id(&caller);
    let mut may_have_strays = false;
    let mut last_delivered = 0;
    loop {
        tokio::time::sleep(period).await;
        let asked = Instant::now();
        match probe(&caller).await {
            Probe::Here { has_undelivered, delivered } => {
                if let Some(silence) = contact.note(asked, Instant::now(), lease) {
                    forgive(&caller, silence); // they could not be heard
                    advertise(&caller, false).await; // they may have been back before this process
                }
                may_have_strays |= server != server_id(&caller);
                server = server_id(&caller);
                may_have_strays = may_have_strays && !remove_strays(&caller, delivered).await;
                check_hosts(&caller);
                let is_idle = !has_undelivered;
                note_delivered(&caller, if is_idle { u64::MAX } else { delivered });
                if is_idle || delivered > last_delivered {
                    publish_lost_again(&caller, is_idle);
                }
                last_delivered = delivered;
            }
            Probe::NoStream => return end(&caller, stream_lost(&caller, &server)).await,
            Probe::NoConsumer => {
                let what = "the pool's consumer was deleted at the broker: no host gets its work any more";
                return end(&caller, encoded::unreachable(what.to_owned())).await;
            }
            Probe::NoAnswer if contact.silence(Instant::now()) > lease => {
                let silence = encoded::unreachable(format!(
                    "the broker has not answered for {:?}: results that were not there by then are lost{}",
                    contact.silence(Instant::now()),
                    caller.connection.last_error()
                ));
                caller.lock().silence = Some(silence.clone());
                caller.fail_all(&silence);
            }
            Probe::NoAnswer => {}
        }
    }
}

/// Ends all calls, and tells the agents: there is nothing more for them here, though the caller keeps its pool.
async fn end(caller: &Arc<Caller>, failure: Error) {
    caller.end_with(failure);
    advertise(caller, true).await;
}

enum Probe {
    /// With chunks that are not delivered yet, hosts are busy.
    Here {
        has_undelivered: bool,
        /// The place in the stream of the last chunk that was delivered.
        delivered: u64,
    },
    NoStream,
    NoConsumer,
    NoAnswer,
}

/// Whether the broker answers, and has the stream and its consumer.
async fn probe(caller: &Caller) -> Probe {
    if !caller.connection.is_connected() {
        return Probe::NoAnswer;
    }
    let ask = async {
        let stream = caller.connection.context.get_stream_no_info(caller.session.stream()).await.ok()?;
        Some(stream.consumer_info(CONSUMER).await)
    };
    // The client may take no question while its queue is full.
    let asked = tokio::time::timeout(REQUEST_TIMEOUT, caller.connection.unless_cut(ask));
    let Ok(Some(Some(answer))) = asked.await else { return Probe::NoAnswer };
    match answer.map_err(|error| error.kind()) {
        Ok(info) => {
            Probe::Here { has_undelivered: info.num_pending > 0, delivered: info.delivered.stream_sequence }
        }
        Err(ConsumerInfoErrorKind::StreamNotFound) => Probe::NoStream,
        Err(ConsumerInfoErrorKind::NotFound) => Probe::NoConsumer,
        Err(_) => Probe::NoAnswer,
    }
}

fn server_id(caller: &Caller) -> String {
    caller.connection.client.server_info().server_id
}

fn stream_lost(caller: &Caller, server: &str) -> Error {
    let has_restarted = server_id(caller) != server;
    encoded::unreachable(if has_restarted && caller.settings.storage == StorageType::Memory {
        "the broker was restarted, and the pool's work was in its memory: all of it is lost (with \
         `Storage::File` it goes on)"
            .to_owned()
    } else {
        format!(
            "the broker has no stream of the pool any more: it was deleted, or this process was not heard for \
             the lease of {:?}",
            caller.settings.lease
        )
    })
}

/// How long after a lease the broker may give a chunk to another host.
const MAX_REDELIVERY_TIME: Duration = Duration::from_secs(2);
/// How long live hosts may take to be heard when the broker is back: they connect again after at most a second.
const MIN_RETURN_TIME: Duration = Duration::from_secs(3);

/// Hosts were silent because the broker was. Those that are gone nevertheless are given up when broker and hosts
/// together have been silent for a lease and [`MIN_RETURN_TIME`], and not after a lease for each of them.
fn forgive(caller: &Caller, silence: Duration) {
    let lease = caller.settings.lease;
    let left = lease.saturating_sub(silence).max(MIN_RETURN_TIME).min(lease);
    let Some(seen) = Instant::now().checked_sub(lease.saturating_sub(left)) else { return };
    let mut state = caller.lock();
    for host in state.hosts.values_mut() {
        host.seen = host.seen.max(seen);
    }
    if let Some(since) = &mut state.unserved_since {
        *since = (*since).max(seen);
    }
}

/// Forgets silent hosts. Without any, no work is done; some of theirs may not be done again.
fn check_hosts(caller: &Arc<Caller>) {
    let lease = caller.settings.lease;
    let own = build_id::hex(&caller.settings.build);
    let (mut failed, mut unserved) = (Vec::new(), Vec::new());
    let is_unserved = {
        let mut state = caller.lock();
        let is_own = |host: &HostState| host.build == own;
        let last = state.hosts.values().filter(|host| is_own(host)).map(|host| host.seen).max();
        state.hosts.retain(|_, host| host.seen.elapsed() <= lease);
        if !state.hosts.values().any(is_own) {
            state.unserved_since = state.unserved_since.or(last);
        }
        let is_unserved = state.unserved_since.is_some_and(|since| since.elapsed() > lease);
        // What is arriving has its results at the broker, and needs no host any more.
        for (&chunk, outstanding) in state.outstanding.iter().filter(|(_, chunk)| !chunk.is_arriving) {
            let lost = outstanding.lost_host(&state.hosts, lease);
            if let (Some(host), HostLoss::Fail) = (lost, outstanding.on_host_loss) {
                failed.push((chunk, host.to_owned()));
            } else if is_unserved && outstanding.called.elapsed() > lease {
                unserved.push(chunk);
            }
        }
        is_unserved
    };
    for (chunk, host) in failed {
        caller.fail_lost(chunk, host);
    }
    let silence = is_unserved.then(|| no_host(caller));
    caller.lock().silence.clone_from(&silence);
    for chunk in unserved {
        if let Some(silence) = &silence {
            caller.fail(chunk, silence.clone());
        }
    }
}

fn no_host(caller: &Caller) -> Error {
    let others: Vec<String> =
        caller.hosts().iter().map(|host| format!("{} has build {}", host.name, host.build)).collect();
    let others = if others.is_empty() { "no agent has answered".to_owned() } else { others.join(", ") };
    let own = build_id::hex(&caller.settings.build);
    encoded::unreachable(format!(
        "no host serves pool {:?} with this program, build {}: {others}{}",
        caller.session.pool,
        build_id::short(&own),
        caller.connection.last_error()
    ))
}

/// Removes what a killed server has kept of finished chunks: it does not deliver what it takes for acknowledged. Waits
/// for a moment in which no chunk is out: then all that were delivered before are finished. True if it is done.
async fn remove_strays(caller: &Caller, delivered: u64) -> bool {
    if !caller.lock().outstanding.is_empty() {
        return false;
    }
    let Ok(stream) = caller.connection.context.get_stream_no_info(caller.session.stream()).await else {
        return false;
    };
    stream.purge().sequence(delivered + 1).await.is_ok()
}

/// Notes since when chunks that the broker has delivered, up to that place in the stream, are at no live host.
fn note_delivered(caller: &Caller, delivered: u64) {
    let mut state = caller.lock();
    let State { outstanding, hosts, .. } = &mut *state;
    for outstanding in outstanding.values_mut() {
        let is_delivered = outstanding.sequence.is_some_and(|sequence| sequence <= delivered);
        if !is_delivered || outstanding.is_arriving || outstanding.has_live_host(hosts) {
            outstanding.astray = None;
        } else {
            outstanding.astray.get_or_insert_with(Instant::now);
        }
    }
}

/// Publishes chunks again that no live host has, and that the broker does not deliver: one that was killed or
/// whose machine has crashed may have lost a message that it had acknowledged, or take it for delivered.
///
/// Called when the broker has given a host a new chunk, or has none (`is_idle`): before that it would have given it one
/// that has come back, so what is astray then will not come.
fn publish_lost_again(caller: &Arc<Caller>, is_idle: bool) {
    let lease = caller.settings.lease;
    let patience = lease + (lease / 5).min(MAX_REDELIVERY_TIME);
    let state = caller.lock();
    let is_lost = |outstanding: &Outstanding| {
        // While the broker has others, it gives a lost host's chunk to one of those that ask.
        let is_of_lost_host = is_idle && outstanding.host.is_some();
        let since = if is_of_lost_host { Some(outstanding.changed) } else { outstanding.astray };
        outstanding.astray.is_some() && since.is_some_and(|since| since.elapsed() > patience)
    };
    for (&chunk, _) in state.outstanding.iter().filter(|(_, outstanding)| is_lost(outstanding)) {
        caller.runtime.spawn(publish::publish_again(Arc::clone(caller), chunk));
    }
}

//! A slot: pulls one chunk, runs it, pulls the next.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use async_nats::{Message, StatusCode, Subscriber};
use futures_util::StreamExt;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::session::Served;
use super::{Agent, chunk, lease, pace};
use crate::connection::REQUEST_TIMEOUT;
use crate::protocol::CONSUMER;

/// When a slot pulls a chunk.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// When it has none: it waits for one to come.
    Waiting,
    /// When a chunk has begun that will soon be over, and others wait at the broker: so the worker has the
    /// next one without a round trip.
    Ahead,
}

/// Serves until the session is over.
///
/// A pull request is for one chunk, so few wait at the host while their lease runs; and each is a request of
/// its own that ends, so that no pull is silent after the server has forgotten it.
pub(super) async fn serve(agent: Arc<Agent>, served: Arc<Served>, kind: Kind) {
    let client = &agent.connection.client;
    let inbox = client.new_inbox();
    let Ok(messages) = client.subscribe(inbox.clone()).await else { return };
    let mut slot = Slot {
        agent: &agent,
        served: &served,
        inbox,
        messages,
        has_request: false,
        asked: Instant::now(),
        pause: MIN_PAUSE,
        is_refused: false,
    };
    let mut epoch = agent.connection.epoch.clone();
    loop {
        epoch.mark_unchanged();
        let pulled = tokio::select! {
            pulled = slot.pull(kind) => pulled,
            _ = epoch.changed() => None, // the connection ended, and the request may be lost; or it is back
            () = served.is_over() => return,
        };
        if let Some(pulled) = pulled {
            slot.take(pulled).await;
        }
    }
}

/// Waits for a place, in the order of the questions. `None` at the session's end.
pub(super) async fn free_place(agent: &Agent, served: &Served) -> Option<OwnedSemaphorePermit> {
    tokio::select! {
        place = Arc::clone(&agent.places).acquire_owned() => place.ok(),
        () = served.is_over() => None,
    }
}

/// How long a chunk may be under way. After more the client takes the connection for broken.
const MIN_TRANSFER_TIME: Duration = Duration::from_secs(1);
const MAX_TRANSFER_TIME: Duration = Duration::from_secs(6);

/// The pauses after a refusal of the server grow: the stream may be lost for good.
const MIN_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(2);

struct Slot<'a> {
    agent: &'a Arc<Agent>,
    served: &'a Arc<Served>,
    inbox: String,
    messages: Subscriber,
    /// A request at the inbox has no answer yet.
    has_request: bool,
    /// When the last request was sent.
    asked: Instant,
    pause: Duration,
    /// It has handed back a chunk for want of a place, and has had none since.
    is_refused: bool,
}

/// A chunk, and the place to run it, if the slot had one before.
type Pulled = (Message, Option<OwnedSemaphorePermit>);

/// A request for a chunk that the broker has now.
const NOW: &str = "{\"batch\":1,\"no_wait\":true}";

impl Slot<'_> {
    /// While the host is full, a chunk that is pulled would go back. So the slot waits for a place before it pulls.
    async fn pull(&mut self, kind: Kind) -> Option<Pulled> {
        match kind {
            Kind::Waiting => {
                if (self.is_refused || self.agent.is_full.load(Relaxed))
                    && let Some(pulled) = self.pull_for_place().await
                {
                    return Some(pulled);
                }
                Some((self.wait_for_chunk().await?, None))
            }
            Kind::Ahead => {
                if self.is_refused {
                    drop(self.wait_for_place().await?);
                }
                Some((self.pull_ahead().await?, None))
            }
        }
    }

    /// Runs a chunk as soon as the host has a place for it. If there is none for a while, others may have it. A chunk
    /// of a host that was stopped meanwhile comes again after the lease.
    ///
    /// The broker may give a chunk that goes back to another slot of this host, and to each in turn. So only the
    /// first one keeps it for a while.
    async fn take(&mut self, (message, place): Pulled) {
        let (agent, served) = (self.agent, self.served);
        let place = match place {
            Some(place) => Some(place),
            None => self.place_soon().await,
        };
        if let Some(place) = place {
            return chunk::take(agent, served, (message, self.asked), place).await;
        }
        let is_late = lease::is_late(self.asked.elapsed(), served.lease);
        if !is_late && chunk::follow_running(agent, served, &message).await {
            return;
        }
        self.is_refused = true; // the chunk would come again at once
        agent.is_full.store(true, Relaxed);
        if is_late {
            return; // another host may have the chunk, and the broker would take a word about it as that one's
        }
        // Over a later connection it would hand back what another host has by then.
        let connection = &agent.connection;
        let is_of_now = connection.is_connected() && !connection.was_cut_within(self.asked.elapsed());
        if let Some(acknowledge) = message.reply.filter(|_| is_of_now) {
            let _ = connection.client.publish(acknowledge, "-NAK".into()).await;
        }
    }

    /// A place for a chunk that is there, if one is free within the time that a chunk may wait.
    async fn place_soon(&self) -> Option<OwnedSemaphorePermit> {
        let is_full = self.agent.is_full.load(Relaxed);
        let time = if is_full { Duration::ZERO } else { pace::MAX_WAIT.min(self.served.lease / 4) };
        timeout(time, free_place(self.agent, self.served)).await.ok()?
    }

    /// Waits for a place in turn with the slots of all pools. A short wait says that the host is not full any more.
    async fn wait_for_place(&mut self) -> Option<OwnedSemaphorePermit> {
        let since = Instant::now();
        let place = free_place(self.agent, self.served).await?;
        self.is_refused = false;
        if since.elapsed() < pace::MAX_WAIT / 2 {
            self.agent.is_full.store(false, Relaxed);
        }
        Some(place)
    }

    /// Waits for a place, and asks for a chunk to run there. Keeps the place for as long as a request takes.
    async fn pull_for_place(&mut self) -> Option<Pulled> {
        let place = self.wait_for_place().await?;
        if !self.agent.connection.is_connected() {
            return None; // the place is for chunks that are here
        }
        let message = self.ask(NOW.to_owned(), REQUEST_TIMEOUT).await?;
        message.status.is_none().then_some((message, Some(place)))
    }

    /// Asks for a chunk, and waits for as long as the server keeps the request, and a chunk may be under way then.
    async fn wait_for_chunk(&mut self) -> Option<Message> {
        let expires = (self.served.lease / 2).max(Duration::from_millis(250));
        let request = format!("{{\"batch\":1,\"expires\":{}}}", expires.as_nanos());
        let transfer = self.served.lease.clamp(MIN_TRANSFER_TIME, MAX_TRANSFER_TIME);
        let message = self.ask(request, expires + transfer).await?;
        let is_refused = message.status.is_some_and(|status| status != StatusCode::TIMEOUT);
        if is_refused {
            // The stream or its consumer is gone, or not there yet.
            tokio::time::sleep(self.pause).await;
            self.pause = (self.pause * 2).min(MAX_PAUSE);
            return None;
        }
        self.pause = MIN_PAUSE;
        message.status.is_none().then_some(message)
    }

    /// Waits for the time to ask for a chunk that the broker has now.
    async fn pull_ahead(&mut self) -> Option<Message> {
        let message = tokio::select! {
            () = self.served.ahead.notified() => {
                if self.agent.is_full.load(Relaxed) {
                    return None;
                }
                self.ask(NOW.to_owned(), REQUEST_TIMEOUT).await?
            }
            Some(late) = self.messages.next() => {
                self.has_request = false;
                late
            }
        };
        message.status.is_none().then_some(message)
    }

    /// The answer to a request for a chunk.
    ///
    /// A request that has none goes with its inbox. Otherwise a late answer would count as that to the next request,
    /// and so on: the slot would have two requests from then on.
    async fn ask(&mut self, request: String, time: Duration) -> Option<Message> {
        if !self.agent.connection.is_connected() {
            std::future::pending::<()>().await;
        }
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{}.{CONSUMER}", self.served.session.stream());
        let client = &self.agent.connection.client;
        if self.has_request {
            self.inbox = client.new_inbox();
            self.messages = client.subscribe(self.inbox.clone()).await.ok()?;
        }
        (self.has_request, self.asked) = (true, Instant::now());
        client.publish_with_reply(subject, self.inbox.clone(), request.into()).await.ok()?;
        let answer = timeout(time, self.messages.next()).await.ok()?;
        self.has_request = false;
        answer
    }
}

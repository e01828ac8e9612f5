//! A slot: pulls one chunk, runs it, pulls the next.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Message, StatusCode, Subscriber};
use futures_util::StreamExt;

use super::session::Served;
use super::{Agent, chunk};
use crate::protocol::CONSUMER;

/// Serves until the session is over.
///
/// A pull request is for one chunk, so none waits at the host while its lease runs; and each is a request of its
/// own that ends, so that no pull is silent after the server has forgotten it.
pub(super) async fn serve(agent: Arc<Agent>, served: Arc<Served>) {
    let client = &agent.connection.client;
    let inbox = client.new_inbox();
    let Ok(mut messages) = client.subscribe(inbox.clone()).await else { return };
    let mut epoch = agent.connection.epoch.clone();
    let mut pause = MIN_PAUSE;
    loop {
        epoch.mark_unchanged();
        let pulled = tokio::select! {
            pulled = pull(&agent, &served, &inbox, &mut messages, &mut pause) => pulled,
            _ = epoch.changed() => None, // the server has forgotten the request, or there is one to ask again
            () = served.is_over() => return,
        };
        if let Some(message) = pulled {
            chunk::take(&agent, &served, message).await;
        }
    }
}

/// The pauses after a refusal of the server grow: the stream may be lost for good.
const MIN_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(2);

/// Asks for a chunk, and waits for as long as the server keeps the request.
async fn pull(
    agent: &Agent,
    served: &Served,
    inbox: &str,
    messages: &mut Subscriber,
    pause: &mut Duration,
) -> Option<Message> {
    if !agent.connection.is_connected() {
        std::future::pending::<()>().await;
    }
    let expires = (served.lease / 2).max(Duration::from_millis(250));
    let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{}.{CONSUMER}", served.session.stream());
    let request = format!("{{\"batch\":1,\"expires\":{}}}", expires.as_nanos());
    let client = &agent.connection.client;
    client.publish_with_reply(subject, inbox.to_owned(), request.into()).await.ok()?;
    let message = tokio::time::timeout(expires + Duration::from_secs(1), messages.next()).await.ok()??;
    let is_refused = message.status.is_some_and(|status| status != StatusCode::TIMEOUT);
    if is_refused {
        // The stream or its consumer is gone, or not there yet.
        tokio::time::sleep(*pause).await;
        *pause = (*pause * 2).min(MAX_PAUSE);
        return None;
    }
    *pause = MIN_PAUSE;
    message.status.is_none().then_some(message)
}

//! The stream of a session, and the consumer that its agents pull from.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::stream::{self, RetentionPolicy};
use multiproc::Result;
use multiproc::pool::encoded;

use super::Settings;
use crate::connection::Connection;
use crate::protocol::{CONSUMER, Session};

/// The maximum of chunks that agents hold together.
const MAX_ACK_PENDING: i64 = 1 << 20;
/// The maximum of pull requests that wait: one for each worker of each agent.
const MAX_WAITING: i64 = 1 << 16;
/// How long the broker knows a message at least: for a lease, in which it may be sent again.
const MIN_DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

pub(super) async fn make_stream(
    connection: &Connection,
    session: &Session,
    settings: Settings,
) -> Result<()> {
    let refused = |error: &dyn std::fmt::Display| {
        encoded::unreachable(format!(
            "cannot make a stream for the pool: {error}{} (has the server JetStream?)",
            connection.last_error()
        ))
    };
    let description = serde_json::to_string(&settings.advert(false)).map_err(|error| refused(&error))?;
    let stream = connection
        .context
        .create_stream(stream::Config {
            name: session.stream(),
            subjects: vec![session.work()],
            retention: RetentionPolicy::WorkQueue,
            storage: settings.storage,
            num_replicas: 1,
            description: Some(description),
            duplicate_window: settings.lease.max(MIN_DUPLICATE_WINDOW),
            ..stream::Config::default()
        })
        .await
        .map_err(|error| refused(&error))?;
    stream
        .create_consumer(pull::Config {
            durable_name: Some(CONSUMER.to_owned()),
            ack_policy: AckPolicy::Explicit,
            ack_wait: settings.lease,
            // The caller counts deliveries: a message above the server's limit would stay, and never come.
            max_deliver: -1,
            max_ack_pending: MAX_ACK_PENDING,
            max_waiting: MAX_WAITING,
            ..pull::Config::default()
        })
        .await
        .map_err(|error| refused(&error))?;
    Ok(())
}

/// Removes a session's stream and its object store.
pub(crate) async fn remove_streams(connection: &Connection, session: &Session) {
    let stream = session.stream();
    let _ = connection.context.delete_stream(&stream).await;
    let _ = connection.context.delete_stream(format!("OBJ_{stream}")).await;
}

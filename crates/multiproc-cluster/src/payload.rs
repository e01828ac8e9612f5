//! Payloads that are too large for a message, in the session's object store.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::object_store::{Config, ObjectInfo, ObjectOptions, ObjectStore};
use async_nats::jetstream::stream::StorageType;
use data_encoding::BASE64URL;
use multiproc::Result;
use multiproc::pool::encoded;
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;
use tokio::time::{sleep, timeout};

use crate::connection::Connection;
use crate::protocol::Session;

/// That of the client.
const DEFAULT_CHUNK_SIZE: usize = 128 * 1024;

/// The object with the results of a chunk that an agent has run under a grant.
pub(crate) fn results_name(chunk: u64, grant: u64, agent: &str) -> String {
    format!("results-{chunk}-{grant}-{agent}")
}

/// Makes the session's store, unless it is there. Only the caller may.
pub(crate) async fn make_store(
    connection: &Connection,
    session: &Session,
    storage: StorageType,
) -> Result<()> {
    let bucket = session.stream();
    if connection.context.get_object_store(&bucket).await.is_ok() {
        return Ok(());
    }
    // Of two that make it at once, both have the same configuration, which is no error.
    let config = Config { bucket, storage, num_replicas: 1, max_bytes: -1, ..Config::default() };
    let made = connection.context.create_object_store(config).await;
    made.map(drop).map_err(|error| failed(connection, "make a store for", "large payloads", &error))
}

/// Stores a payload. Of one that could not be stored nothing stays, if the broker answers.
///
/// It does what the client's `put` does. But that names the parts at random, and says the name only when all of them
/// are stored.
pub(crate) async fn put(connection: &Connection, session: &Session, name: &str, bytes: &[u8]) -> Result<()> {
    static ATTEMPTS: AtomicU64 = AtomicU64::new(0);
    let parts = format!("{name}.{}", ATTEMPTS.fetch_add(1, Relaxed));
    let stored = try_put(connection, session, name, &parts, bytes).await;
    if stored.is_err() {
        remove(connection, session, name).await;
    }
    stored.map_err(|error| failed(connection, "store", name, &error))
}

/// Publishes the parts under a name of their own, and then the message that makes them an object.
async fn try_put(
    connection: &Connection,
    session: &Session,
    name: &str,
    parts: &str,
    bytes: &[u8],
) -> Result<(), PublishError> {
    let (context, bucket) = (&connection.context, session.stream());
    // A part of an object is a message.
    let chunk_size = DEFAULT_CHUNK_SIZE.min(connection.max_payload());
    let chunks = bytes.chunks(chunk_size);
    let object = ObjectInfo {
        name: name.to_owned(),
        description: None,
        metadata: HashMap::new(),
        headers: None,
        options: Some(ObjectOptions { link: None, max_chunk_size: Some(chunk_size) }),
        bucket: bucket.clone(),
        nuid: parts.to_owned(),
        size: bytes.len(),
        chunks: chunks.len(),
        modified: None,
        digest: Some(format!("SHA-256={}", BASE64URL.encode(&Sha256::digest(bytes)))),
        deleted: false,
    };
    for chunk in chunks {
        context.publish(format!("$O.{bucket}.C.{parts}"), chunk.to_vec().into()).await?.await?;
    }
    let object = serde_json::to_vec(&object)
        .map_err(|error| PublishError::with_source(PublishErrorKind::Other, error))?;
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Rollup", "sub"); // in place of an earlier one of that name
    context.publish_with_headers(about(&bucket, name), headers, object.into()).await?.await?;
    Ok(())
}

/// The subject of the message that makes an object.
fn about(bucket: &str, name: &str) -> String {
    format!("$O.{bucket}.M.{}", BASE64URL.encode(name.as_bytes()))
}

/// Reads a payload. Tries for a lease, after which the caller has given it up.
pub(crate) async fn get(
    connection: &Connection,
    session: &Session,
    name: &str,
    lease: Duration,
) -> Result<Vec<u8>> {
    let deadline = Instant::now() + lease;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match try_get(connection, session, name, left).await {
            Err(_) if Instant::now() < deadline => sleep(lease / 20).await,
            read => return read,
        }
    }
}

/// Fails if the broker sends nothing of it for `time`.
async fn try_get(connection: &Connection, session: &Session, name: &str, time: Duration) -> Result<Vec<u8>> {
    let store = find_store(connection, session, name).await?;
    let mut object = store.get(name).await.map_err(|error| failed(connection, "find", name, &error))?;
    let mut bytes = Vec::with_capacity(object.info().size);
    loop {
        match timeout(time, object.read_buf(&mut bytes)).await {
            Ok(Ok(0)) => return Ok(bytes),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(failed(connection, "read", name, &error)),
            Err(error) => return Err(failed(connection, "read", name, &error)),
        }
    }
}

/// Removes a payload, and the parts of one that was not stored to its end. What cannot be removed now is removed with
/// the session.
///
/// The client's `delete` leaves a message for each object, which says that it was deleted.
pub(crate) async fn remove(connection: &Connection, session: &Session, name: &str) {
    let bucket = session.stream();
    let Ok(stream) = connection.context.get_stream_no_info(format!("OBJ_{bucket}")).await else { return };
    // In this order a reader finds no object that lacks parts.
    for subject in [about(&bucket, name), format!("$O.{bucket}.C.{name}.*")] {
        let _ = stream.purge().filter(subject).await;
    }
}

async fn find_store(connection: &Connection, session: &Session, name: &str) -> Result<ObjectStore> {
    let found = connection.context.get_object_store(session.stream()).await;
    found.map_err(|error| failed(connection, "find the place of", name, &error))
}

fn failed(
    connection: &Connection,
    verb: &str,
    what: &str,
    error: &dyn std::fmt::Display,
) -> multiproc::Error {
    let last_error = connection.last_error();
    encoded::unreachable(format!("cannot {verb} {what} in the broker's object store: {error}{last_error}"))
}

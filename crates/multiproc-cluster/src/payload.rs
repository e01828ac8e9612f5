//! Payloads that are too large for a message, in the session's object store.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::object_store::{Config, ObjectInfo, ObjectOptions};
use async_nats::jetstream::stream::{DirectGetError, DirectGetErrorKind, StorageType, Stream};
use data_encoding::BASE64URL;
use multiproc::Result;
use multiproc::pool::encoded;
use sha2::{Digest, Sha256};
use tokio::time::sleep;

use crate::connection::Connection;
use crate::protocol::Session;

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
    let chunk_size = connection.max_payload();
    let (mut hasher, mut chunks) = (Sha256::new(), 0);
    for chunk in bytes.chunks(chunk_size) {
        // Part by part: meanwhile this thread has chunks to renew and questions to answer.
        hasher.update(chunk);
        chunks += 1;
        context.publish(format!("$O.{bucket}.C.{parts}"), chunk.to_vec().into()).await?.await?;
    }
    let object = ObjectInfo {
        name: name.to_owned(),
        description: None,
        metadata: HashMap::new(),
        headers: None,
        options: Some(ObjectOptions { link: None, max_chunk_size: Some(chunk_size) }),
        bucket: bucket.clone(),
        nuid: parts.to_owned(),
        size: bytes.len(),
        chunks,
        modified: None,
        digest: Some(digest(hasher)),
        deleted: false,
    };
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

/// Reads a payload. Tries for a lease after the first failure: an attempt may take longer.
pub(crate) async fn get(
    connection: &Connection,
    session: &Session,
    name: &str,
    lease: Duration,
) -> Result<Vec<u8>> {
    let mut deadline = None;
    loop {
        match try_get(connection, session, name).await {
            Err(_) if Instant::now() <= *deadline.get_or_insert_with(|| Instant::now() + lease) => {
                sleep(lease / 20).await;
            }
            read => return read.map_err(|error| failed(connection, "read", name, &error)),
        }
    }
}

/// Asks for one part after the other. The client's `get` makes a consumer for each object, which stays for half a
/// minute.
async fn try_get(connection: &Connection, session: &Session, name: &str) -> Result<Vec<u8>, DirectGetError> {
    let bucket = session.stream();
    let unreadable = |error| DirectGetError::with_source(DirectGetErrorKind::Other, error);
    let store = connection.context.get_stream_no_info(format!("OBJ_{bucket}")).await;
    let store = store.map_err(|error| unreadable(error.to_string()))?;
    let object = store.direct_get_last_for_subject(about(&bucket, name)).await?;
    let object: ObjectInfo =
        serde_json::from_slice(&object.payload).map_err(|error| unreadable(error.to_string()))?;
    // What it says of its size may be anything.
    let (mut bytes, mut hasher, mut next) = (Vec::new(), Sha256::new(), None);
    for _ in 0..object.chunks {
        let part = store.direct_get_next_for_subject(format!("$O.{bucket}.C.{}", object.nuid), next).await?;
        if part.payload.len() > object.size.saturating_sub(bytes.len()) {
            return Err(unreadable("it is longer than it says".to_owned()));
        }
        hasher.update(&part.payload);
        bytes.extend_from_slice(&part.payload);
        next = Some(part.sequence + 1);
    }
    if bytes.len() != object.size || object.digest != Some(digest(hasher)) {
        return Err(unreadable("parts of it are lost".to_owned()));
    }
    Ok(bytes)
}

/// Removes a payload, and the parts of one that was not stored to its end. What cannot be removed now is removed with
/// the session.
///
/// The client's `delete` leaves a message for each object, which says that it was deleted.
pub(crate) async fn remove(connection: &Connection, session: &Session, name: &str) {
    let bucket = session.stream();
    let Ok(store) = connection.context.get_stream_no_info(format!("OBJ_{bucket}")).await else { return };
    // In this order a reader finds no object that lacks parts.
    for subject in [about(&bucket, name), format!("$O.{bucket}.C.{name}.*")] {
        if !connection.client.is_server_compatible(2, 9, 15) {
            delete_each(&store, &subject).await;
        }
        let _ = store.purge().filter(subject).await;
    }
}

/// Older servers count the bytes in files that a purge has removed as used until they are restarted, and those of
/// messages that are deleted as free.
async fn delete_each(store: &Stream<()>, subject: &str) {
    let is_file = store.get_info().await.is_ok_and(|info| info.config.storage == StorageType::File);
    let mut next = None;
    while is_file && let Ok(message) = store.direct_get_next_for_subject(subject, next).await {
        if store.delete_message(message.sequence).await.is_err() {
            return;
        }
        next = Some(message.sequence + 1);
    }
}

/// As the client writes it.
fn digest(hasher: Sha256) -> String {
    format!("SHA-256={}", BASE64URL.encode(&hasher.finalize()))
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

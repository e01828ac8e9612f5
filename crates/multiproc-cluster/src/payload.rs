//! Payloads that are too large for a message, in the session's object store.

use std::time::{Duration, Instant};

use async_nats::jetstream::object_store::{Config, ObjectMetadata, ObjectStore};
use async_nats::jetstream::stream::StorageType;
use data_encoding::BASE64URL;
use multiproc::Result;
use multiproc::pool::encoded;
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

/// Stores a payload.
pub(crate) async fn put(
    connection: &Connection,
    session: &Session,
    name: &str,
    mut bytes: &[u8],
) -> Result<()> {
    let store = find_store(connection, session, name).await?;
    // A chunk of an object is a message.
    let chunk_size = Some(DEFAULT_CHUNK_SIZE.min(connection.max_payload()));
    let object = ObjectMetadata { name: name.to_owned(), chunk_size, ..ObjectMetadata::default() };
    store.put(object, &mut bytes).await.map_err(|error| failed(connection, "store", name, &error))?;
    Ok(())
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

/// Removes a payload. What cannot be removed now is removed with the session.
///
/// The client's `delete` leaves a message for each object, which says that it was deleted.
pub(crate) async fn remove(connection: &Connection, session: &Session, name: &str) {
    let bucket = session.stream();
    let Ok(store) = connection.context.get_object_store(&bucket).await else { return };
    let Ok(object) = store.info(name).await else { return };
    let Ok(stream) = connection.context.get_stream_no_info(format!("OBJ_{bucket}")).await else { return };
    let name = BASE64URL.encode(name.as_bytes());
    // In this order a reader finds no object that lacks parts.
    for subject in [format!("$O.{bucket}.M.{name}"), format!("$O.{bucket}.C.{}", object.nuid)] {
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

//! Payloads that are too large for a message, in the session's object store.

use async_nats::jetstream::object_store::{Config, ObjectStore};
use async_nats::jetstream::stream::StorageType;
use multiproc::Result;
use multiproc::pool::encoded;
use tokio::io::AsyncReadExt;

use crate::connection::Connection;
use crate::protocol::Session;

/// Stores a payload, in a store that is made at the first.
pub(crate) async fn put(
    connection: &Connection,
    session: &Session,
    storage: StorageType,
    name: &str,
    mut bytes: &[u8],
) -> Result<()> {
    let store = store(connection, session, storage).await?;
    store.put(name, &mut bytes).await.map_err(|error| failed("store", name, &error))?;
    Ok(())
}

/// Reads a payload.
pub(crate) async fn get(connection: &Connection, session: &Session, name: &str) -> Result<Vec<u8>> {
    let store = connection
        .context
        .get_object_store(session.stream())
        .await
        .map_err(|error| failed("find", name, &error))?;
    let mut object = store.get(name).await.map_err(|error| failed("find", name, &error))?;
    let mut bytes = Vec::with_capacity(object.info().size);
    object.read_to_end(&mut bytes).await.map_err(|error| failed("read", name, &error))?;
    Ok(bytes)
}

/// Removes a payload. What cannot be removed now is removed with the session.
pub(crate) async fn remove(connection: &Connection, session: &Session, name: &str) {
    if let Ok(store) = connection.context.get_object_store(session.stream()).await {
        let _ = store.delete(name).await;
    }
}

async fn store(connection: &Connection, session: &Session, storage: StorageType) -> Result<ObjectStore> {
    let bucket = session.stream();
    if let Ok(store) = connection.context.get_object_store(&bucket).await {
        return Ok(store);
    }
    // Of two that make it at once, both have the same configuration, which is no error.
    let config = Config { bucket, storage, num_replicas: 1, max_bytes: -1, ..Config::default() };
    connection
        .context
        .create_object_store(config)
        .await
        .map_err(|error| failed("make a store for", "large payloads", &error))
}

fn failed(verb: &str, what: &str, error: &dyn std::fmt::Display) -> multiproc::Error {
    encoded::unreachable(format!("cannot {verb} {what} in the broker's object store: {error}"))
}

//! Puts a chunk into the stream.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use multiproc::pool::encoded;
use multiproc::{Error, Result};

use super::{Caller, NewChunk, message};
use crate::options::HostLoss;
use crate::payload;
use crate::protocol::WorkHeader;

/// The pause before another attempt.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

pub(super) async fn publish(caller: Arc<Caller>, chunk: u64, new: NewChunk) {
    let deadline = Instant::now() + caller.settings.lease;
    if let Err(error) = try_publish(&caller, chunk, new, deadline).await {
        caller.fail(chunk, error);
    }
}

async fn try_publish(caller: &Arc<Caller>, chunk: u64, new: NewChunk, deadline: Instant) -> Result<()> {
    let mut header = WorkHeader {
        chunk,
        function: new.function,
        timeout: new.timeout,
        retries: new.retries,
        must_ask: new.on_host_loss == HostLoss::Fail,
        object: None,
    };
    let mut items = new.items;
    if items.len() > caller.connection.max_payload() {
        let name = format!("items-{chunk}");
        store(caller, chunk, &name, &items, deadline).await?;
        if let Some(outstanding) = caller.lock().outstanding.get_mut(&chunk) {
            outstanding.has_object = true;
        }
        header.object = Some(name);
        items = Vec::new();
    }
    let payload = message(&caller.settings.build, &header, &items)?;
    let sequence = send(caller, chunk, payload, deadline).await?;
    if let Some(outstanding) = caller.lock().outstanding.get_mut(&chunk) {
        outstanding.sequence = Some(sequence);
    }
    Ok(())
}

async fn store(caller: &Arc<Caller>, chunk: u64, name: &str, items: &[u8], deadline: Instant) -> Result<()> {
    let storage = caller.settings.storage;
    loop {
        let stored = payload::put(&caller.connection, &caller.session, storage, name, items).await;
        match stored {
            Ok(()) => return Ok(()),
            Err(error) => pause(caller, chunk, deadline, error).await?,
        }
    }
}

/// The stream drops what it has already, by the message's id, so a message without an answer is sent again.
async fn send(caller: &Arc<Caller>, chunk: u64, payload: Vec<u8>, deadline: Instant) -> Result<u64> {
    loop {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", chunk.to_string());
        let context = &caller.connection.context;
        let sent = context.publish_with_headers(caller.session.work(), headers, payload.clone().into()).await;
        let acknowledged = match sent {
            Ok(acknowledgement) => acknowledgement.await,
            Err(error) => Err(error),
        };
        match acknowledged {
            Ok(acknowledgement) => return Ok(acknowledgement.sequence),
            Err(error) => {
                let error = encoded::unreachable(format!("the broker does not take the work: {error}"));
                pause(caller, chunk, deadline, error).await?;
            }
        }
    }
}

/// Waits before another attempt, unless there is no more need or time for one.
async fn pause(caller: &Arc<Caller>, chunk: u64, deadline: Instant, error: Error) -> Result<()> {
    let is_wanted = caller.lock().outstanding.contains_key(&chunk);
    if !is_wanted || Instant::now() > deadline {
        return Err(error);
    }
    tokio::time::sleep(RETRY_PAUSE).await;
    Ok(())
}

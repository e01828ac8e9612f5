//! Takes a chunk back: from the agent that runs it, and from the stream.

use async_nats::jetstream::stream::DeleteMessageErrorKind;

use super::Caller;
use super::publish::RETRY_PAUSE;
use crate::payload;

/// Tries until the broker has answered: what is sent while a connection breaks may be lost, and an agent would run
/// the chunk to its end.
pub(super) async fn withdraw(caller: &Caller, chunk: u64, sequence: Option<u64>, has_object: bool) {
    loop {
        caller.connection.connected().await;
        stop(caller, chunk).await;
        // The broker takes what a connection sends in its order, so it has the message before this.
        let is_heard = match sequence {
            Some(sequence) => remove(caller, sequence).await,
            None => caller.connection.broker_answers(caller.session.stream()).await,
        };
        if is_heard {
            break;
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
    if has_object {
        remove_items(caller, chunk).await;
    }
}

/// The object with a chunk's items.
pub(super) fn items_name(chunk: u64) -> String {
    format!("items-{chunk}")
}

/// Removes the object with a chunk's items.
pub(super) async fn remove_items(caller: &Caller, chunk: u64) {
    payload::remove(&caller.connection, &caller.session, &items_name(chunk)).await;
}

/// Tells the agents that a chunk is withdrawn. One that begins it later is told then.
pub(super) async fn stop(caller: &Caller, chunk: u64) {
    let number = chunk.to_le_bytes().to_vec();
    let _ = caller.connection.client.publish(caller.session.stop(), number.into()).await;
}

/// Removes a message from the stream, if it is there. False if the broker does not answer.
pub(super) async fn remove(caller: &Caller, sequence: u64) -> bool {
    let Ok(stream) = caller.connection.context.get_stream_no_info(caller.session.stream()).await else {
        return false;
    };
    match stream.delete_message(sequence).await.map_err(|error| error.kind()) {
        Ok(_) | Err(DeleteMessageErrorKind::JetStream(_)) => true,
        Err(DeleteMessageErrorKind::Request | DeleteMessageErrorKind::TimedOut) => false,
    }
}

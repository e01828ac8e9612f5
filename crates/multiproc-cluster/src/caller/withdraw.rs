//! Takes a chunk back: from the agent that runs it, and from the stream.

use std::time::Duration;

use async_nats::jetstream::stream::DeleteMessageErrorKind;

use super::Caller;
use super::publish::RETRY_PAUSE;
use crate::payload;

/// The longest pause between two attempts: the broker may refuse to remove thousands of chunks at once.
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// Tries until the broker has answered: what is sent while a connection breaks may be lost, and an agent would run
/// the chunk to its end.
pub(super) async fn withdraw(caller: &Caller, chunk: u64, sequence: Option<u64>, has_object: bool) {
    let mut pause = RETRY_PAUSE;
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
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(MAX_PAUSE);
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU32;
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;
    use crate::caller::for_tests;

    #[tokio::test]
    async fn a_broker_that_refuses_a_withdrawal_is_asked_less_and_less() {
        let asked = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&asked);
        let answer = move |_: &[u8]| {
            count.fetch_add(1, Relaxed);
            b"no answer".to_vec()
        };
        let caller = for_tests::caller(answer).await;
        let withdrawn = tokio::time::timeout(RETRY_PAUSE * 20, withdraw(&caller, 1, Some(1), false));
        assert!(withdrawn.await.is_err());
        // At once, and after pauses of 100, 200, 400 and 800 ms.
        assert!(asked.load(Relaxed) <= 5, "{asked:?}");
    }
}

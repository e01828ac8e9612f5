//! Answers the agents: which of them may begin a chunk, and whose results count.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Message;
use futures_util::StreamExt;
use multiproc::Result;
use multiproc::pool::encoded;

use super::inbox::Content;
use super::{Caller, State, withdraw};
use crate::payload;
use crate::protocol::{self, Delivery, Reply, Request};

/// Subscribes, and answers until the session is over.
pub(super) async fn start(caller: &Arc<Caller>) -> Result<()> {
    let mut requests = super::monitor::subscribe(caller, caller.session.back()).await?;
    let caller = Arc::clone(caller);
    caller.runtime.clone().spawn(async move {
        loop {
            tokio::select! {
                request = requests.next() => match request {
                    Some(request) => take(&caller, request).await,
                    None => return,
                },
                () = caller.ended() => return,
            }
        }
    });
    Ok(())
}

async fn take(caller: &Arc<Caller>, message: Message) {
    let Ok((request, body)) = protocol::split::<Request>(&message.payload) else { return };
    let reply = match request {
        // An agent that has not heard of the session's end takes it from the silence.
        Request::Ping if caller.failure().is_some() => return,
        Request::Ping => Reply::Pong,
        Request::Begun { chunk, agent, host } => return begun(caller, chunk, agent, host).await,
        Request::Begin { chunk, delivery, agent, host } => begin(caller, chunk, delivery, (agent, host)),
        Request::Check { chunk, grant, agent, host } => check(caller, chunk, grant, (agent, host)),
        Request::Done { chunk, grant, host, work, object: None } => {
            finish(caller, chunk, grant, Content::Results { bytes: body.to_vec(), host: host.into(), work })
        }
        Request::Refused { chunk, grant, host, error } => {
            let error = encoded::placed(encoded::unreachable(error), None, Some(&host));
            finish(caller, chunk, grant, Content::Lost(error))
        }
        Request::MakeStore { again } => {
            let caller = Arc::clone(caller);
            caller.runtime.clone().spawn(async move {
                let _ = caller.make_store(again).await;
                answer(&caller, &message, Some(Reply::Made)).await;
            });
            return;
        }
        Request::Done { chunk, grant, host, work, object: Some(object) } => {
            let caller = Arc::clone(caller);
            caller.runtime.clone().spawn(async move {
                let reply = fetch(&caller, (chunk, grant), host, work, &object).await;
                answer(&caller, &message, reply).await;
            });
            return;
        }
    };
    answer(caller, &message, Some(reply)).await;
}

async fn answer(caller: &Caller, message: &Message, reply: Option<Reply>) {
    let (Some(subject), Some(reply)) = (message.reply.clone(), reply) else { return };
    if let Ok(bytes) = protocol::join(&reply, &[]) {
        let _ = caller.connection.client.publish(subject, bytes.into()).await;
    }
}

/// An agent has begun a chunk that no other had. One that was withdrawn before ends.
async fn begun(caller: &Caller, chunk: u64, agent: String, host: String) {
    let is_wanted = {
        let mut state = caller.lock();
        let State { outstanding, hosts, .. } = &mut *state;
        outstanding
            .get_mut(&chunk)
            .map(|outstanding| outstanding.begun(agent, host, |agent| hosts.contains_key(agent)))
            .is_some()
    };
    if is_wanted {
        return;
    }
    withdraw::stop(caller, chunk).await;
}

/// An agent begins a chunk, if it may.
fn begin(caller: &Arc<Caller>, chunk: u64, delivery: Delivery, host: (String, String)) -> Reply {
    let begun = {
        let mut state = caller.lock();
        let State { outstanding, hosts, .. } = &mut *state;
        let Some(outstanding) = outstanding.get_mut(&chunk) else { return Reply::Finished };
        let losses = outstanding.lost.len();
        let begun = outstanding.begin(delivery, host, |agent| hosts.contains_key(agent));
        let lost = outstanding.lost.get(losses).cloned();
        let count = u64::from(outstanding.count);
        if let Some(lost) = lost {
            state.stats_of(&lost).tasks_lost += count;
        }
        begun
    };
    begun.unwrap_or_else(|error| {
        caller.fail(chunk, error);
        Reply::Finished
    })
}

/// Whether an agent has the chunk.
fn check(caller: &Caller, chunk: u64, grant: u64, host: (String, String)) -> Reply {
    let mut state = caller.lock();
    let State { outstanding, hosts, .. } = &mut *state;
    let Some(outstanding) = outstanding.get_mut(&chunk) else { return Reply::Finished };
    outstanding.check(grant, host, |agent| hosts.contains_key(agent))
}

/// Delivers a chunk's results, unless they are those of an agent that was given up.
fn finish(caller: &Arc<Caller>, chunk: u64, grant: u64, content: Content) -> Reply {
    let errors = content.errors(); // reads all results, so it comes before the lock
    let mut state = caller.lock();
    if state.outstanding.get(&chunk).is_some_and(|outstanding| outstanding.grant != grant) {
        return Reply::Superseded;
    }
    if let Some(mut outstanding) = state.outstanding.remove(&chunk) {
        state.note_results(&content, errors, outstanding.count);
        drop(state);
        if matches!(content, Content::Lost(_)) {
            outstanding.leave_host(); // it may have stored a part of the results
        }
        if outstanding.has_object {
            let caller = Arc::clone(caller);
            caller.runtime.clone().spawn(async move {
                withdraw::remove_items(&caller, chunk).await;
            });
        }
        caller.remove_results(chunk, std::mem::take(&mut outstanding.past));
        outstanding.deliver(chunk, content);
    }
    Reply::Finished
}

/// The results of a chunk while they are fetched. If that panics, they are not fetched any more, and the agent asks
/// again: no other host would get the chunk, and the call would wait for ever.
struct Arriving<'a> {
    caller: &'a Caller,
    chunk: u64,
}

impl Drop for Arriving<'_> {
    fn drop(&mut self) {
        if let Some(outstanding) = self.caller.lock().outstanding.get_mut(&self.chunk) {
            outstanding.is_arriving = false;
        }
    }
}

/// As [`finish`], with results from the object store. `None` if they are being read: the agent asks again.
async fn fetch(
    caller: &Arc<Caller>,
    (chunk, grant): (u64, u64),
    host: String,
    work: Duration,
    object: &str,
) -> Option<Reply> {
    let is_wanted = match caller.lock().outstanding.get_mut(&chunk) {
        None => false,
        Some(outstanding) if outstanding.grant != grant => return Some(Reply::Superseded),
        Some(outstanding) if outstanding.is_arriving => return None,
        Some(outstanding) => {
            outstanding.is_arriving = true;
            true
        }
    };
    if !is_wanted {
        payload::remove(&caller.connection, &caller.session, object).await;
        return Some(Reply::Finished);
    }
    let arriving = Arriving { caller, chunk };
    let content = match payload::get(&caller.connection, &caller.session, object, caller.settings.lease).await
    {
        Ok(bytes) => Content::Results { bytes, host: host.into(), work },
        Err(error) => Content::Lost(encoded::placed(error, None, Some(&host))),
    };
    drop(arriving);
    let reply = finish(caller, chunk, grant, content);
    payload::remove(&caller.connection, &caller.session, object).await;
    Some(reply)
}

/// The error of results that cannot be read, for all items of a chunk.
pub(crate) fn unreadable() -> multiproc::Error {
    encoded::undecodable("a host has sent results that do not fit the items")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caller::for_tests;

    #[tokio::test]
    async fn results_under_an_old_grant_are_dropped() {
        let caller = for_tests::caller(|_| Vec::new()).await;
        let inbox = for_tests::submit(&caller, 7);
        caller.lock().outstanding.get_mut(&7).unwrap().grant = 2;
        let results = || Content::Results { bytes: Vec::new(), host: "h".into(), work: Duration::ZERO };
        assert_eq!(finish(&caller, 7, 1, results()), Reply::Superseded);
        assert!(!inbox.has_some() && caller.stats().hosts.is_empty());
        assert_eq!(finish(&caller, 7, 2, results()), Reply::Finished);
        assert!(inbox.try_take().is_some());
        assert_eq!(finish(&caller, 7, 2, results()), Reply::Finished);
        assert!(!inbox.has_some(), "they arrive twice");
    }

    #[tokio::test]
    async fn results_whose_fetch_panics_may_be_fetched_again() {
        let caller = for_tests::caller(|_| Vec::new()).await;
        for_tests::submit(&caller, 7);
        caller.lock().outstanding.get_mut(&7).unwrap().is_arriving = true;
        let fetching = Arc::clone(&caller);
        let fetch = async move {
            let _arriving = Arriving { caller: &fetching, chunk: 7 };
            std::future::ready(()).await;
            panic!("the fetch panics");
        };
        assert!(tokio::spawn(fetch).await.is_err_and(|error| error.is_panic()));
        assert!(!caller.lock().outstanding[&7].is_arriving);
    }
}

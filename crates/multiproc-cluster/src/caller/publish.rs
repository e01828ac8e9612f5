//! Puts a chunk into the stream.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use multiproc::pool::encoded;
use multiproc::{Error, Result};

use super::{Caller, NewChunk, withdraw};
use crate::connection::SMALL_LEN;
use crate::options::HostLoss;
use crate::payload;
use crate::protocol::{self, WorkHeader};

/// A chunk as it was published.
pub(super) struct Work {
    header: WorkHeader,
    /// Empty if they are in the object store.
    items: Vec<u8>,
}

/// The pause before another attempt.
pub(super) const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Publishes a new chunk, its items apart if they are large.
pub(super) async fn publish(caller: Arc<Caller>, chunk: u64, new: NewChunk) {
    let published = async {
        let work = prepare(&caller, chunk, new).await?;
        if !is_wanted(&caller, chunk) {
            discard(&caller, &work, None).await;
            return Ok(());
        }
        let sequence = send(&caller, &work).await?;
        note_sent(&caller, work, sequence).await;
        Ok(())
    };
    if let Err(error) = published.await {
        caller.fail(chunk, error);
    }
}

/// Publishes a chunk once more, which the broker has lost, or does not deliver.
pub(super) async fn publish_again(caller: Arc<Caller>, chunk: u64) {
    let (work, earlier) = {
        let mut state = caller.lock();
        let Some(outstanding) = state.outstanding.get_mut(&chunk) else { return };
        let Some(work) = outstanding.work.clone() else { return };
        outstanding.copy += 1;
        (outstanding.changed, outstanding.astray) = (Instant::now(), None);
        let header = WorkHeader { copy: outstanding.copy, must_ask: true, ..work.header.clone() };
        let work = Arc::new(Work { header, items: work.items.clone() });
        outstanding.work = Some(Arc::clone(&work));
        (work, outstanding.sequence)
    };
    if let Some(earlier) = earlier {
        withdraw::remove(&caller, earlier).await; // if it is there, it waits for a host
    }
    let sent = async {
        let work = set_apart(&caller, work).await?;
        let sequence = send(&caller, &work).await?;
        note_sent(&caller, work, sequence).await;
        Ok(())
    };
    if let Err(error) = sent.await {
        caller.fail(chunk, error);
    }
}

/// How often a chunk is published with large items in it that no host begins: on a slow link they may be what ends the
/// hosts' connections. After that, its items go in parts.
const MAX_WHOLE: u32 = 2;

/// Stores the items of a chunk apart if they may be why no host begins it.
async fn set_apart(caller: &Arc<Caller>, work: Arc<Work>) -> Result<Arc<Work>> {
    let chunk = work.header.chunk;
    if work.header.copy < MAX_WHOLE || work.items.len() <= SMALL_LEN {
        return Ok(work);
    }
    let object = Some(store_items(caller, chunk, &work.items).await?);
    let header = WorkHeader { object, ..work.header.clone() };
    let work = Arc::new(Work { header, items: Vec::new() });
    if let Some(outstanding) = caller.lock().outstanding.get_mut(&chunk) {
        outstanding.work = Some(Arc::clone(&work));
    }
    Ok(work)
}

/// Notes the place of a message in the stream. If the chunk was withdrawn meanwhile, the message goes.
async fn note_sent(caller: &Caller, work: Arc<Work>, sequence: u64) {
    if let Some(outstanding) = caller.lock().outstanding.get_mut(&work.header.chunk) {
        outstanding.sequence = Some(sequence);
        if outstanding.work.is_none() {
            outstanding.work = Some(work);
            outstanding.changed = Instant::now();
        }
        return;
    }
    discard(caller, &work, Some(sequence)).await;
}

/// Removes what was stored of a chunk after its withdrawal. An agent that has begun it already is told when it says
/// so.
async fn discard(caller: &Caller, work: &Work, sequence: Option<u64>) {
    if let Some(sequence) = sequence {
        withdraw::remove(caller, sequence).await;
    }
    if work.header.object.is_some() {
        withdraw::remove_items(caller, work.header.chunk).await;
    }
}

fn is_wanted(caller: &Caller, chunk: u64) -> bool {
    caller.lock().outstanding.contains_key(&chunk)
}

async fn prepare(caller: &Arc<Caller>, chunk: u64, new: NewChunk) -> Result<Arc<Work>> {
    let mut header = WorkHeader {
        chunk,
        copy: 0,
        count: new.count,
        first: new.first,
        function: new.function,
        timeout: new.timeout,
        grace: new.grace,
        retries: new.retries,
        must_ask: matches!(new.on_host_loss, HostLoss::Fail | HostLoss::Retry(0)),
        object: None,
    };
    let mut items = new.items;
    if items.len() > caller.connection.max_payload() {
        header.object = Some(store_items(caller, chunk, &items).await?);
        items = Vec::new();
    }
    Ok(Arc::new(Work { header, items }))
}

/// Stores the items of a chunk; returns the name of the object.
async fn store_items(caller: &Arc<Caller>, chunk: u64, items: &[u8]) -> Result<String> {
    let name = withdraw::items_name(chunk);
    if let Some(outstanding) = caller.lock().outstanding.get_mut(&chunk) {
        outstanding.has_object = true; // whoever ends the chunk while it is being stored removes it
    }
    store(caller, chunk, &name, items).await?;
    Ok(name)
}

async fn store(caller: &Arc<Caller>, chunk: u64, name: &str, items: &[u8]) -> Result<()> {
    let (connection, session) = (&caller.connection, &caller.session);
    let (mut refused, mut again) = (None, false);
    loop {
        let stored = async {
            caller.make_store(again).await?;
            payload::put(connection, session, name, items).await
        };
        match stored.await {
            Ok(()) => return Ok(()),
            Err(error) => pause(caller, chunk, &mut refused, error).await?,
        }
        again = true;
    }
}

/// The stream drops what it has already, by the message's id, so a message without an answer is sent again.
async fn send(caller: &Arc<Caller>, work: &Work) -> Result<u64> {
    let (chunk, copy) = (work.header.chunk, work.header.copy);
    let mut payload = caller.settings.build.to_vec();
    payload.extend(protocol::join(&work.header, &work.items)?);
    let mut refused = None;
    loop {
        let began = Instant::now();
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", format!("{chunk}.{copy}"));
        let (connection, subject, payload) =
            (&caller.connection, caller.session.work(), payload.clone().into());
        let sent = async { connection.context.publish_with_headers(subject, headers, payload).await?.await };
        let why = match connection.unless_cut(sent).await {
            Some(Ok(acknowledgement)) => {
                caller.lock().refused = None;
                return Ok(acknowledgement.sequence);
            }
            Some(Err(error)) => error.to_string(),
            None => "the connection was interrupted".to_owned(),
        };
        let last_error = connection.last_error();
        let error = encoded::unreachable(format!("the broker does not take the work: {why}{last_error}"));
        refused.get_or_insert_with(|| refused_since(began, Instant::now(), caller.settings.lease));
        pause(caller, chunk, &mut refused, error).await?;
    }
}

/// Since when the broker has not taken a message, by the first attempt. The seconds in which that waits for an answer
/// count, unless the lease is shorter.
fn refused_since(began: Instant, now: Instant, lease: Duration) -> Instant {
    if now.duration_since(began) < lease { began } else { now }
}

/// Waits before another attempt, unless there is no more need for one, or the broker has taken nothing for a lease
/// since it has `refused` this chunk first. An attempt may take longer than a lease.
///
/// That lease counts for all chunks together: those of a long call do not wait for one after another.
async fn pause(caller: &Caller, chunk: u64, refused: &mut Option<Instant>, error: Error) -> Result<()> {
    let (lease, now) = (caller.settings.lease, Instant::now());
    let refused = *refused.get_or_insert(now);
    let since = note_refusal(&mut caller.lock().refused, refused, now, lease);
    if !is_wanted(caller, chunk) || since.elapsed() > lease {
        return Err(error);
    }
    tokio::time::sleep(RETRY_PAUSE).await;
    Ok(())
}

/// Notes another refusal of a chunk that was `refused` first then. Returns since when the broker takes nothing, as far
/// as this chunk knows: it may have waited while the broker took others.
fn note_refusal(
    of_all: &mut Option<(Instant, Instant)>,
    refused: Instant,
    now: Instant,
    lease: Duration,
) -> Instant {
    let recent = of_all.filter(|(_, last)| now.duration_since(*last) <= lease);
    let first = recent.map_or(refused, |(first, _)| first);
    *of_all = Some((first, now));
    first.min(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_refusal_counts_whichever_chunk_it_was_of() {
        let (start, lease) = (Instant::now(), Duration::from_secs(10));
        let at = |second| start + Duration::from_secs(second);
        let mut of_all = None;
        assert_eq!(note_refusal(&mut of_all, at(0), at(0), lease), at(0));
        assert_eq!(note_refusal(&mut of_all, at(1), at(1), lease), at(0), "a second chunk");
        of_all = None; // the broker takes another one
        assert_eq!(note_refusal(&mut of_all, at(5), at(5), lease), at(5), "a new chunk");
        assert_eq!(note_refusal(&mut of_all, at(0), at(6), lease), at(0), "the first chunk");
        assert_eq!(note_refusal(&mut of_all, at(7), at(7), lease), at(5), "another new chunk");
        assert_eq!(
            note_refusal(&mut of_all, at(18), at(18), lease),
            at(18),
            "nothing was to be sent meanwhile"
        );
    }

    #[test]
    fn the_wait_for_an_answer_counts_unless_it_is_longer_than_a_lease() {
        let (began, second) = (Instant::now(), Duration::from_secs(1));
        for (lease, is_counted) in [(10, true), (4, true), (3, false), (2, false)] {
            let answered = began + 3 * second;
            let since = refused_since(began, answered, lease * second);
            assert_eq!(since, if is_counted { began } else { answered }, "{lease}");
        }
    }
}

//! Removes streams whose callers were killed while no agent was there.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::client::RequestErrorKind;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::GetStreamErrorKind;
use futures_util::StreamExt;
use tokio::time::MissedTickBehavior;

use super::{Agent, Standing, print_line};
use crate::caller::remove_streams;
use crate::connection::RETURN_TIME;
use crate::protocol::{self, CallerAdvert, Request, STREAMS, Session};

/// Streams whose callers do not answer, and since when.
#[derive(Default)]
struct Suspects(HashMap<String, Instant>);

/// How often an agent looks for streams that nothing uses.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);
/// A pause of a caller's connection that says nothing yet.
const MIN_SUSPICION: Duration = Duration::from_secs(5);

/// Runs beside all else that the agent does: a caller that is silent takes a while to ask.
pub(super) async fn sweep_regularly(agent: &Arc<Agent>) -> Infallible {
    let mut sweeps = tokio::time::interval(SWEEP_INTERVAL);
    sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut suspects = Suspects::default();
    loop {
        sweeps.tick().await;
        suspects.sweep(agent).await;
    }
}

impl Suspects {
    async fn sweep(&mut self, agent: &Arc<Agent>) {
        if !agent.connection.is_connected() {
            self.0.clear();
            return;
        }
        let unserved = unserved_streams(agent).await;
        self.0.retain(|name, _| unserved.contains(name));
        let mut left = Vec::new();
        for name in unserved {
            let Some(session) = Session::of_stream(&name) else { continue };
            if !is_deserted(agent, &session).await {
                self.0.remove(&name);
                continue;
            }
            let since = *self.0.entry(name).or_insert_with(Instant::now);
            let Some(lease) = lease_of(agent, &session).await else { continue };
            if since.elapsed() > lease.max(MIN_SUSPICION) && !left.contains(&session) {
                left.push(session);
            }
        }
        for session in still_deserted(agent, left).await {
            remove_streams(&agent.connection, &session).await;
            print_line(&format!("has removed what a caller of pool {:?} has left", session.pool));
        }
    }
}

/// How often an agent asks once more before it removes what it cannot bring back.
const LAST_QUESTIONS: u32 = 4;

/// Those of the sessions whose callers stay away for as long as one may take to connect again.
async fn still_deserted(agent: &Agent, mut sessions: Vec<Session>) -> Vec<Session> {
    for _ in 0..LAST_QUESTIONS {
        if sessions.is_empty() {
            break;
        }
        tokio::time::sleep(RETURN_TIME / LAST_QUESTIONS).await;
        let mut deserted = Vec::new();
        for session in sessions {
            if is_deserted(agent, &session).await {
                deserted.push(session);
            }
        }
        sessions = deserted;
    }
    sessions
}

/// The streams of sessions that this agent does not serve.
async fn unserved_streams(agent: &Agent) -> Vec<String> {
    let mut names = agent.connection.context.stream_names();
    let mut unserved = Vec::new();
    while let Some(Ok(name)) = names.next().await {
        let is_ours = name.starts_with(STREAMS) || name.starts_with(&format!("OBJ_{STREAMS}"));
        let session = Session::of_stream(&name).filter(|_| is_ours);
        let is_served = |session| matches!(agent.lock().get(&session), Some(Standing::Served(_)));
        if session.is_some_and(|session| !is_served(session)) {
            unserved.push(name);
        }
    }
    // A caller of another build that is there is refused once more, which only prints a message.
    agent.lock().retain(|session, standing| {
        matches!(standing, Standing::Served(_)) || unserved.contains(&session.stream())
    });
    unserved
}

/// Whether the broker knows that the caller is not there.
async fn is_deserted(agent: &Agent, session: &Session) -> bool {
    let Ok(ping) = protocol::join(&Request::Ping, &[]) else { return false };
    let asked = agent.connection.client.request(session.back(), ping.into()).await;
    asked.is_err_and(|error| error.kind() == RequestErrorKind::NoResponders)
}

/// The lease of a session. An object store that is left alone has none. `None` if that cannot be told now: what
/// is not known to be left stays.
async fn lease_of(agent: &Agent, session: &Session) -> Option<Duration> {
    let stream =
        match agent.connection.context.get_stream(session.stream()).await.map_err(|error| error.kind()) {
            Ok(stream) => stream,
            Err(GetStreamErrorKind::JetStream(error))
                if error.error_code() == ErrorCode::STREAM_NOT_FOUND =>
            {
                return Some(Duration::ZERO);
            }
            Err(_) => return None,
        };
    let description = stream.cached_info().config.description.as_ref()?;
    let advert = serde_json::from_str::<CallerAdvert>(description).ok()?;
    Some(Duration::from_millis(advert.lease_ms))
}

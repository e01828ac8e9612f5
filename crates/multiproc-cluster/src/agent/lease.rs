//! Renews the lease of a chunk while it runs.

use std::time::{Duration, Instant};

use async_nats::Subject;
use tokio::time::timeout;

use super::Agent;
use super::session::{Answer, Served};
use crate::protocol::{Reply, Request};

/// Renews until the chunk is not this agent's any more.
///
/// If this host was stopped or cut off for about a lease, another one may have the chunk, and a renewal would
/// count as that one's: so it asks the caller first. It asks after each interruption, too, in which it would not
/// have heard that the chunk was withdrawn. And it asks before the first renewal, once, unless the caller is silent:
/// what it has said at the chunk's beginning may have been lost, or too late.
pub(super) async fn renew(agent: &Agent, served: &Served, acknowledge: &Subject, (chunk, grant): (u64, u64)) {
    let (mut renewed, mut is_known) = (Instant::now(), false);
    let mut epoch = agent.connection.epoch.clone();
    epoch.mark_unchanged();
    let check = Request::Check { chunk, grant, agent: agent.id.clone(), host: agent.host.clone() };
    loop {
        tokio::time::sleep(served.lease / 3).await;
        if !agent.connection.is_connected() {
            continue; // what is sent now would arrive after the connection is there again
        }
        let was_cut = epoch.has_changed().unwrap_or(true);
        epoch.mark_unchanged();
        let reply = if was_cut || is_late(renewed.elapsed(), served.lease) {
            Some(served.ask_until_answered(&agent.connection, &check).await)
        } else if is_known {
            None
        } else {
            ask_soon(agent, served, &check).await
        };
        if let Some(reply) = reply {
            if reply != Reply::Granted(grant) {
                return;
            }
            is_known = true;
        }
        let _ = agent.connection.client.publish(acknowledge.clone(), "+WPI".into()).await;
        renewed = Instant::now();
    }
}

/// Asks the caller, but not for so long that the lease would end.
async fn ask_soon(agent: &Agent, served: &Served, request: &Request) -> Option<Reply> {
    match timeout(served.lease / 4, served.ask(&agent.connection, request, &[])).await {
        Ok(Answer::Reply(reply)) => Some(reply),
        _ => None,
    }
}

/// Whether a lease may be over that began then at the earliest, or soon is.
pub(super) fn is_late(since: Duration, lease: Duration) -> bool {
    since > lease * 3 / 4
}

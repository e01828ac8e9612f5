//! Renews the lease of a chunk while it runs.

use std::time::{Duration, Instant};

use async_nats::Subject;

use super::Agent;
use super::session::Served;
use crate::protocol::{Reply, Request};

/// Renews until the chunk is not this agent's any more.
///
/// If this host was stopped or cut off for about a lease, another one may have the chunk, and a renewal would
/// count as that one's: so it asks the caller first. It asks after each interruption, too, in which it would not
/// have heard that the chunk was withdrawn.
pub(super) async fn renew(agent: &Agent, served: &Served, acknowledge: &Subject, (chunk, grant): (u64, u64)) {
    let mut renewed = Instant::now();
    let mut epoch = agent.connection.epoch.clone();
    epoch.mark_unchanged();
    loop {
        tokio::time::sleep(served.lease / 3).await;
        if !agent.connection.is_connected() {
            continue; // what is sent now would arrive after the connection is there again
        }
        let was_cut = epoch.has_changed().unwrap_or(true);
        epoch.mark_unchanged();
        if was_cut || is_late(renewed.elapsed(), served.lease) {
            let check = Request::Check { chunk, grant };
            if served.ask_until_answered(&agent.connection, &check).await != Reply::Granted(grant) {
                return;
            }
        }
        let _ = agent.connection.client.publish(acknowledge.clone(), "+WPI".into()).await;
        renewed = Instant::now();
    }
}

fn is_late(since: Duration, lease: Duration) -> bool {
    since > lease * 3 / 4
}

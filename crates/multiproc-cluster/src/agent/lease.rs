//! Renews the lease of a chunk while this agent has it.

use std::time::{Duration, Instant};

use async_nats::Subject;
use tokio::time::timeout;

use super::Agent;
use super::session::{Answer, Served};
use crate::protocol::{Reply, Request};

/// The lease of a chunk that was delivered to this agent.
pub(super) struct Lease<'a> {
    agent: &'a Agent,
    served: &'a Served,
    acknowledge: &'a Subject,
    /// When it began, at the earliest.
    renewed: Instant,
}

impl<'a> Lease<'a> {
    /// That of a chunk which this agent has asked for then.
    pub(super) fn new(
        agent: &'a Agent,
        served: &'a Served,
        acknowledge: &'a Subject,
        asked: Instant,
    ) -> Self {
        Self { agent, served, acknowledge, renewed: asked }
    }

    /// Whether no question is needed first: no other host has the chunk, and a renewal leaves now.
    pub(super) fn may_be_renewed(&self) -> bool {
        !is_late(self.renewed.elapsed(), self.served.lease) && self.agent.connection.is_connected()
    }

    /// The time until the next renewal.
    pub(super) fn left(&self) -> Duration {
        (self.served.lease / 3).saturating_sub(self.renewed.elapsed())
    }

    pub(super) async fn renew(&mut self) {
        let _ = self.agent.connection.client.publish(self.acknowledge.clone(), "+WPI".into()).await;
        self.renewed = Instant::now();
    }

    /// Renews until the chunk is not this agent's any more; returns the caller's word.
    ///
    /// If this host was stopped or cut off for about a lease, another one may have the chunk, and a renewal would
    /// count as that one's: so it asks the caller first. It asks after each interruption, too, in which it would not
    /// have heard that the chunk was withdrawn. And it asks before the first renewal, once, unless the caller is
    /// silent or has granted the chunk: what this host has said at its beginning may have come too late.
    pub(super) async fn keep(mut self, (chunk, grant): (u64, u64)) -> Reply {
        let Self { agent, served, .. } = self;
        let (mut is_known, mut pause) = (grant > 0, self.left());
        let mut epoch = agent.connection.epoch.clone();
        epoch.mark_unchanged();
        let check = Request::Check { chunk, grant, agent: agent.id.clone(), host: agent.host.clone() };
        loop {
            tokio::time::sleep(pause).await;
            pause = served.lease / 3;
            if !agent.connection.is_connected() {
                continue; // what is sent now would arrive after the connection is there again
            }
            let was_cut = epoch.has_changed().unwrap_or(true);
            epoch.mark_unchanged();
            let reply = if was_cut || !self.may_be_renewed() {
                Some(served.ask_until_answered(&agent.connection, &check).await)
            } else if is_known {
                None
            } else {
                ask_soon(agent, served, &check).await
            };
            if let Some(reply) = reply {
                if reply != Reply::Granted(grant) {
                    return reply;
                }
                is_known = true;
            }
            self.renew().await;
        }
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

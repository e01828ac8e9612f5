//! A chunk that has no results yet: which host has it, and which have been given up.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use multiproc::Error;
use multiproc::pool::encoded;

use super::inbox::{Batch, Content, Inbox};
use super::permits::Permit;
use super::publish::Work;
use super::{HostState, NewChunk};
use crate::options::HostLoss;
use crate::protocol::{Delivery, Reply};

pub(super) struct Outstanding {
    pub(super) inbox: Arc<Inbox>,
    pub(super) first: u64,
    pub(super) count: u32,
    pub(super) on_host_loss: HostLoss,
    /// The number under which an agent has it. Results under an earlier one are dropped.
    pub(super) grant: u64,
    /// The delivery that the agent has which has begun it.
    pub(super) delivery: Delivery,
    /// The agent's id and the host's name, if one has begun it.
    pub(super) host: Option<(String, String)>,
    /// The hosts that had begun it and were given up, oldest first.
    pub(super) lost: Vec<String>,
    /// The grants and the ids of the agents that had it before: what they have stored has no other use.
    pub(super) past: Vec<(u64, String)>,
    /// When its call began.
    pub(super) called: Instant,
    /// When it was published or begun.
    pub(super) changed: Instant,
    /// When the session's clock first saw that the broker had passed it and no live host had it.
    pub(super) astray: Option<Instant>,
    /// What was published, to publish it again; `None` before.
    pub(super) work: Option<Arc<Work>>,
    /// The number of the message that counts.
    pub(super) copy: u32,
    /// Its place in the stream, if it is known.
    pub(super) sequence: Option<u64>,
    /// Its arguments are in the object store.
    pub(super) has_object: bool,
    /// Its results are being fetched from the object store.
    pub(super) is_arriving: bool,
    /// Another task may be submitted when this drops.
    permit: Option<Permit>,
}

impl Outstanding {
    pub(super) fn new(chunk: &mut NewChunk) -> Self {
        Self {
            inbox: Arc::clone(&chunk.inbox),
            first: chunk.first.unwrap_or(0),
            count: chunk.count,
            on_host_loss: chunk.on_host_loss,
            grant: 0,
            delivery: Delivery::default(),
            host: None,
            lost: Vec::new(),
            past: Vec::new(),
            called: chunk.called,
            changed: Instant::now(),
            astray: None,
            work: None,
            copy: 0,
            sequence: None,
            has_object: false,
            is_arriving: false,
            permit: chunk.permit.take(),
        }
    }

    /// An agent has begun it at its first delivery, without a question. If the broker has given it to two for the first
    /// time, a live one keeps it, and the other hears that when it [checks](Self::check).
    pub(super) fn begun(&mut self, agent: String, host: String, is_live: impl Fn(&str) -> bool) {
        let is_held = self.host.as_ref().is_some_and(|(current, _)| *current != agent && is_live(current));
        if self.grant == 0 && !is_held {
            self.delivery = Delivery { copy: 0, count: 1 };
            self.take(agent, host);
        }
    }

    /// What an agent is told that asks to begin it; an error if too many hosts are lost with this one's question.
    ///
    /// An agent that was stopped may ask late, for a delivery that others have had since. The broker may forget its
    /// count, so an old one says nothing where the holder is not live.
    pub(super) fn begin(
        &mut self,
        delivery: Delivery,
        (agent, host): (String, String),
        is_live: impl Fn(&str) -> bool,
    ) -> Result<Reply, Error> {
        if delivery.copy != self.copy {
            return Ok(Reply::Finished); // a later message has the chunk
        }
        if self.is_arriving {
            return Ok(Reply::Superseded);
        }
        if let Some((current, _)) = &self.host {
            if *current == agent {
                self.delivery = self.delivery.max(delivery);
                return Ok(Reply::Granted(self.grant)); // it has not got the answer
            }
            if delivery <= self.delivery && is_live(current) {
                return Ok(Reply::Superseded);
            }
        }
        let grant = self.grant(agent, host)?;
        self.delivery = delivery;
        Ok(Reply::Granted(grant))
    }

    /// Whether it is the agent's that has this grant. A broker that was killed may give it twice for the first time:
    /// then a live host keeps it.
    pub(super) fn check(
        &mut self,
        grant: u64,
        (agent, host): (String, String),
        is_live: impl Fn(&str) -> bool,
    ) -> Reply {
        if self.grant != grant {
            return Reply::Superseded;
        }
        match &self.host {
            Some((current, _)) if *current == agent => {}
            Some((current, _)) if is_live(current) => return Reply::Superseded,
            _ => {
                // What it has said was lost.
                self.delivery = self.delivery.max(Delivery { copy: 0, count: 1 });
                self.take(agent, host);
            }
        }
        Reply::Granted(grant)
    }

    /// An agent has it, under the grant that it has.
    fn take(&mut self, agent: String, host: String) {
        self.leave_host();
        self.host = Some((agent, host));
        self.changed = Instant::now();
    }

    /// Gives it to an agent; returns the number of the grant. An agent that has it is given up.
    fn grant(&mut self, agent: String, host: String) -> Result<u64, Error> {
        if let Some(lost) = self.leave_host() {
            self.lost.push(lost);
            if let Some(error) = self.loss() {
                return Err(error);
            }
        }
        self.host = Some((agent, host));
        self.changed = Instant::now();
        self.grant += 1;
        Ok(self.grant)
    }

    /// Whether an agent has begun it that is one of those.
    pub(super) fn has_live_host(&self, hosts: &BTreeMap<String, HostState>) -> bool {
        self.host.as_ref().is_some_and(|(agent, _)| hosts.contains_key(agent))
    }

    /// Its host, if that is given up: none of those, and silent for a lease since it has begun the chunk. What it
    /// says at its return, that it is there and that it has begun a chunk, may come in any order.
    pub(super) fn lost_host(&self, hosts: &BTreeMap<String, HostState>, lease: Duration) -> Option<&str> {
        let (_, host) = self.host.as_ref()?;
        (!self.has_live_host(hosts) && self.changed.elapsed() > lease).then_some(host)
    }

    /// Takes the chunk from its agent; returns the host's name.
    pub(super) fn leave_host(&mut self) -> Option<String> {
        let (agent, host) = self.host.take()?;
        self.past.push((self.grant, agent));
        Some(host)
    }

    /// The error of too many lost hosts.
    fn loss(&self) -> Option<Error> {
        let max = match self.on_host_loss {
            HostLoss::Fail => 0,
            HostLoss::Retry(max) => max,
        };
        (self.lost.len() > max as usize).then(|| loss(&self.lost))
    }

    /// Delivers results or an error. The permit drops first: a caller that sees them may submit another task.
    pub(super) fn deliver(self, chunk: u64, content: Content) {
        drop(self.permit);
        self.inbox.deliver(Batch { chunk, first: self.first, count: self.count, content });
    }

    /// Delivers an error for all its items.
    pub(super) fn fail(self, chunk: u64, error: Error) {
        self.deliver(chunk, Content::Lost(error));
    }
}

/// The error of items whose hosts were lost.
pub(super) fn loss(hosts: &[String]) -> Error {
    let error = encoded::host_lost(match hosts {
        [host] => format!("host {host} was lost"),
        hosts => format!("the hosts {} were lost, one after another,", hosts.join(", ")),
    });
    encoded::placed(error, None, hosts.last().map(String::as_str))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outstanding(on_host_loss: HostLoss) -> Outstanding {
        Outstanding {
            inbox: Arc::default(),
            first: 0,
            count: 1,
            on_host_loss,
            grant: 0,
            delivery: Delivery::default(),
            host: None,
            lost: Vec::new(),
            past: Vec::new(),
            called: Instant::now(),
            changed: Instant::now(),
            astray: None,
            work: None,
            copy: 0,
            sequence: None,
            has_object: false,
            is_arriving: false,
            permit: None,
        }
    }

    #[test]
    fn each_grant_has_a_number_of_its_own_and_lost_hosts_are_counted() {
        let mut chunk = outstanding(HostLoss::Retry(2));
        let grants = ["a", "b", "c"].map(|host| chunk.grant(host.to_owned(), host.to_owned()).unwrap());
        assert_eq!(grants, [1, 2, 3]);
        let error = chunk.grant("d".to_owned(), "d".to_owned()).unwrap_err();
        assert!(error.to_string().contains("the hosts a, b, c were lost"), "{error}");
        assert_eq!(error.host(), Some("c"));
    }

    #[test]
    fn a_chunk_that_may_begin_once_is_not_granted_again() {
        let mut chunk = outstanding(HostLoss::Fail);
        assert_eq!(chunk.grant("a".to_owned(), "a".to_owned()).unwrap(), 1);
        assert!(chunk.grant("b".to_owned(), "b".to_owned()).is_err());
    }

    fn begin(chunk: &mut Outstanding, (copy, count): (u32, i64), agent: &str, live: &[&str]) -> Reply {
        let delivery = Delivery { copy, count };
        let host = (agent.to_owned(), agent.to_owned());
        chunk.begin(delivery, host, |agent| live.contains(&agent)).unwrap()
    }

    fn begun(chunk: &mut Outstanding, agent: &str, live: &[&str]) {
        chunk.begun(agent.to_owned(), agent.to_owned(), |agent| live.contains(&agent));
    }

    fn check(chunk: &mut Outstanding, grant: u64, agent: &str, live: &[&str]) -> Reply {
        chunk.check(grant, (agent.to_owned(), agent.to_owned()), |agent| live.contains(&agent))
    }

    #[test]
    fn of_two_hosts_that_have_it_for_the_first_time_a_live_one_keeps_it() {
        let mut chunk = outstanding(HostLoss::Fail);
        assert_eq!(check(&mut chunk, 0, "a", &["a", "b"]), Reply::Granted(0), "its word was lost");
        begun(&mut chunk, "b", &["a", "b"]);
        assert_eq!(begin(&mut chunk, (0, 1), "b", &["a", "b"]), Reply::Superseded);
        assert_eq!(check(&mut chunk, 0, "b", &["a", "b"]), Reply::Superseded);
        assert_eq!(check(&mut chunk, 0, "b", &["b"]), Reply::Granted(0));
        assert_eq!(chunk.host, Some(("b".to_owned(), "b".to_owned())));
    }

    #[test]
    fn a_late_question_does_not_take_the_chunk_from_a_live_host() {
        for loss in [HostLoss::Fail, HostLoss::Retry(1)] {
            let mut chunk = outstanding(loss);
            assert_eq!(begin(&mut chunk, (0, 2), "b", &["a", "b"]), Reply::Granted(1));
            assert_eq!(begin(&mut chunk, (0, 1), "a", &["a", "b"]), Reply::Superseded);
            assert_eq!(begin(&mut chunk, (0, 2), "a", &["a", "b"]), Reply::Superseded);
            assert_eq!(check(&mut chunk, 1, "b", &["a", "b"]), Reply::Granted(1));
            assert!(chunk.lost.is_empty());
        }
    }

    #[test]
    fn a_later_delivery_or_one_after_a_loss_is_granted() {
        let mut chunk = outstanding(HostLoss::Retry(9));
        begun(&mut chunk, "a", &[]);
        assert_eq!(begin(&mut chunk, (0, 2), "b", &["a", "b"]), Reply::Granted(1));
        assert_eq!(begin(&mut chunk, (0, 3), "b", &["b"]), Reply::Granted(1), "it asks again");
        assert_eq!(begin(&mut chunk, (0, 3), "c", &["b", "c"]), Reply::Superseded);
        // The broker was killed and has forgotten its count; the holder is gone.
        assert_eq!(begin(&mut chunk, (0, 1), "c", &["c"]), Reply::Granted(2));
        // A new message begins its count at one.
        chunk.copy = 1;
        assert_eq!(begin(&mut chunk, (0, 9), "d", &["c", "d"]), Reply::Finished);
        assert_eq!(begin(&mut chunk, (1, 1), "d", &["c", "d"]), Reply::Granted(3));
        assert_eq!(chunk.lost, ["a", "b", "c"]);
    }

    #[test]
    fn a_host_that_is_not_known_yet_is_not_lost() {
        const LEASE: Duration = Duration::from_secs(3600);
        let mut chunk = outstanding(HostLoss::Fail);
        assert_eq!(chunk.lost_host(&BTreeMap::new(), Duration::ZERO), None);
        assert_eq!(begin(&mut chunk, (0, 1), "a", &[]), Reply::Granted(1));
        std::thread::sleep(Duration::from_millis(1));
        assert_eq!(chunk.lost_host(&BTreeMap::new(), LEASE), None);
        assert_eq!(chunk.lost_host(&BTreeMap::new(), Duration::ZERO), Some("a"));
    }

    #[test]
    fn an_old_grant_counts_no_more() {
        let mut chunk = outstanding(HostLoss::Retry(9));
        begun(&mut chunk, "a", &[]);
        assert_eq!(check(&mut chunk, 0, "a", &["a"]), Reply::Granted(0));
        begin(&mut chunk, (0, 2), "b", &[]);
        begun(&mut chunk, "a", &["a", "b"]); // it arrives late
        assert_eq!(check(&mut chunk, 0, "a", &["a", "b"]), Reply::Superseded);
        assert_eq!(check(&mut chunk, 1, "b", &["a", "b"]), Reply::Granted(1));
        assert_eq!(chunk.host, Some(("b".to_owned(), "b".to_owned())));
        chunk.is_arriving = true;
        assert_eq!(begin(&mut chunk, (0, 3), "c", &[]), Reply::Superseded);
    }
}

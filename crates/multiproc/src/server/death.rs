//! Why a reply channel has hung up: waits until the status page says it.

use std::time::{Duration, Instant};

use super::status_page::{StatusPage, is_end};
use crate::sys::poll::Deadline;
use crate::sys::thread_id::namespace;

/// What became of a server.
pub(super) enum Fate {
    Ended,
    Restarted,
    /// The server lives, and had no memory for the channel, or no thread for its replies.
    Refused,
    /// The process that would say so has ended, or is stopped.
    Nothing,
    TimedOut,
}

/// How long a caller that has lost its channel waits to learn how the server ended.
const LEARN_LIMIT: Duration = Duration::from_secs(2);
/// How often it asks meanwhile whether the process lives that would say so.
const RECHECK: Duration = Duration::from_millis(100);

/// Waits until the page, made in this [namespace], says what became of a server that had this status. `begun` is when
/// this caller first found the server hung up.
pub(super) fn await_fate(
    (page, made_in): (StatusPage<'_>, u64),
    caller: u64,
    status: u64,
    begun: Instant,
    deadline: Deadline,
) -> Fate {
    loop {
        let ticket = page.prepare_wait();
        let now = page.status(); // once: with a second load, an end between the two would count as a restart
        if is_end(now) {
            return Fate::Ended;
        }
        if now != status {
            return Fate::Restarted;
        }
        if page.take_refusal(caller) {
            return Fate::Refused;
        }
        if begun.elapsed() >= LEARN_LIMIT || monitor_has_ended((page, made_in)) {
            return if page.has_ended() { Fate::Ended } else { Fate::Nothing };
        }
        if deadline.is_over() {
            return Fate::TimedOut;
        }
        page.wait(ticket, deadline.or_within(RECHECK).left().unwrap_or(RECHECK));
    }
}

/// Whether the thread has ended that says what becomes of the server. Costs some microseconds.
pub(super) fn monitor_has_ended((page, made_in): (StatusPage<'_>, u64)) -> bool {
    page.monitor().has_ended() && namespace() == made_in
}

//! The state of one thread of the soak, and its operations.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rand::rngs::StdRng;

use super::channels::{self, QueueModel};
use super::children::{self, Child};
use super::pools::{self, PoolModel};
use super::shared;
use crate::stalls::Stalls;

/// Children, pools and queues with their expected results.
#[derive(Default)]
pub(super) struct SoakState {
    pub(super) children: Vec<Child>,
    pub(super) pools: Vec<PoolModel>,
    pub(super) queues: Vec<QueueModel>,
}

/// An operation and its relative frequency.
pub(super) struct Operation {
    pub(super) name: &'static str,
    pub(super) weight: u32,
    pub(super) run: fn(&mut SoakState, &mut StdRng) -> Result<()>,
}

const fn operation(
    name: &'static str,
    weight: u32,
    run: fn(&mut SoakState, &mut StdRng) -> Result<()>,
) -> Operation {
    Operation { name, weight, run }
}

pub(super) const OPERATIONS: &[Operation] = &[
    operation("start a child", 8, children::start),
    operation("kill a child", 3, children::kill),
    operation("terminate a child", 2, children::terminate),
    operation("stop a child", 3, children::stop),
    operation("let a child go on", 2, children::go_on),
    operation("join a child", 5, children::join),
    operation("join a child, with a limit", 5, children::join_timeout),
    operation("let go of a child", 1, children::detach),
    operation("start a pool", 3, pools::start),
    operation("map", 6, pools::map),
    operation("map, each item with its own outcome", 6, pools::map_results),
    operation("imap, to the end or not", 5, pools::imap),
    operation("imap_unordered, to the end or not", 5, pools::imap_unordered),
    operation("map from two threads at a time", 3, pools::from_two_threads),
    operation("map while a worker is killed", 4, pools::map_while_killing),
    operation("submit", 10, pools::submit),
    operation("submit a map, and cancel it or not", 4, pools::submit_map),
    operation("get", 8, pools::get),
    operation("get, with a limit", 6, pools::get_timeout),
    operation("cancel", 4, pools::cancel),
    operation("drop handles", 2, pools::drop_handles),
    operation("kill a worker", 4, pools::kill),
    operation("stop a worker for a while", 3, pools::pause),
    operation("close and join a pool", 2, pools::close),
    operation("terminate a pool", 1, pools::terminate),
    operation("drop a pool", 1, pools::drop_pool),
    operation("put items into a queue", 8, channels::put),
    operation("take items from a queue", 8, channels::take),
    operation("a queue is full or empty", 4, channels::time_out),
    operation("others put items into a queue", 4, channels::others_put),
    operation("others take items from a queue", 4, channels::others_take),
    operation("a producer is killed", 2, channels::killed_producer),
    operation("a consumer is killed", 2, channels::killed_consumer),
    operation("from a child to a task", 3, channels::relay),
    operation("the last sender goes", 2, channels::hang_up),
    operation("talk through a pipe", 4, channels::talk),
    operation("shared slice there and back", 3, channels::shared_slice),
    operation("work under locks, a party may be killed", 1, shared::locks),
    operation("the holder of a lock and of permits is killed", 2, shared::killed_holder),
    operation("wait for an event, then for each other", 2, shared::meet),
    operation("fill an array, a party may be killed", 3, shared::array),
    operation("call a server, which may be killed", 2, shared::server),
    operation("joinable queue, a party may be killed", 2, shared::joinable),
    operation("more in an unbounded queue than is taken", 3, shared::surplus),
    operation("wait for children and items", 3, shared::wait_for_any),
    operation("a child writes to a socket", 2, shared::descriptor),
];

impl SoakState {
    /// Ends everything that is still running.
    pub(super) fn drain(&mut self) -> Result<()> {
        for pool in self.pools.drain(..) {
            pool.close()?;
        }
        for child in self.children.drain(..) {
            child.join()?;
        }
        for queue in self.queues.drain(..) {
            queue.hang_up()?;
        }
        Ok(())
    }
}

/// How late a time limit may end, without the time in which the machine did not run this program.
const LATE: Duration = Duration::from_secs(3);

/// Makes a call with a time limit, and checks that it ends neither before nor much after it. `is_over` says
/// whether the call timed out.
pub(super) fn within_limit<R>(
    limit: Duration,
    wait: impl FnOnce() -> R,
    is_over: impl FnOnce(&R) -> bool,
) -> Result<R> {
    let (begun, stalls) = (Instant::now(), Stalls::begin());
    let result = wait();
    let took = begun.elapsed();
    ensure!(took <= limit + LATE + stalls.time(), "a limit of {limit:?} ends after {took:?}");
    ensure!(!is_over(&result) || took >= limit, "a limit of {limit:?} is over after {took:?}");
    Ok(result)
}

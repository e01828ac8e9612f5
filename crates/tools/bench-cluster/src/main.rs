//! The cluster as an entrant of `cargo xtask bench`: a broker and two agents of one worker each on this machine,
//! beside a local pool of two workers. In a program of its own, so that the others compile no client.

mod baseline;
mod hosts;

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use bench::case;
use bench::measure::{Measured, Scale, rate, repeated};
use bench::proc::{cpu_time, process_tree};
use bench::program::{self, Entry, entry, left_out};
use bench::work::check;
use multiproc::Pool;

use crate::hosts::Hosts;

const BASELINE: &str = "baseline";
const CLUSTER: &str = "multiproc";
const LOCAL: &str = "multiproc, a local pool";

fn main() -> ExitCode {
    multiproc_cluster::init();
    program::run(&entries())
}

type Round = fn(Scale) -> Result<Measured>;

fn entries() -> Vec<Entry> {
    let local: [(&case::Case, Round); 6] = [
        (&case::CLUSTER_TASK, |scale| {
            let pool = Pool::new(2)?;
            repeated(scale, TASKS, || check("result", 1, pool.apply(work, (NO_WORK,))?))
        }),
        (&case::CLUSTER_TASKS, |scale| {
            let pool = Pool::new(2)?;
            at_once(scale, || Ok(pool.submit(work, (NO_WORK,))?), |task| Ok(task.get()?))
        }),
        (&case::CLUSTER_0, |scale| local(scale, NO_WORK, 1_000_000)),
        (&case::CLUSTER_100, |scale| local(scale, 100, 10_000)),
        (&case::CLUSTER_1000, |scale| local(scale, 1000, 2000)),
        (&case::CLUSTER_10000, |scale| local(scale, 10_000, 200)),
    ];
    let remote: [(&case::Case, Round); 7] = [
        (&case::CLUSTER_TASK, |scale| {
            let hosts = Hosts::start()?;
            repeated(scale, TASKS, || check("result", 1, hosts.pool.apply(work, (NO_WORK,))?))
        }),
        (&case::CLUSTER_TASKS, |scale| {
            let hosts = Hosts::start()?;
            at_once(scale, || Ok(hosts.pool.submit(work, (NO_WORK,))?), |task| Ok(task.get()?))
        }),
        (&case::CLUSTER_0, |scale| remote(scale, NO_WORK, 1_000_000)),
        (&case::CLUSTER_100, |scale| remote(scale, 100, 10_000)),
        (&case::CLUSTER_1000, |scale| remote(scale, 1000, 2000)),
        (&case::CLUSTER_10000, |scale| remote(scale, 10_000, 200)),
        (&case::CLUSTER_IDLE, idle),
    ];
    let by_hand: (&case::Case, Round) = (&case::CLUSTER_TASK, |scale| baseline::task(scale, TASKS));
    let has_broker = hosts::has_broker();
    let through_broker = |entrant| {
        move |(case, run)| {
            if has_broker {
                entry(entrant, case, run)
            } else {
                left_out(entrant, case, "there is no nats-server")
            }
        }
    };
    let local = local.map(|(case, run)| entry(LOCAL, case, run)).into_iter();
    let remote = remote.map(through_broker(CLUSTER)).into_iter();
    local.chain(remote).chain([through_broker(BASELINE)(by_hand)]).collect()
}

/// The single tasks of a round, at most.
const TASKS: usize = 500;

/// An item without work. Not 0, so that a sum tells how many there were.
const NO_WORK: u64 = 1;

/// Keeps a CPU busy for a number of microseconds, or not at all, and returns it.
fn work(micros: u64) -> u64 {
    let end = Instant::now() + Duration::from_micros(micros);
    while micros != NO_WORK && Instant::now() < end {
        std::hint::spin_loop();
    }
    micros
}

/// The time of one of a thousand tasks that are handed in before the first result is asked for.
fn at_once<T>(
    scale: Scale,
    submit: impl Fn() -> Result<T>,
    get: impl Fn(T) -> Result<u64>,
) -> Result<Measured> {
    const COUNT: u32 = 1000;
    let batch = || {
        let tasks = (0..COUNT).map(|_| submit()).collect::<Result<Vec<_>>>()?;
        let sum = tasks.into_iter().map(&get).sum::<Result<u64>>()?;
        check("sum", u64::from(COUNT) * NO_WORK, sum)
    };
    let measured = repeated(scale, 25, batch)?;
    Ok(Measured { value: measured.value / f64::from(COUNT), ..measured })
}

fn local(scale: Scale, micros: u64, items: usize) -> Result<Measured> {
    let pool = Pool::new(2)?;
    thousands(scale, micros, items, || Ok(pool.map(work, std::iter::repeat_n(micros, items))?))
}

fn remote(scale: Scale, micros: u64, items: usize) -> Result<Measured> {
    let hosts = Hosts::start()?;
    thousands(scale, micros, items, || Ok(hosts.pool.map(work, std::iter::repeat_n(micros, items))?))
}

/// Thousands of items a second.
fn thousands(
    scale: Scale,
    micros: u64,
    items: usize,
    map: impl FnMut() -> Result<Vec<u64>>,
) -> Result<Measured> {
    let sum = micros * items as u64;
    #[allow(clippy::cast_precision_loss, reason = "a few million at most")]
    let amount = items as f64 * 1000.0;
    rate(scale, amount, map, |results| check("sum", sum, results.iter().sum()))
}

/// Of broker, agents, their workers, and the caller together.
fn idle(scale: Scale) -> Result<Measured> {
    let hosts = Hosts::start()?;
    check("result", 1, hosts.pool.apply(work, (NO_WORK,))?)?;
    let processes = process_tree()?;
    let time = Duration::from_secs(if scale.quick { 3 } else { 10 });
    let before = cpu_time(&processes)?;
    thread::sleep(time);
    let used = cpu_time(&processes)?.saturating_sub(before);
    Ok(Measured::new(100.0 * used.as_secs_f64() / time.as_secs_f64()))
}

//! The library, through its public face.

mod awaited;
mod fill;
mod growth;
mod idle;
mod locks;
mod pipe;
mod pool;
mod queue;
mod real;
mod server;
mod start;
mod table;

use std::env;
use std::process::ExitCode;

use bench::case;
use bench::program::{Entry, entry};

const OURS: &str = "multiproc";
const GET: &str = "multiproc, by `get`";
const STATE: &str = "multiproc, by `state`";

pub(crate) fn entries() -> Vec<Entry> {
    let mut entries = vec![
        entry(OURS, &case::START, start::start),
        entry("multiproc (Spawn)", &case::START, start::spawn),
        entry(OURS, &case::START_1GIB, start::start_from_1gib),
        entry(OURS, &case::START_X4, start::start_four),
        entry(OURS, &case::MAP, |scale| pool::map(scale, 1_000_000)),
        entry(OURS, &case::MAP_10M, |scale| pool::map(scale, 10_000_000)),
        entry(OURS, &case::MAP_CHUNK1, pool::map_singly),
        entry(OURS, &case::SUBMIT, pool::submit),
        entry(OURS, &case::SUBMIT_MAP, pool::submit_map),
        entry(OURS, &case::MAP_SHARING, pool::map_sharing),
        entry(OURS, &case::APPLY_HOT, pool::apply_hot),
        entry(OURS, &case::APPLY_SLEEP, pool::apply_from_sleep),
        entry(OURS, &case::QUEUE_8B, queue::words),
        entry(OURS, &case::QUEUE_8B_BATCH, queue::words_in_batches),
        entry(OURS, &case::QUEUE_8B_2X2, queue::words_two_by_two),
        entry(OURS, &case::QUEUE_64B, |scale| Ok(queue::bytes(scale, 64)?.millions())),
        entry(OURS, &case::QUEUE_1KIB, |scale| Ok(queue::bytes(scale, 1024)?.millions())),
        entry(OURS, &case::QUEUE_1MIB, queue::mebibytes),
        entry("multiproc, lent", &case::QUEUE_1MIB, queue::mebibytes_lent),
        entry(OURS, &case::QUEUE_SHARED_SLICE, pipe::shared_slice),
        entry(OURS, &case::PING_HOT, pipe::hot),
        entry(OURS, &case::PING_SLEEP, pipe::from_sleep),
        entry(OURS, &case::SUM, pool::sums),
        entry(OURS, &case::SUM_SHARED, pool::sums_of_shared_slice),
        entry(OURS, &case::COLD, start::cold),
        entry(OURS, &case::COLD_RUNNING, start::cold_running),
        entry(OURS, &case::PSS, idle::memory),
        entry(OURS, &case::IDLE, idle::cpu_time),
        entry(OURS, &case::AWAIT, awaited::hot),
        entry(GET, &case::AWAIT, awaited::hot_by_get),
        entry(OURS, &case::AWAIT_300, awaited::longer),
        entry(GET, &case::AWAIT_300, awaited::longer_by_get),
        entry(OURS, &case::TABLE_MEMORY, |_| table::memory(&table::preloaded(2)?)),
        entry(STATE, &case::TABLE_MEMORY, |_| table::memory(&table::made(2)?)),
        entry(OURS, &case::TABLE_FIRST, |scale| table::first_results(scale, table::preloaded)),
        entry(STATE, &case::TABLE_FIRST, |scale| table::first_results(scale, table::made)),
        entry(OURS, &case::TABLE_REPLACED, |scale| table::replaced(scale, &table::preloaded(1)?)),
        entry(STATE, &case::TABLE_REPLACED, |scale| table::replaced(scale, &table::made(1)?)),
        entry(OURS, &case::LOCK, locks::lock),
        entry("std::sync::Mutex, threads", &case::LOCK, locks::lock_of_threads),
        entry(OURS, &case::LOCK_X2, locks::lock_by_two),
        entry("std::sync::Mutex, threads", &case::LOCK_X2, locks::lock_of_threads_by_two),
        entry(OURS, &case::SEMAPHORE, locks::semaphore),
        entry(OURS, &case::EVENT, locks::event),
        entry(OURS, &case::ATOMIC_X4, locks::atomic_by_four),
        entry(OURS, &case::SERVER_CALL, server::hot),
        entry("multiproc, a pool's `apply`", &case::SERVER_CALL, pool::apply_hot),
        entry(OURS, &case::SERVER_CALL_SLEEP, server::from_sleep),
        entry("multiproc, a pool's `apply`", &case::SERVER_CALL_SLEEP, pool::apply_from_sleep),
        entry(OURS, &case::FILL, fill::chunks),
        entry("threads", &case::FILL, fill::threads),
        entry(OURS, &case::GROWTH_MAP, growth::map),
        entry(OURS, &case::GROWTH_IMAP, growth::imap),
        entry(OURS, &case::GROWTH_WORKERS, growth::workers),
        entry(OURS, &case::GROWTH_MAP_MEMORY, growth::map_memory),
        entry(OURS, &case::GROWTH_IMAP_MEMORY, growth::imap_memory),
    ];
    entries.extend(real::entries());
    entries
}

/// In a program that was started afresh to see how long the first result takes: does that, and gives the exit
/// code.
pub(crate) fn fresh() -> Option<ExitCode> {
    let mut arguments = env::args().skip(1);
    if arguments.next()? != "fresh" {
        return None;
    }
    let first_child = arguments.next().is_some();
    Some(match start::first_result(first_child) {
        Ok(micros) => {
            println!("{micros}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    })
}

//! The real workloads, as a user of the library writes them.

use std::sync::OnceLock;
use std::thread;

use anyhow::Result;
use bench::case;
use bench::measure::Scale;
use bench::program::{Entry, Measured, entry};
use bench::real::{self, Answers, Counts, Ledger, Order, Priced};
use bench::usage::{self, user_lines};
use multiproc::queue::{Receiver, Sender, bounded};
use multiproc::{Pool, Process, SharedSlice, TaskError};

use super::OURS;

const IN_WORKERS: &str = "multiproc, map_reduce";
const SHARED: &str = "multiproc, SharedSlice";
const SHARED_ONCE: &str = "multiproc, SharedSlice once";
const IN_BATCHES: &str = "multiproc, send_all";

pub(super) fn entries() -> Vec<Entry> {
    vec![
        entry(OURS, &case::WORDS, words),
        entry(IN_WORKERS, &case::WORDS, words_map_reduce),
        entry(OURS, &case::THUMBNAILS, thumbnails),
        entry(OURS, &case::MANDELBROT, mandelbrot),
        entry(OURS, &case::MONTE_CARLO, monte_carlo),
        entry(OURS, &case::JSON, json),
        entry(OURS, &case::HASH, hash),
        entry(OURS, &case::HASH_SHARED, hash_shared),
        entry(OURS, &case::SMALL, small),
        entry(OURS, &case::SKEWED, skewed),
        entry(OURS, &case::TABLE, table),
        entry(SHARED, &case::TABLE, table_shared),
        entry(SHARED_ONCE, &case::TABLE, table_shared_once),
        entry(OURS, &case::PIPELINE, pipeline),
        entry(IN_BATCHES, &case::PIPELINE, pipeline_in_batches),
        entry(OURS, &case::REQUESTS, requests),
        entry(OURS, &case::SLEEPS, sleeps),
    ]
}

/// Runs `work` with a pool of two workers that are up.
fn with_two<T>(
    name: &str,
    work: impl FnOnce(&Pool) -> Result<T>,
    check: impl FnOnce(T) -> Result<()>,
) -> Result<Measured> {
    measure(name, Pool::new(2)?, work, check)
}

/// Runs `work`, and ends all processes afterwards.
fn measure<C, T>(
    name: &str,
    context: C,
    work: impl FnOnce(&C) -> Result<T>,
    check: impl FnOnce(T) -> Result<()>,
) -> Result<Measured> {
    let lines = user_lines(include_str!("real.rs"), name);
    usage::measure(lines, (context, ForkServer), |(context, _)| work(context), check)
}

struct ForkServer;

impl Drop for ForkServer {
    fn drop(&mut self) {
        let _ = multiproc::stop_fork_server();
    }
}

fn words(scale: Scale) -> Result<Measured> {
    let (texts, expected) = real::texts(scale);
    let work = |pool: &Pool| {
        // user code: words
        let mut total = Counts::new();
        for counts in pool.imap_unordered(|text: String| real::count_words(&text), texts) {
            real::merge(&mut total, counts?);
        }
        // end
        Ok(total)
    };
    with_two("words", work, |total| expected.check(&total))
}

fn words_map_reduce(scale: Scale) -> Result<Measured> {
    let (texts, expected) = real::texts(scale);
    let work = |pool: &Pool| {
        // user code: words, map_reduce
        let count = |text: String| real::count_words(&text);
        let add = |mut total: Counts, counts: Counts| {
            real::merge(&mut total, counts);
            total
        };
        let total = pool.map_reduce(count, add, texts)?.unwrap_or_default();
        // end
        Ok(total)
    };
    with_two("words, map_reduce", work, |total| expected.check(&total))
}

fn thumbnails(scale: Scale) -> Result<Measured> {
    let jpegs = real::jpegs(scale)?;
    let work = |pool: &Pool| {
        // user code: thumbnails
        let thumbnails = pool.map(|jpeg: Vec<u8>| real::thumbnail(&jpeg), jpegs)?;
        // end
        Ok(thumbnails)
    };
    with_two("thumbnails", work, |thumbnails| real::check_thumbnails(scale, &thumbnails))
}

fn mandelbrot(scale: Scale) -> Result<Measured> {
    let rows = real::rows(scale);
    let work = |pool: &Pool| {
        // user code: mandelbrot
        let picture = pool.map(real::mandelbrot_row, (0..rows).map(|row| (row, rows)))?;
        // end
        Ok(picture)
    };
    with_two("mandelbrot", work, |picture| real::check_mandelbrot(scale, &picture))
}

fn monte_carlo(scale: Scale) -> Result<Measured> {
    let seeds = scale.times(real::SEEDS) as u64;
    let work = |pool: &Pool| {
        // user code: monte-carlo
        let hits = pool.map(real::hits, 0..seeds)?;
        // end
        Ok(hits)
    };
    with_two("monte-carlo", work, |hits| real::check_monte_carlo(scale, &hits))
}

fn json(scale: Scale) -> Result<Measured> {
    let lines = real::json_lines(scale);
    let work = |pool: &Pool| {
        // user code: json
        let numbers = pool.map(|line: String| real::parse(&line), lines)?;
        // end
        Ok(numbers)
    };
    with_two("json", work, |numbers| real::check_json(scale, &numbers))
}

fn hash(scale: Scale) -> Result<Measured> {
    let blobs: Vec<_> = real::blobs(scale).collect();
    let work = |pool: &Pool| {
        // user code: hash
        let hashes = pool.map(|blob: Vec<u8>| real::hash(&blob), blobs)?;
        // end
        Ok(hashes)
    };
    with_two("hash", work, |hashes| real::check_hashes(scale, &hashes))
}

fn hash_shared(scale: Scale) -> Result<Measured> {
    let blobs = real::blobs(scale).map(|blob| SharedSlice::from_slice(&blob));
    let blobs: Vec<_> = blobs.collect::<multiproc::Result<_>>()?;
    let work = |pool: &Pool| {
        // user code: hash-shared
        let hashes = pool.map(|blob: SharedSlice<u8>| real::hash(&blob), blobs)?;
        // end
        Ok(hashes)
    };
    let measured = with_two("hash-shared", work, |hashes| real::check_hashes(scale, &hashes))?;
    Ok(measured.with("blobs that no process has mapped at the moment do not count as memory"))
}

fn small(scale: Scale) -> Result<Measured> {
    let items = scale.times(real::SMALL_ITEMS) as u64;
    let work = |pool: &Pool| {
        // user code: small
        let results = pool.map(real::small, 0..items)?;
        // end
        Ok(results)
    };
    with_two("small", work, |results| real::check_mapped(items, &results, real::small))
}

fn skewed(scale: Scale) -> Result<Measured> {
    let items = scale.times(real::SKEWED_ITEMS) as u64;
    let work = |pool: &Pool| {
        // user code: skewed
        let results = pool.map(real::skewed, 0..items)?;
        // end
        Ok(results)
    };
    with_two("skewed", work, |results| real::check_mapped(items, &results, real::skewed))
}

fn table(scale: Scale) -> Result<Measured> {
    let items = scale.times(real::LOOK_UPS) as u64;
    let work = |(): &()| {
        // user code: table
        static TABLE: OnceLock<Vec<u64>> = OnceLock::new();
        let load = || drop(TABLE.set(real::load_table()));
        let pool = Pool::builder().workers(2).initializer(load, ()).build()?;
        let look_up = |number: u64| real::look_up(TABLE.get_or_init(Vec::new), number);
        let results = pool.map(look_up, 0..items)?;
        // end
        Ok(results)
    };
    let measured = measure("table", (), work, |results| real::check_look_ups(scale, &results))?;
    Ok(measured.with("with the start of the pool"))
}

/// The slice travels with every item.
fn table_shared(scale: Scale) -> Result<Measured> {
    let items = scale.times(real::LOOK_UPS) as u64;
    let work = |pool: &Pool| {
        // user code: table, SharedSlice
        let table = SharedSlice::from_slice(&real::load_table())?;
        let look_up = |table: SharedSlice<u64>, number: u64| real::look_up(&table, number);
        let results = pool.starmap(look_up, (0..items).map(|number| (table.clone(), number)))?;
        // end
        Ok(results)
    };
    with_two("table, SharedSlice", work, |results| real::check_look_ups(scale, &results))
}

/// The slice travels to each worker.
fn table_shared_once(scale: Scale) -> Result<Measured> {
    let items = scale.times(real::LOOK_UPS) as u64;
    let work = |(): &()| {
        // user code: table, SharedSlice once
        static TABLE: OnceLock<SharedSlice<u64>> = OnceLock::new();
        let table = SharedSlice::from_slice(&real::load_table())?;
        let keep = |table: SharedSlice<u64>| drop(TABLE.set(table));
        let pool = Pool::builder().workers(2).initializer(keep, (table,)).build()?;
        let look_up = |number: u64| TABLE.get().map_or(0, |table| real::look_up(table, number));
        let results = pool.map(look_up, 0..items)?;
        // end
        Ok(results)
    };
    let check = |results: Vec<u64>| real::check_look_ups(scale, &results);
    Ok(measure("table, SharedSlice once", (), work, check)?.with("with the start of the pool"))
}

const CAPACITY: u32 = 1024;
const BATCH: usize = 1_000;

fn pipeline(scale: Scale) -> Result<Measured> {
    let count = real::order_count(scale);
    let work = |(): &()| {
        // user code: pipeline
        let (sender, orders) = bounded(CAPACITY)?;
        let (priced_sender, priced) = bounded(CAPACITY)?;
        let producer = Process::spawn(produce, (sender, count))?;
        let consumers = [
            Process::spawn(consume, (orders.clone(), priced_sender.clone()))?,
            Process::spawn(consume, (orders, priced_sender))?,
        ];
        let mut ledger = Ledger::default();
        for priced in priced {
            ledger.add(priced?);
        }
        producer.join()??;
        for consumer in consumers {
            consumer.join()??;
        }
        // end
        Ok(ledger)
    };
    measure("pipeline", (), work, |ledger| ledger.check(scale))
}

// user code: pipeline
fn produce(orders: Sender<Order>, count: u64) -> Result<(), TaskError> {
    for id in 0..count {
        orders.send(real::order(id))?;
    }
    Ok(())
}

fn consume(orders: Receiver<Order>, priced: Sender<Priced>) -> Result<(), TaskError> {
    for order in orders {
        priced.send(real::price(&order?))?;
    }
    Ok(())
}
// end

fn pipeline_in_batches(scale: Scale) -> Result<Measured> {
    let count = real::order_count(scale);
    let work = |(): &()| {
        // user code: pipeline, send_all
        let (sender, orders) = bounded(CAPACITY)?;
        let (priced_sender, priced) = bounded(CAPACITY)?;
        let producer = Process::spawn(produce_all, (sender, count))?;
        let consumers = [
            Process::spawn(consume_many, (orders.clone(), priced_sender.clone()))?,
            Process::spawn(consume_many, (orders, priced_sender))?,
        ];
        let mut ledger = Ledger::default();
        while let Ok(batch) = priced.recv_many(BATCH) {
            for priced in batch {
                ledger.add(priced?);
            }
        }
        producer.join()??;
        for consumer in consumers {
            consumer.join()??;
        }
        // end
        Ok(ledger)
    };
    measure("pipeline, send_all", (), work, |ledger| ledger.check(scale))
}

// user code: pipeline, send_all
fn produce_all(orders: Sender<Order>, count: u64) -> Result<(), TaskError> {
    Ok(orders.send_all((0..count).map(real::order))?)
}

fn consume_many(orders: Receiver<Order>, priced: Sender<Priced>) -> Result<(), TaskError> {
    while let Ok(batch) = orders.recv_many(BATCH) {
        let batch: Vec<Order> = batch.into_iter().collect::<Result<_, _>>()?;
        priced.send_all(batch.iter().map(real::price))?;
    }
    Ok(())
}
// end

fn requests(scale: Scale) -> Result<Measured> {
    let work = |pool: &Pool| {
        // user code: requests
        let client = |client| {
            let answers =
                real::requests_of(client, scale).map(|number| pool.apply(real::crashing_request, (number,)));
            answers.fold(Answers::default(), Answers::record)
        };
        let answers = thread::scope(|scope| {
            let clients: Vec<_> =
                (0..real::CLIENTS).map(|number| scope.spawn(move || client(number))).collect();
            clients
                .into_iter()
                .filter_map(|client| client.join().ok())
                .fold(Answers::default(), Answers::merge)
        });
        // end
        Ok(answers)
    };
    with_two("requests", work, |answers| answers.check(scale, true))
}

fn sleeps(scale: Scale) -> Result<Measured> {
    let naps = scale.times(real::NAPS) as u64;
    let work = |pool: &Pool| {
        // user code: sleeps
        let results = pool.map(real::nap, 0..naps)?;
        // end
        Ok(results)
    };
    measure("sleeps", Pool::new(32)?, work, |results| real::check_mapped(naps, &results, |number| number))
}

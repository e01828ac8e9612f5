//! The real workloads, as a user of rayon writes them.

use std::thread;

use anyhow::{Error, Result};
use bench::case;
use bench::measure::Scale;
use bench::program::{Entry, Measured, entry, left_out};
use bench::real::{self, Answers, Counts};
use bench::usage::{self, user_lines};
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::{RAYON, two};

pub(super) fn entries() -> Vec<Entry> {
    vec![
        entry(RAYON, &case::WORDS, words),
        entry(RAYON, &case::THUMBNAILS, thumbnails),
        entry(RAYON, &case::MANDELBROT, mandelbrot),
        entry(RAYON, &case::MONTE_CARLO, monte_carlo),
        entry(RAYON, &case::JSON, json),
        entry(RAYON, &case::HASH, hash),
        entry(RAYON, &case::HASH_SHARED, hash),
        entry(RAYON, &case::SMALL, small),
        entry(RAYON, &case::SKEWED, skewed),
        entry(RAYON, &case::TABLE, table),
        left_out(RAYON, &case::PIPELINE, "it has no queue"),
        entry(RAYON, &case::REQUESTS, requests),
        entry(RAYON, &case::SLEEPS, sleeps),
    ]
}

/// Runs `work` in a pool of two threads.
fn with_two<T: Send>(
    name: &str,
    work: impl FnOnce() -> T + Send,
    check: impl FnOnce(T) -> Result<()>,
) -> Result<Measured> {
    measure(name, two()?, |pool| Ok(pool.install(work)), check)
}

fn measure<C, T>(
    name: &str,
    context: C,
    work: impl FnOnce(&C) -> Result<T>,
    check: impl FnOnce(T) -> Result<()>,
) -> Result<Measured> {
    usage::measure(user_lines(include_str!("real_work.rs"), name), context, work, check)
}

fn words(scale: Scale) -> Result<Measured> {
    let (texts, expected) = real::texts(scale);
    let work = || {
        // user code: words
        let add = |mut total: Counts, counts: Counts| {
            real::merge(&mut total, counts);
            total
        };
        texts.par_iter().map(|text| real::count_words(text)).reduce(Counts::new, add)
        // end
    };
    with_two("words", work, |total| expected.check(&total))
}

fn thumbnails(scale: Scale) -> Result<Measured> {
    let jpegs = real::jpegs(scale)?;
    let work = || -> Vec<Vec<u8>> {
        // user code: thumbnails
        jpegs.par_iter().map(|jpeg| real::thumbnail(jpeg)).collect()
        // end
    };
    with_two("thumbnails", work, |thumbnails| real::check_thumbnails(scale, &thumbnails))
}

fn mandelbrot(scale: Scale) -> Result<Measured> {
    let rows = real::rows(scale);
    let work = || -> Vec<Vec<u16>> {
        // user code: mandelbrot
        (0..rows).into_par_iter().map(|row| real::mandelbrot_row((row, rows))).collect()
        // end
    };
    with_two("mandelbrot", work, |picture| real::check_mandelbrot(scale, &picture))
}

fn monte_carlo(scale: Scale) -> Result<Measured> {
    let seeds = scale.times(real::SEEDS) as u64;
    let work = || -> Vec<u64> {
        // user code: monte-carlo
        (0..seeds).into_par_iter().map(real::hits).collect()
        // end
    };
    with_two("monte-carlo", work, |hits| real::check_monte_carlo(scale, &hits))
}

fn json(scale: Scale) -> Result<Measured> {
    let lines = real::json_lines(scale);
    let work = || -> Vec<u64> {
        // user code: json
        lines.par_iter().map(|line| real::parse(line)).collect()
        // end
    };
    with_two("json", work, |numbers| real::check_json(scale, &numbers))
}

/// Threads share the blobs in any case.
fn hash(scale: Scale) -> Result<Measured> {
    let blobs: Vec<_> = real::blobs(scale).collect();
    let work = || -> Vec<real::Hash> {
        // user code: hash
        blobs.par_iter().map(|blob| real::hash(blob)).collect()
        // end
    };
    with_two("hash", work, |hashes| real::check_hashes(scale, &hashes))
}

fn small(scale: Scale) -> Result<Measured> {
    let items = scale.times(real::SMALL_ITEMS) as u64;
    let work = || -> Vec<u64> {
        // user code: small
        (0..items).into_par_iter().map(real::small).collect()
        // end
    };
    with_two("small", work, |results| real::check_mapped(items, &results, real::small))
}

fn skewed(scale: Scale) -> Result<Measured> {
    let items = scale.times(real::SKEWED_ITEMS) as u64;
    let work = || -> Vec<u64> {
        // user code: skewed
        (0..items).into_par_iter().map(real::skewed).collect()
        // end
    };
    with_two("skewed", work, |results| real::check_mapped(items, &results, real::skewed))
}

fn table(scale: Scale) -> Result<Measured> {
    let items = scale.times(real::LOOK_UPS) as u64;
    let work = || -> Vec<u64> {
        // user code: table
        let table = real::load_table();
        (0..items).into_par_iter().map(|number| real::look_up(&table, number)).collect()
        // end
    };
    with_two("table", work, |results| real::check_look_ups(scale, &results))
}

fn requests(scale: Scale) -> Result<Measured> {
    let work = |pool: &ThreadPool| {
        // user code: requests
        let client = |client| {
            let answers =
                real::requests_of(client, scale).map(|number| Ok(pool.install(|| real::request(number))));
            answers.fold(Answers::default(), Answers::record::<Error>)
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
    let measured = measure("requests", two()?, work, |answers| answers.check(scale, false))?;
    Ok(measured.with("without crashes, which end the program"))
}

fn sleeps(scale: Scale) -> Result<Measured> {
    let naps = scale.times(real::NAPS) as u64;
    let work = |pool: &ThreadPool| -> Result<Vec<u64>> {
        // user code: sleeps
        Ok(pool.install(|| (0..naps).into_par_iter().map(real::nap).collect()))
        // end
    };
    let pool = ThreadPoolBuilder::new().num_threads(32).build()?;
    measure("sleeps", pool, work, |results| real::check_mapped(naps, &results, |number| number))
}

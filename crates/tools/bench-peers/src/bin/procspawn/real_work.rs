//! The real workloads, as a user of procspawn writes them: a call an item, or (*by hand*) a call a chunk.

use std::sync::OnceLock;
use std::thread;

use anyhow::Result;
use bench::case;
use bench::measure::Scale;
use bench::program::{Entry, Measured, entry, left_out};
use bench::real::{self, Answers, Counts};
use bench::usage::{self, user_lines};
use procspawn::Pool;
use serde_bytes::ByteBuf;

use super::{PROCSPAWN, UNDER_WAY, in_turn, two, up};

const BY_HAND: &str = "procspawn by hand";

/// How many calls with large arguments are under way at most.
const OF_LARGE: usize = 2;

pub(super) fn entries() -> Vec<Entry> {
    vec![
        entry(PROCSPAWN, &case::WORDS, words),
        entry(BY_HAND, &case::WORDS, words_by_hand),
        entry(PROCSPAWN, &case::THUMBNAILS, thumbnails),
        entry(PROCSPAWN, &case::MANDELBROT, mandelbrot),
        entry(PROCSPAWN, &case::MONTE_CARLO, monte_carlo),
        entry(PROCSPAWN, &case::JSON, json),
        entry(BY_HAND, &case::JSON, json_by_hand),
        entry(PROCSPAWN, &case::HASH, hash),
        left_out(PROCSPAWN, &case::HASH_SHARED, "it has no shared memory"),
        left_out(PROCSPAWN, &case::SMALL, "a call an item takes a minute"),
        entry(BY_HAND, &case::SMALL, |scale| {
            let items = scale.times(real::SMALL_ITEMS) as u64;
            ranges(items, real::small, |(from, to)| (from..to).map(real::small).collect())
        }),
        entry(PROCSPAWN, &case::SKEWED, skewed),
        entry(BY_HAND, &case::SKEWED, |scale| {
            let items = scale.times(real::SKEWED_ITEMS) as u64;
            ranges(items, real::skewed, |(from, to)| (from..to).map(real::skewed).collect())
        }),
        entry(PROCSPAWN, &case::TABLE, table),
        entry(BY_HAND, &case::TABLE, table_by_hand),
        left_out(PROCSPAWN, &case::PIPELINE, "it has no queue"),
        entry(PROCSPAWN, &case::REQUESTS, requests),
        entry(PROCSPAWN, &case::SLEEPS, sleeps),
    ]
}

fn measure<C, T>(
    name: &str,
    context: C,
    work: impl FnOnce(&C) -> Result<T>,
    check: impl FnOnce(T) -> Result<()>,
) -> Result<Measured> {
    let own = user_lines(include_str!("real_work.rs"), name);
    // There is no map, so that what stands for it counts as user code, too.
    let map = if name == "requests" { 0 } else { user_lines(include_str!("main.rs"), "in_turn") };
    usage::measure(own + map, context, work, check)
}

fn words(scale: Scale) -> Result<Measured> {
    let (texts, expected) = real::texts(scale);
    let work = |pool: &Pool| {
        // user code: words
        let mut total = Counts::new();
        for counts in in_turn(pool, texts.into_iter(), OF_LARGE, |text: String| real::count_words(&text))? {
            real::merge(&mut total, counts);
        }
        // end
        Ok(total)
    };
    measure("words", two()?, work, |total| expected.check(&total))
}

fn words_by_hand(scale: Scale) -> Result<Measured> {
    let (texts, expected) = real::texts(scale);
    let work = |pool: &Pool| {
        // user code: words by hand
        let chunks = texts.chunks(texts.len() / 8).map(<[String]>::to_vec);
        let count = |texts: Vec<String>| {
            let mut total = Counts::new();
            for text in texts {
                real::merge(&mut total, real::count_words(&text));
            }
            total
        };
        let mut total = Counts::new();
        for counts in in_turn(pool, chunks, OF_LARGE, count)? {
            real::merge(&mut total, counts);
        }
        // end
        Ok(total)
    };
    measure("words by hand", two()?, work, |total| expected.check(&total))
}

fn thumbnails(scale: Scale) -> Result<Measured> {
    let jpegs = real::jpegs(scale)?;
    let work = |pool: &Pool| -> Result<Vec<Vec<u8>>> {
        // user code: thumbnails
        let jpegs = jpegs.into_iter().map(ByteBuf::from);
        let thumbnail = |jpeg: ByteBuf| ByteBuf::from(real::thumbnail(&jpeg));
        let thumbnails = in_turn(pool, jpegs, OF_LARGE, thumbnail)?;
        // end
        Ok(thumbnails.into_iter().map(ByteBuf::into_vec).collect())
    };
    measure("thumbnails", two()?, work, |thumbnails| real::check_thumbnails(scale, &thumbnails))
}

fn mandelbrot(scale: Scale) -> Result<Measured> {
    let rows = real::rows(scale);
    let work = |pool: &Pool| {
        // user code: mandelbrot
        in_turn(pool, (0..rows).map(|row| (row, rows)), UNDER_WAY, real::mandelbrot_row)
        // end
    };
    measure("mandelbrot", two()?, work, |picture| real::check_mandelbrot(scale, &picture))
}

fn monte_carlo(scale: Scale) -> Result<Measured> {
    let seeds = scale.times(real::SEEDS) as u64;
    let work = |pool: &Pool| {
        // user code: monte-carlo
        in_turn(pool, 0..seeds, UNDER_WAY, real::hits)
        // end
    };
    measure("monte-carlo", two()?, work, |hits| real::check_monte_carlo(scale, &hits))
}

fn json(scale: Scale) -> Result<Measured> {
    let lines = real::json_lines(scale);
    let work = |pool: &Pool| {
        // user code: json
        in_turn(pool, lines.into_iter(), UNDER_WAY, |line: String| real::parse(&line))
        // end
    };
    measure("json", two()?, work, |numbers| real::check_json(scale, &numbers))
}

fn json_by_hand(scale: Scale) -> Result<Measured> {
    let lines = real::json_lines(scale);
    let work = |pool: &Pool| {
        // user code: json by hand
        let chunks = lines.chunks(lines.len().div_ceil(8)).map(<[String]>::to_vec);
        let parse = |lines: Vec<String>| lines.iter().map(|line| real::parse(line)).collect::<Vec<u64>>();
        let numbers = in_turn(pool, chunks, OF_LARGE, parse)?.concat();
        // end
        Ok(numbers)
    };
    measure("json by hand", two()?, work, |numbers| real::check_json(scale, &numbers))
}

fn hash(scale: Scale) -> Result<Measured> {
    let blobs: Vec<_> = real::blobs(scale).collect();
    let work = |pool: &Pool| {
        // user code: hash
        let blobs = blobs.into_iter().map(ByteBuf::from);
        in_turn(pool, blobs, OF_LARGE, |blob: ByteBuf| real::hash(&blob))
        // end
    };
    measure("hash", two()?, work, |hashes| real::check_hashes(scale, &hashes))
}

/// Eight ranges of items.
fn ranges(items: u64, function: fn(u64) -> u64, of_range: fn((u64, u64)) -> Vec<u64>) -> Result<Measured> {
    let work = |pool: &Pool| {
        // user code: ranges
        let ranges = (0..8).map(|number| (number * items / 8, (number + 1) * items / 8));
        let results = in_turn(pool, ranges, UNDER_WAY, of_range)?.concat();
        // end
        Ok(results)
    };
    measure("ranges", two()?, work, |results| real::check_mapped(items, &results, function))
}

fn skewed(scale: Scale) -> Result<Measured> {
    let items = scale.times(real::SKEWED_ITEMS) as u64;
    let work = |pool: &Pool| {
        // user code: skewed
        in_turn(pool, 0..items, UNDER_WAY, real::skewed)
        // end
    };
    measure("skewed", two()?, work, |results| real::check_mapped(items, &results, real::skewed))
}

// user code: table
// user code: table by hand
/// Each worker loads it when it first needs it: there is no initializer.
fn look_up(number: u64) -> u64 {
    static TABLE: OnceLock<Vec<u64>> = OnceLock::new();
    real::look_up(TABLE.get_or_init(real::load_table), number)
}
// end

fn table(scale: Scale) -> Result<Measured> {
    let items = scale.times(real::LOOK_UPS) as u64;
    let work = |pool: &Pool| {
        // user code: table
        in_turn(pool, 0..items, UNDER_WAY, look_up)
        // end
    };
    measure("table", two()?, work, |results| real::check_look_ups(scale, &results))
}

fn table_by_hand(scale: Scale) -> Result<Measured> {
    let items = scale.times(real::LOOK_UPS) as u64;
    let work = |pool: &Pool| {
        // user code: table by hand
        let ranges = (0..8).map(|number| (number * items / 8, (number + 1) * items / 8));
        let look_ups = |(from, to): (u64, u64)| (from..to).map(look_up).collect::<Vec<u64>>();
        let results = in_turn(pool, ranges, UNDER_WAY, look_ups)?.concat();
        // end
        Ok(results)
    };
    measure("table by hand", two()?, work, |results| real::check_look_ups(scale, &results))
}

fn requests(scale: Scale) -> Result<Measured> {
    let work = |pool: &Pool| {
        // user code: requests
        let client = |client| {
            let answers = real::requests_of(client, scale)
                .map(|number| pool.spawn(number, real::crashing_request).join());
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
    measure("requests", two()?, work, |answers| answers.check(scale, true))
}

fn sleeps(scale: Scale) -> Result<Measured> {
    let naps = scale.times(real::NAPS) as u64;
    let work = |pool: &Pool| {
        // user code: sleeps
        in_turn(pool, 0..naps, 40, real::nap)
        // end
    };
    measure("sleeps", up(32)?, work, |results| real::check_mapped(naps, &results, |number| number))
}

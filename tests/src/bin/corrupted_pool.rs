//! A program whose pool runs tasks that overwrite the memory which workers and pool share, in rounds with the
//! seeds from the first argument to the second, which is not included.
//!
//! Calls give values or errors, whatever they are, and no call and no end of a pool takes longer than
//! [`LIMIT`]. Prints the number of rounds.

#![allow(clippy::unwrap_used, reason = "a fixture ends where something does not go as it should")]

use std::thread;
use std::time::Duration;

use multiproc::Pool;
use tests::corrupter::{Corrupter, Random, Where, mappings};

/// For one call. Nothing is measured by it: each takes some milliseconds, and a few seconds after damage.
const LIMIT: Duration = Duration::from_secs(25);

/// The synchronisation words of the worker rings and of the wake-up page lie below this offset.
const HEAD: u64 = 408;

/// Overwrites memory from a thread that goes on when this task is over.
fn corrupt_memory(seed: u64) {
    thread::spawn(move || {
        let mut random = Random::new(seed);
        let mut corrupter = Corrupter::new(mappings(), seed);
        thread::sleep(Duration::from_micros(random.below(4_000)));
        let time = Duration::from_micros(random.below(10_000));
        match random.below(5) {
            0 | 1 => (0..=random.below(4)).for_each(|_| corrupter.write(Where::Heads(HEAD))),
            2 => corrupter.write_for(Where::Heads(HEAD), time),
            3 => corrupter.write_for(Where::Heads(16 * 1024), time),
            _ => corrupter.write_for(Where::Anywhere, time),
        }
    });
}

fn square(number: u64) -> u64 {
    number.wrapping_mul(number)
}

/// The argument may be overwritten; so it is at most this long.
fn nap(number: u64) -> u64 {
    thread::sleep(Duration::from_micros(number % 1_000));
    number
}

fn large(number: u64) -> Vec<u64> {
    vec![number; 5_000]
}

fn text(words: Vec<String>) -> String {
    words.concat()
}

fn main() {
    multiproc::init();
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<u64>().unwrap());
    let (first, end) = (arguments.next().unwrap(), arguments.next().unwrap());
    for seed in first..end {
        round(seed);
    }
    println!("{}", end - first);
}

fn round(seed: u64) {
    let mut random = Random::new(seed);
    let workers = usize::try_from(1 + random.below(3)).unwrap();
    let pool = Pool::builder().workers(workers).shutdown_timeout(Duration::from_millis(200)).build().unwrap();
    for step in 0..3 {
        for _ in 0..=random.below(3) {
            let _ = pool.submit(corrupt_memory, (random.number(),));
        }
        let which = random.below(9);
        let name = format!("round {seed}, step {step}: call {which}, {workers} workers");
        tests::watched_for(LIMIT, &name, || call(&pool, which, &mut random));
        if random.below(3) == 0 {
            thread::sleep(Duration::from_micros(random.below(8_000))); // the pool is idle
        }
    }
    let which = random.below(3);
    tests::watched_for(LIMIT, &format!("round {seed}: end {which}"), || match which {
        0 => drop(pool),
        1 => pool.join(),
        _ => pool.terminate(),
    });
}

fn call(pool: &Pool, which: u64, random: &mut Random) {
    let many = random.below(3_000);
    match which {
        0 => drop(pool.map(square, 0..many)),
        1 => drop(pool.map_results(nap, 0..random.below(60))),
        2 => {
            let tasks: Vec<_> = (0..random.below(40)).map(|number| pool.submit(nap, (number,))).collect();
            tasks.into_iter().flatten().for_each(|task| drop(task.get()));
        }
        3 => drop(pool.map_results(large, 0..random.below(20))),
        4 => pool.imap(square, 0..many).for_each(drop),
        5 => pool.imap_unordered(text, (0..many / 10).map(|_| vec!["abc".to_owned(); 9])).for_each(drop),
        6 => drop(pool.options().timeout(Duration::from_secs(1)).map_results(nap, 0..random.below(60))),
        7 => {
            let tasks: Vec<_> = (0..random.below(40)).map(|number| pool.submit(nap, (number,))).collect();
            for task in tasks.into_iter().flatten() {
                if random.below(2) == 0 {
                    task.cancel();
                }
                let _ = task.get();
            }
        }
        _ => drop(pool.imap(nap, 0..many).take(30).count()),
    }
}

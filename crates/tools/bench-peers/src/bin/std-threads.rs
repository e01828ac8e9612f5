//! The standard library's threads and channels.

use std::hint::black_box;
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use bench::case;
use bench::measure::{self, Scale, back_to_back, from_sleep, repeated};
use bench::program::{Entry, Measured, entry};
use bench::real::{self, Ledger, order, price};
use bench::stream::{consume, mixed, produce, unmixed};
use bench::usage::{self, user_lines};
use bench::work::{check, cube};
use bench_peers::run;

const THREADS: &str = "std threads";

fn main() -> ExitCode {
    run(&entries(), first_result, &[])
}

fn entries() -> Vec<Entry> {
    vec![
        entry(THREADS, &case::START, |scale| repeated(scale, 500, || join(thread::spawn(|| ())))),
        entry(THREADS, &case::START_X4, |scale| {
            repeated(scale, 300, || {
                let threads: Vec<_> = (0..4).map(|_| thread::spawn(|| ())).collect();
                threads.into_iter().try_for_each(join)
            })
        }),
        entry(THREADS, &case::QUEUE_8B, words),
        entry(THREADS, &case::PING_HOT, |scale| {
            let echo = Echo::start();
            back_to_back(scale, || echo.call())
        }),
        entry(THREADS, &case::PING_SLEEP, |scale| {
            let echo = Echo::start();
            from_sleep(scale, || echo.call())
        }),
        entry(THREADS, &case::COLD, |scale| {
            Ok(measure::cold(scale, &["fresh"])?.with("two threads and a channel"))
        }),
        entry(THREADS, &case::PIPELINE, pipeline),
    ]
}

fn first_result() -> Result<Duration> {
    let start = Instant::now();
    let (results, first) = mpsc::channel();
    let threads = [results.clone(), results].map(|results| {
        thread::spawn(move || {
            let _ = results.send(cube(black_box(3)));
        })
    });
    check("first result", 27, first.recv()?)?;
    let time = start.elapsed();
    threads.into_iter().try_for_each(join)?;
    Ok(time)
}

/// A channel without bound, which is the quickest that std has.
fn words(scale: Scale) -> Result<Measured> {
    let (sender, receiver) = mpsc::channel();
    let producer = thread::spawn(move || produce(scale, 8, |number| Ok(sender.send(mixed(number))?)));
    let flow = consume(|| Ok(unmixed(receiver.recv()?)))?;
    join(producer)??;
    Ok(flow.millions())
}

/// A receiver is for one thread, so each consumer has a channel of its own.
fn pipeline(scale: Scale) -> Result<Measured> {
    let count = real::order_count(scale);
    let work = |(): &()| {
        // user code: pipeline
        let (results, priced) = mpsc::channel();
        let (senders, threads): (Vec<_>, Vec<_>) = (0..2)
            .map(|_| {
                let (sender, orders) = mpsc::channel();
                let results = results.clone();
                (
                    sender,
                    thread::spawn(move || orders.iter().try_for_each(|order| results.send(price(&order)))),
                )
            })
            .unzip();
        drop(results);
        let produce = move || {
            (0..count).zip(senders.iter().cycle()).try_for_each(|(id, sender)| sender.send(order(id)))
        };
        let producer = thread::spawn(produce);
        let mut ledger = Ledger::default();
        for priced in priced {
            ledger.add(priced);
        }
        join(producer)??;
        for thread in threads {
            join(thread)??;
        }
        // end
        Ok(ledger)
    };
    let lines = user_lines(include_str!("std-threads.rs"), "pipeline");
    usage::measure(lines, (), work, |ledger: Ledger| ledger.check(scale))
}

struct Echo {
    questions: Sender<u64>,
    answers: Receiver<u64>,
}

impl Echo {
    fn start() -> Self {
        let (questions, asked) = mpsc::channel();
        let (answer, answers) = mpsc::channel();
        thread::spawn(move || asked.into_iter().try_for_each(|number: u64| answer.send(number + 1)));
        Self { questions, answers }
    }

    fn call(&self) -> Result<()> {
        self.questions.send(7)?;
        check("answer", 8, self.answers.recv().context("the thread is gone")?)
    }
}

fn join<T>(thread: JoinHandle<T>) -> Result<T> {
    thread.join().map_err(|_| anyhow!("a thread has panicked"))
}

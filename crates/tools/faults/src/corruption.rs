//! Memory corruption: shared memory is overwritten at random while processes use it.
//!
//! A thread of the parent writes into every page that it shares with others, as any of them could. Meanwhile
//! no particular value must result. But every call ends, with a value or an error; the parent continues; and
//! what it creates afterwards works.

use std::env;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use faults::Row;
use indicatif::{ProgressBar, ProgressStyle};
use multiproc::{Connection, Pool, Process, pipe, queue};
use tests::corrupter::{Corrupter, Random, Where, mappings};

use crate::interrupt;
use crate::resources::ResourceSnapshot;
use crate::watchdog::Watchdog;

#[derive(Args)]
pub(crate) struct Options {
    /// How many rounds there are
    #[arg(long, value_name = "N", default_value = "10000")]
    rounds: u64,
    /// Seed of the work and of what is written where (not of when)
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Only the work whose name contains this
    #[arg(long, value_name = "TEXT")]
    work: Option<String>,
}

/// The part of the work that runs while memory is overwritten.
type Rest = Box<dyn FnOnce(&mut Random) -> Result<()>>;

/// Work during which shared memory is overwritten.
struct Work {
    name: &'static str,
    /// Creates the shared memory. The rest runs while that is overwritten.
    begin: fn(&mut Random) -> Result<Rest>,
}

const WORKS: [Work; 4] = [
    Work { name: "memory of a queue", begin: use_queue },
    Work { name: "memory of a pipe", begin: use_pipe },
    Work { name: "memory of a pool", begin: use_pool },
    Work { name: "memory of the fork server", begin: start_processes },
];

/// The synchronisation words lie in the first bytes of a mapping.
const WORDS: u64 = 1024;
/// How often a start may fail afterwards, until every corrupted object has been replaced.
const MOST_FAILURES: u32 = 20;
/// After this many rounds the process must hold what it held before.
const CHECK_INTERVAL: u64 = 200;

pub(crate) fn run(options: &Options) -> Result<bool> {
    let seed = options.seed.unwrap_or_else(rand::random);
    let again = format!("cargo xtask faults --seed {seed} --only corruption");
    eprintln!("corruption with `{again}`");
    interrupt::install()?;
    let is_wanted = |work: &&Work| options.work.as_ref().is_none_or(|text| work.name.contains(text.as_str()));
    // Where each child is executed, there is no fork server.
    let spawns = env::var("MULTIPROC_START_METHOD").is_ok_and(|method| method == "spawn");
    let is_of_other_method = |work: &&Work| spawns && work.name.contains("the fork server");
    let works: Vec<_> = WORKS.iter().filter(is_wanted).filter(|work| !is_of_other_method(work)).collect();
    ensure!(!works.is_empty(), "there is no such work");
    let lines: Vec<_> = works.iter().map(|work| Row::new("corruption", work.name)).collect();
    let lines = Arc::new(Mutex::new(lines));
    let watchdog = Watchdog::new(1, report_hang(Arc::clone(&lines), again.clone()))?;
    let before = ResourceSnapshot::after_warm_up()?;
    let bar = progress(options.rounds);
    for number in 0..options.rounds {
        if interrupt::interrupted() {
            break;
        }
        let kind = usize::try_from(number)? % works.len();
        let name = format!("{}, round {number}", works[kind].name);
        watchdog.note(0, Some(name.clone()));
        let begun = Instant::now();
        let mut ended = round(works[kind], seed.wrapping_add(number));
        if number % CHECK_INTERVAL == 0 {
            ended = ended.and_then(|()| before.wait_until_restored());
        }
        let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
        match ended {
            Ok(()) => lines[kind].passed(Some(begun.elapsed().as_secs_f64() * 1e3)),
            Err(error) => lines[kind].fail(format!("{name}: {error:#}; again with `{again}`")),
        }
        bar.inc(1);
    }
    let lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
    lines.iter().for_each(Row::print);
    Ok(lines.iter().all(|line| line.failures.is_empty()))
}

fn report_hang(lines: Arc<Mutex<Vec<Row>>>, again: String) -> impl Fn(&str) + Send {
    move |what| {
        let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = lines.iter_mut().find(|line| what.starts_with(&line.fault)) {
            line.fail(format!("{what}: hangs; again with `{again}`"));
        }
        lines.iter().for_each(Row::print);
    }
}

fn progress(rounds: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("corruption {bar:30} {pos}/{len} {eta}");
    ProgressBar::new(rounds).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn round(work: &Work, seed: u64) -> Result<()> {
    let mut random = Random::new(seed);
    let go_on = (work.begin)(&mut random)?;
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let mut corrupter = Corrupter::new(mappings(), random.number());
        let (place, time) = match random.below(4) {
            0 => (Where::Anywhere, 3_000),
            1 => (Where::Heads(16 * 1024), 3_000),
            2 => (Where::Heads(WORDS), 3_000),
            _ => (Where::Heads(WORDS), 0), // a single time
        };
        let pause = Duration::from_micros(random.below(2_000));
        let time = Duration::from_micros(random.below(time + 1));
        let is_over = &is_over;
        scope.spawn(move || {
            thread::sleep(pause);
            corrupter.write_for(place, time);
            while !is_over.load(Ordering::Relaxed) && time > Duration::ZERO {
                corrupter.write(place);
                thread::sleep(Duration::from_millis(1));
            }
        });
        let ended = go_on(&mut random);
        is_over.store(true, Ordering::Relaxed);
        ended
    })?;
    works_afterwards()
}

/// New objects work. The fork server, which was there before, may have to be replaced first.
fn works_afterwards() -> Result<()> {
    let mut failures = 0;
    let sum = loop {
        match Process::spawn(|a: u64, b: u64| a + b, (2, 3)).and_then(Process::join) {
            Ok(sum) => break sum,
            Err(error) if failures == MOST_FAILURES => {
                return Err(error).context("no process starts any more");
            }
            Err(_) => failures += 1,
        }
    };
    ensure!(sum == 5, "a process returns {sum} for 5");
    let (sender, receiver) = queue::bounded(4)?;
    sender.send("text".to_owned())?;
    ensure!(receiver.recv()? == "text", "a queue gives another item than was sent");
    Ok(())
}

/// A child at each end of a queue, and the parent at both.
fn use_queue(random: &mut Random) -> Result<Rest> {
    let (sender, receiver) = queue::bounded::<String>([1, 8, 1_000][usize::try_from(random.below(3))?])?;
    let produce = |sender: queue::Sender<String>, count: u64| {
        (0..count).all(|number| sender.send(number.to_string()).is_ok());
    };
    let consume = |receiver: queue::Receiver<String>, count: u64| {
        (0..count).all(|_| receiver.recv_timeout(TIME).is_ok());
    };
    let children = [
        Process::spawn(produce, (sender.clone(), random.below(3_000)))?,
        Process::spawn(consume, (receiver.clone(), random.below(3_000)))?,
    ];
    Ok(Box::new(move |random| {
        for number in 0..random.below(200) {
            match random.below(5) {
                0 => drop(sender.try_send(number.to_string())),
                1 => drop(sender.send_timeout("long".repeat(20_000), TIME)),
                2 => drop(receiver.try_recv()),
                3 => drop(receiver.recv_timeout(TIME)),
                _ => drop(sender.len()),
            }
        }
        drop(sender);
        children.into_iter().for_each(end);
        // Without a time limit, as all senders are gone. Many items that were never sent may precede the end.
        let is_end = || receiver.recv().is_err_and(|error| error.is_disconnected());
        ensure!((0..1_000_000).any(|_| is_end()), "the end of the queue does not come");
        Ok(())
    }))
}

/// A child that answers, and the parent that asks.
fn use_pipe(random: &mut Random) -> Result<Rest> {
    let (ours, theirs) = pipe::<Vec<u64>, String>()?;
    let answer = |line: Connection<String, Vec<u64>>| {
        // Both ends wait for a lost question: this one gives up first.
        while line.poll(PATIENCE).is_ok_and(|has_come| has_come) {
            let Ok(question) = line.recv() else { break };
            if line.send(format!("{question:?}")).is_err() {
                break;
            }
        }
    };
    let child = Process::spawn(answer, (theirs,))?;
    let questions = random.below(300);
    Ok(Box::new(move |random| {
        for number in 0..questions {
            let question = vec![number; usize::try_from(random.below(40)).unwrap_or(0)];
            let _ = ours.send_timeout(question, TIME);
            if ours.poll(TIME).is_ok_and(|has_come| has_come) {
                let _ = ours.recv();
            }
        }
        drop(ours);
        end(child);
        Ok(())
    }))
}

fn use_pool(random: &mut Random) -> Result<Rest> {
    let workers = usize::try_from(1 + random.below(3))?;
    let pool = Pool::builder().workers(workers).shutdown_timeout(Duration::from_millis(200)).build()?;
    Ok(Box::new(move |random| {
        for _ in 0..3 {
            let items = random.below(2_000);
            match random.below(5) {
                0 => drop(pool.map(|number: u64| number.wrapping_mul(number), 0..items)),
                1 => {
                    let texts = (0..items / 10).map(|number| number.to_string());
                    drop(pool.map_results(|text: String| text.repeat(20), texts));
                }
                2 => pool.imap(|number: u64| vec![number; 5_000], 0..items / 100).for_each(drop),
                3 => drop(pool.options().timeout(Duration::from_secs(1)).map_results(nap, 0..items / 50)),
                _ => {
                    let tasks: Vec<_> = (0..items / 50).map(|number| pool.submit(nap, (number,))).collect();
                    tasks.into_iter().flatten().for_each(|task| drop(task.get()));
                }
            }
        }
        match random.below(3) {
            0 => drop(pool),
            1 => pool.join(),
            _ => pool.terminate(),
        }
        Ok(())
    }))
}

/// The argument may have been overwritten.
fn nap(number: u64) -> u64 {
    thread::sleep(Duration::from_micros(number % 1_000));
    number
}

#[allow(clippy::unnecessary_wraps)] // as for all work
fn start_processes(random: &mut Random) -> Result<Rest> {
    let count = 1 + random.below(6);
    Ok(Box::new(move |_| {
        for number in 0..count {
            let children: Vec<_> = (0..2).map(|_| Process::spawn(nap, (number,))).collect();
            for child in children.into_iter().flatten() {
                let _ = child.join();
            }
        }
        Ok(())
    }))
}

/// The time limit of a call that may wait.
const TIME: Duration = Duration::from_millis(2);
/// The time limit of a call whose message may never come.
const PATIENCE: Duration = Duration::from_millis(500);

/// Gives a child time to exit, then kills it: it may have read corrupt data.
fn end(mut child: Process<()>) {
    if child.join_timeout(Duration::from_millis(200)).is_ok_and(|ended| ended.is_none()) {
        let _ = child.kill();
        let _ = child.join();
    }
}

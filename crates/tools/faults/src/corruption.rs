//! Memory corruption: shared memory is overwritten at random while processes use it.
//!
//! A thread of the parent writes into every page that it shares with others, as any of them could. Meanwhile
//! no particular value must result. But every call ends within its bounds, with a value or an error; the parent
//! continues; and what it creates afterwards works.

mod bounds;
mod channels;
mod joinable;
mod limits;
mod locks;
#[cfg(feature = "log")]
mod logs;
mod pools;
mod processes;
mod servers;
mod traces;

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use clap::Args;
use faults::Row;
use indicatif::{ProgressBar, ProgressStyle};
use multiproc::{Process, queue};
use tests::corrupter::{Corrupter, Mapping, Random, Where, living_threads, mappings};

use self::bounds::Bounds;
use self::processes::START;
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
    /// Only the work whose name contains this. That with a trace, which slows all others, runs only so
    #[arg(long, value_name = "TEXT")]
    work: Option<String>,
}

/// The part of the work that runs while memory is overwritten.
type Rest = Box<dyn FnOnce(&mut Random, &Bounds) -> Result<()>>;

/// Work during which shared memory is overwritten.
struct Work {
    name: &'static str,
    /// Creates the shared memory. The rest runs while that is overwritten.
    begin: fn(&mut Random, &Bounds) -> Result<Rest>,
    written: Written,
}

/// What is written into shared memory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Written {
    /// Random words, everywhere.
    Words,
    /// The identities of living threads, into the memory that the work has created. A call without a time limit
    /// may wait for them, so the work makes none. (Other memory stays, and so would they.)
    Holders,
}

impl Work {
    const fn new(name: &'static str, begin: fn(&mut Random, &Bounds) -> Result<Rest>) -> Self {
        Self { name, begin, written: Written::Words }
    }

    const fn forging_holders(self) -> Self {
        Self { written: Written::Holders, ..self }
    }

    /// The mappings in which it is written.
    fn mappings(&self, before: &[Mapping]) -> Vec<Mapping> {
        let is_written = |mapping: &Mapping| self.written == Written::Words || !before.contains(mapping);
        mappings().into_iter().filter(is_written).collect()
    }
}

#[cfg(feature = "log")]
const LOGS: &str = "memory of log records";

const TRACE: &str = "memory of a trace";

const WORKS: &[Work] = &[
    Work::new("memory of a queue", channels::use_queue),
    Work::new("memory of an unbounded queue", channels::use_unbounded),
    Work::new("memory of a joinable queue", joinable::use_joinable),
    Work::new("memory of a pipe", channels::use_pipe),
    Work::new("memory of locks", locks::use_locks),
    Work::new("memory of a server", servers::use_server),
    Work::new("memory of a pool", pools::use_pool),
    Work::new("memory of a pool with limits", limits::use_limits),
    Work::new("memory of an array's chunks", pools::use_array),
    #[cfg(feature = "log")]
    Work::new(LOGS, logs::log),
    Work::new("memory of the fork server", processes::start_processes),
    Work::new("forged holders of a queue", channels::use_queue).forging_holders(),
    Work::new("forged holders of an unbounded queue", channels::use_unbounded).forging_holders(),
    Work::new("forged holders of a joinable queue", joinable::use_joinable).forging_holders(),
    Work::new("forged holders of a pipe", channels::use_pipe).forging_holders(),
    Work::new("forged holders of locks", locks::use_locks).forging_holders(),
    Work::new("forged holders of a server", servers::use_server).forging_holders(),
    Work::new(TRACE, traces::run_traced),
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
    let is_wanted = |work: &&Work| match &options.work {
        Some(text) => work.name.contains(text.as_str()),
        None => work.name != TRACE,
    };
    // Where each child is executed, there is no fork server.
    let spawns = env::var("MULTIPROC_START_METHOD").is_ok_and(|method| method == "spawn");
    let is_of_other_method = |work: &&Work| spawns && work.name.contains("the fork server");
    let works: Vec<_> = WORKS.iter().filter(is_wanted).filter(|work| !is_of_other_method(work)).collect();
    ensure!(!works.is_empty(), "there is no such work");
    let lines: Vec<_> = works.iter().map(|work| Row::new("corruption", work.name)).collect();
    let lines = Arc::new(Mutex::new(lines));
    let watchdog = Watchdog::new(1, report_hang(Arc::clone(&lines), again.clone()))?;
    let bounds = Bounds::new(watchdog);
    #[cfg(feature = "log")]
    logs::begin(&bounds)?;
    if works.iter().any(|work| work.name == TRACE) {
        traces::begin()?;
    }
    let before = ResourceSnapshot::after_warm_up()?;
    let bar = progress(options.rounds);
    for number in 0..options.rounds {
        if interrupt::interrupted() {
            break;
        }
        let kind = usize::try_from(number)? % works.len();
        let name = format!("{}, round {number}", works[kind].name);
        bounds.begin_round(&name, works[kind].written == Written::Holders);
        let begun = Instant::now();
        let mut ended = round(works[kind], seed.wrapping_add(number), &bounds);
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
    eprintln!("the latest calls after their limits: {}", bounds.latest());
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

fn round(work: &Work, seed: u64, bounds: &Bounds) -> Result<()> {
    let mut random = Random::new(seed);
    let before = mappings();
    let go_on = unwinding(|| (work.begin)(&mut random, bounds))?;
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let mut corrupter = Corrupter::new(work.mappings(&before), random.number());
        if work.written == Written::Holders {
            corrupter = corrupter.forging(living_threads());
        }
        let (place, time) = match random.below(6) {
            0 => (Where::Anywhere, 3_000),
            1 => (Where::Heads(16 * 1024), 3_000),
            2 => (Where::Heads(WORDS), 3_000),
            3 => (Where::Tails(32 * 1024), 3_000),
            4 => (Where::Frames, 3_000),
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
        let ended = unwinding(|| go_on(&mut random, bounds));
        is_over.store(true, Ordering::Relaxed);
        ended
    })?;
    #[cfg(feature = "log")]
    if work.name == LOGS {
        logs::must_come(bounds)?;
    }
    works_afterwards(bounds)
}

/// A panic in the parent is a failure.
fn unwinding<R>(run: impl FnOnce() -> Result<R>) -> Result<R> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(anyhow!("the parent panics: {}", text.unwrap_or("without a text")))
    })
}

/// New objects work. The fork server, which was there before, may have to be replaced first.
fn works_afterwards(bounds: &Bounds) -> Result<()> {
    let mut failures = 0;
    let add = || Process::spawn(|a: u64, b: u64| a + b, (2, 3)).and_then(Process::join);
    let sum = loop {
        match bounds.within(START, "Process::spawn afterwards", add)? {
            Ok(sum) => break sum,
            Err(error) if failures == MOST_FAILURES => {
                return Err(error).context("no process starts any more");
            }
            Err(_) => failures += 1,
        }
    };
    ensure!(sum == 5, "a process returns {sum} for 5");
    let (sender, receiver) = queue::bounded(4)?;
    let exchange = || sender.send("text".to_owned()).map(|()| receiver.recv());
    let received = bounds.at_once("a new queue", exchange)??;
    ensure!(received? == "text", "a queue gives another item than was sent");
    Ok(())
}

/// The argument may have been overwritten.
fn nap(number: u64) -> u64 {
    thread::sleep(Duration::from_micros(number % 1_000));
    number
}

/// The time limit of a call that may wait.
const TIME: Duration = Duration::from_millis(2);
/// The time limit of a child's call whose message may never come.
const PATIENCE: Duration = Duration::from_millis(500);
/// What a child may take to end by itself.
const CHILD_END: Duration = Duration::from_millis(200);

/// Gives a child time to exit, then kills it: it may have read corrupt data.
fn end(mut child: Process<()>, bounds: &Bounds) -> Result<()> {
    let ended = bounds.within(CHILD_END, "Process::join_timeout", || child.join_timeout(CHILD_END))?;
    if ended.is_ok_and(|ended| ended.is_none()) {
        drop(bounds.at_once("Process::kill", || child.kill())?);
        drop(bounds.at_once("Process::join of a killed child", || child.join())?);
    }
    Ok(())
}

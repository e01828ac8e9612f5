//! Soak: random operations against a model of their results.
//!
//! Several threads, each with its own children, pools and queues, run one operation after another, chosen by
//! the seed. After some hundred operations everything is shut down, and the process must hold the resources
//! that it held before.

mod channels;
mod children;
mod job;
mod pools;
mod shared;
mod state;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use faults::Row;
use indicatif::{ProgressBar, ProgressStyle};
use procfs::process::Process;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::interrupt;
use crate::resources::ResourceSnapshot;
use crate::watchdog::Watchdog;
use state::{OPERATIONS, Operation, SoakState};

#[derive(Args)]
pub(crate) struct Options {
    /// Duration, such as 30s or 10m
    #[arg(long = "for", value_name = "TIME", default_value = "30s", value_parser = faults::parse_time)]
    time: Duration,
    /// Seed of the operations
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Number of threads that run operations at the same time
    #[arg(long, value_name = "N", default_value = "3")]
    threads: usize,
}

/// After this many operations of all threads together, everything is shut down.
const CHECK_INTERVAL: u64 = 500;
/// After this many samples the process has filled all its caches.
const WARM_UP: u64 = 3;
/// How many bytes the memory of the process may grow after that, by fragmentation.
const MOST_GROWTH: u64 = 64 * 1024 * 1024;

pub(crate) fn run(options: &Options) -> Result<bool> {
    let seed = options.seed.unwrap_or_else(rand::random);
    let threads = options.threads.max(1);
    let mut again = format!("cargo xtask faults --seed {seed} --only soak");
    if threads != 3 {
        write!(again, " --threads {threads}")?;
    }
    eprintln!("soak with `{again}`");
    interrupt::install()?;
    let lines = Lines::new(again);
    let watchdog = Watchdog::new(threads, report_hang(lines.clone()))?;
    let soak = Soak {
        seed,
        threads,
        until: Instant::now() + options.time,
        lines,
        watchdog,
        failed: AtomicBool::new(false),
    };
    soak.run(options.time)?;
    soak.lines.print();
    Ok(!soak.failed.load(Ordering::Relaxed))
}

struct Soak {
    seed: u64,
    threads: usize,
    until: Instant,
    lines: Lines,
    watchdog: Watchdog,
    /// A check has failed: the soak ends.
    failed: AtomicBool,
}

impl Soak {
    fn run(&self, time: Duration) -> Result<()> {
        let bar = progress(time);
        let before = ResourceSnapshot::after_warm_up()?;
        let mut memory = 0;
        for round in 0.. {
            thread::scope(|scope| {
                for thread in 0..self.threads {
                    scope.spawn(move || self.run_thread(thread, round));
                }
            });
            if round < WARM_UP {
                memory = memory.max(memory_in_use()?);
            }
            self.take("what is left behind", || {
                before.wait_until_restored()?;
                let now = memory_in_use()?;
                ensure!(
                    now <= memory + MOST_GROWTH,
                    "{now} bytes of memory are in use, and {memory} were in use before"
                );
                Ok(())
            });
            if self.is_over() {
                break;
            }
            bar.set_position(time.as_secs().saturating_sub(self.left().as_secs()));
            bar.set_message(format!("{} operations", (round + 1) * CHECK_INTERVAL));
        }
        bar.finish_and_clear();
        Ok(())
    }

    fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    fn is_over(&self) -> bool {
        self.left().is_zero() || self.failed.load(Ordering::Relaxed) || interrupt::interrupted()
    }

    fn run_thread(&self, thread: usize, round: u64) {
        let mut state = SoakState::default();
        for step in 0..CHECK_INTERVAL / self.threads as u64 {
            if self.is_over() {
                break;
            }
            // Each step has its own random numbers: the outcome of an earlier step does not change them.
            let mut rng = StdRng::seed_from_u64(self.seed ^ ((thread as u64) << 56 | round << 24 | step));
            let operation = choose(&mut rng);
            self.watchdog.note(
                thread,
                Some(format!("{}, operation {step} of thread {thread}, after round {round}", operation.name)),
            );
            self.take(operation.name, || (operation.run)(&mut state, &mut rng));
        }
        self.watchdog
            .note(thread, Some(format!("bringing all to its end, in thread {thread} after round {round}")));
        self.take("bring all to its end", || state.drain());
        self.watchdog.note(thread, None);
    }

    /// Runs an operation, and records its outcome.
    fn take(&self, name: &'static str, act: impl FnOnce() -> Result<()>) {
        let begun = Instant::now();
        let came = catch_unwind(AssertUnwindSafe(act)).unwrap_or_else(|_| bail!("it panics"));
        let took = begun.elapsed();
        match came {
            Ok(()) => self.lines.lock().entry(name).or_insert_with(|| line(name)).passed_all(1, Some(took)),
            Err(_) if interrupt::interrupted_soon() => {}
            // A later failure may be a consequence of the first.
            Err(error) if !self.failed.swap(true, Ordering::Relaxed) => {
                self.lines.fail(name, &format!("{error:#}"));
            }
            Err(_) => {}
        }
    }
}

fn choose(rng: &mut StdRng) -> &'static Operation {
    let mut pick = rng.random_range(0..OPERATIONS.iter().map(|operation| operation.weight).sum());
    let is_it = |operation: &&Operation| {
        let is_it = pick < operation.weight;
        pick = pick.saturating_sub(operation.weight);
        is_it
    };
    OPERATIONS.iter().find(is_it).unwrap_or(&OPERATIONS[0])
}

/// The memory that this process alone uses, in bytes.
fn memory_in_use() -> Result<u64> {
    let status = Process::myself()?.status()?;
    Ok(status.rssanon.context("the system does not say how much memory is in use")? * 1024)
}

/// The results by kind of operation, and the command that reproduces the run.
#[derive(Clone)]
struct Lines {
    lines: Arc<Mutex<BTreeMap<&'static str, Row>>>,
    again: String,
}

impl Lines {
    fn new(again: String) -> Self {
        Self { lines: Arc::default(), again }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, Row>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, name: &'static str, why: &str) {
        let failure = format!("{why}; have it again with `{}`", self.again);
        eprintln!("{name}: {failure}");
        self.lock().entry(name).or_insert_with(|| line(name)).fail(failure);
    }

    fn print(&self) {
        self.lock().values().for_each(Row::print);
    }
}

fn line(name: &str) -> Row {
    Row::new("soak", name)
}

fn report_hang(lines: Lines) -> impl Fn(&str) {
    move |what| {
        lines.fail("a hang", what);
        lines.print();
    }
}

fn progress(time: Duration) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} s, {msg}");
    let bar = ProgressBar::new(time.as_secs());
    style.map_or(bar.clone(), |style| bar.with_style(style))
}

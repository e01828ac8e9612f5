//! Random kills: processes are killed at random instants.
//!
//! Each round runs one kind of work, and meanwhile kills one to three of its processes. The rounds alternate
//! between kinds of work and targets. Each round checks its results; and afterwards this process must hold
//! the resources that it held before.

mod channels;
mod kill_round;
mod locks;
mod pools;
mod processes;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use faults::Row;
use indicatif::{ProgressBar, ProgressStyle};

use crate::interrupt;
use crate::resources::ResourceSnapshot;
use crate::watchdog::Watchdog;
use kill_round::KillRound;

#[derive(Args)]
pub(crate) struct Options {
    /// How many processes are killed
    #[arg(long, value_name = "N", default_value = "10000")]
    count: u64,
    /// Seed of the work, of the targets and of the instants (not of how far a target has come)
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Only targets whose name contains this
    #[arg(long, value_name = "TEXT")]
    target: Option<String>,
}

/// One kind of target, and the work during which it is killed.
struct Kind {
    target: &'static str,
    round: fn(&mut KillRound) -> Result<()>,
    /// How many may be killed in one round.
    max: u32,
}

const fn kind(target: &'static str, max: u32, round: fn(&mut KillRound) -> Result<()>) -> Kind {
    Kind { target, round, max }
}

const KINDS: &[Kind] = &[
    kind("a worker during map", 3, pools::map),
    kind("a worker during imap", 3, pools::imap),
    kind("a worker during imap_unordered", 3, pools::imap_unordered),
    kind("a worker during submit", 3, pools::submit),
    kind("a worker with large items", 3, pools::large),
    kind("a worker with items that hold descriptors", 3, pools::descriptors),
    kind("a worker with items that share memory", 3, pools::sharing),
    kind("a worker that is replaced after some tasks", 3, pools::recycled),
    kind("workers of several pools", 3, pools::several),
    kind("a worker of a pool that ends", 3, pools::ending),
    kind("a child", 3, processes::few),
    kind("a child with a pool", 1, processes::with_a_pool),
    kind("a child's worker or fork server", 2, processes::of_a_child),
    kind("the fork server", 2, processes::fork_server),
    kind("what the fork server has ready", 3, processes::preforked),
    kind("a producer of a queue", 3, channels::producers),
    kind("a consumer of a queue", 3, channels::consumers),
    kind("an end of a pipe", 2, channels::pipe),
    kind("a process with all that is shared", 2, locks::children),
    kind("a worker with all that is shared", 2, locks::workers),
];

/// How often each kind of work runs before the first kill, to measure its time.
const WARM_UP: u32 = 3;
/// How long any handle may take, after the first kill, to have its result.
const BOUND: Duration = Duration::from_secs(2);
/// After this time, what should have ended after a round has not.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn run(options: &Options) -> Result<bool> {
    let seed = options.seed.unwrap_or_else(rand::random);
    let part = if options.target.is_some() { "mix" } else { "random-kills" };
    let again = format!("`cargo xtask faults --seed {seed} --only {part}`");
    eprintln!("kills with {again}");
    interrupt::install()?;
    let wanted =
        |kind: &&Kind| options.target.as_ref().is_none_or(|text| kind.target.contains(text.as_str()));
    let kinds: Vec<_> = KINDS.iter().filter(wanted).filter(|kind| !is_of_other_method(kind)).collect();
    ensure!(!kinds.is_empty(), "there is no such target");
    let lines = kinds.iter().map(|kind| Row::new("random-kills", kind.target)).collect();
    let lines = Arc::new(Mutex::new(lines));
    let watchdog = Watchdog::new(1, report_hang(Arc::clone(&lines), again.clone()))?;
    let lengths = vec![Duration::ZERO; kinds.len()];
    let mut killer = Runner { seed, again, kinds, lengths, before: ResourceSnapshot::default(), watchdog };
    killer.warm_up()?;
    killer.inject_all(options.count, &lines)?;
    let lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
    lines.iter().for_each(Row::print);
    Ok(lines.iter().all(|line| line.failures.is_empty()))
}

/// Where each child is executed, there is no fork server.
fn is_of_other_method(kind: &Kind) -> bool {
    kind.target.contains("the fork server")
        && std::env::var("MULTIPROC_START_METHOD").is_ok_and(|method| method == "spawn")
}

struct Runner {
    seed: u64,
    /// The command that reproduces this run.
    again: String,
    kinds: Vec<&'static Kind>,
    /// How long each kind of work takes undisturbed.
    lengths: Vec<Duration>,
    before: ResourceSnapshot,
    watchdog: Watchdog,
}

impl Runner {
    fn warm_up(&mut self) -> Result<()> {
        for number in 0..WARM_UP {
            for (kind, length) in self.kinds.iter().zip(&mut self.lengths) {
                self.watchdog.note(0, Some(format!("{}, undisturbed", kind.target)));
                let begun = Instant::now();
                (kind.round)(&mut KillRound::none(u64::from(number)))
                    .with_context(|| format!("{}, undisturbed", kind.target))?;
                *length = begun.elapsed();
            }
        }
        self.watchdog.note(0, None);
        self.before = ResourceSnapshot::after_warm_up()?;
        Ok(())
    }

    fn inject_all(&self, count: u64, lines: &Mutex<Vec<Row>>) -> Result<()> {
        let bar = progress(count);
        for number in 0.. {
            if bar.position() >= count || interrupt::interrupted() {
                break;
            }
            let index = usize::try_from(number)? % self.kinds.len();
            let target = self.kinds[index].target;
            self.watchdog.note(0, Some(format!("{target}, round {number}")));
            let (killed, came) = self.round(index, number);
            self.watchdog.note(0, None);
            if came.is_err() && interrupt::interrupted_soon() {
                break;
            }
            let line = &mut lines.lock().unwrap_or_else(PoisonError::into_inner)[index];
            line.points += 1;
            match came {
                Ok(worst) => line.passed_all(killed, worst),
                Err(error) => {
                    let failure = format!("round {number}: {error:#}; {}", self.again);
                    bar.suspend(|| eprintln!("{target}, {failure}"));
                    line.times += killed;
                    line.failures.push(failure);
                }
            }
            bar.inc(killed);
        }
        bar.finish_and_clear();
        Ok(())
    }

    /// Returns the number of kills, and the longest time until everything was settled.
    fn round(&self, index: usize, number: u64) -> (u64, Result<Option<Duration>>) {
        let kind = self.kinds[index];
        let mut round = KillRound::new(self.seed ^ number.rotate_left(32), kind.max, self.lengths[index]);
        let came = (kind.round)(&mut round).and_then(|()| round.settle());
        let killed = round.count();
        drop(round);
        (killed, came.and_then(|worst| self.before.wait_until_restored().map(|()| worst)))
    }
}

fn report_hang(lines: Arc<Mutex<Vec<Row>>>, again: String) -> impl Fn(&str) {
    move |what| {
        eprintln!("this hangs: {what}; {again}");
        let mut hang = Row::new("random-kills", "a hang");
        hang.fail(format!("{what}; {again}"));
        let lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().chain([&hang]).for_each(Row::print);
    }
}

fn progress(count: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} killed, {eta} left");
    let bar = ProgressBar::new(count);
    style.map_or(bar.clone(), |style| bar.with_style(style))
}

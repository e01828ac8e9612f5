//! Kills at random instants.
//!
//! In each round some work is done, and while it is, one to three of the processes that have to do with it are killed.
//! The rounds take turns with different work and different victims. Each knows what must come out all the same; and
//! afterwards this process must have what it had before.

mod channels;
mod fire;
mod pools;
mod processes;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use faults::Line;
use indicatif::{ProgressBar, ProgressStyle};

use crate::interrupt;
use crate::possessions::Possessions;
use crate::watchdog::Watchdog;
use fire::Fire;

#[derive(Args)]
pub(crate) struct Options {
    /// How many processes are killed
    #[arg(long, value_name = "N", default_value = "10000")]
    count: u64,
    /// What determines the work and who is killed when (though never how far that one has come)
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Only victims whose name contains this
    #[arg(long, value_name = "TEXT")]
    victim: Option<String>,
}

/// One sort of victim, and the work during which it is killed.
struct Kind {
    victim: &'static str,
    round: fn(&mut Fire) -> Result<()>,
    /// How many may be killed in one round.
    most: u32,
}

const fn kind(victim: &'static str, most: u32, round: fn(&mut Fire) -> Result<()>) -> Kind {
    Kind { victim, round, most }
}

const KINDS: &[Kind] = &[
    kind("a worker during map", 3, pools::map),
    kind("a worker during imap", 3, pools::imap),
    kind("a worker during imap_unordered", 3, pools::imap_unordered),
    kind("a worker during submit", 3, pools::submit),
    kind("a worker with large items", 3, pools::large),
    kind("a worker with items that hold descriptors", 3, pools::descriptors),
    kind("a worker that is replaced after some tasks", 3, pools::recycled),
    kind("workers of several pools", 3, pools::several),
    kind("a worker of a pool that ends", 3, pools::ending),
    kind("a child", 3, processes::few),
    kind("a child with a pool", 1, processes::with_a_pool),
    kind("a child's worker or fork server", 2, processes::of_a_child),
    kind("the fork server", 2, processes::fork_server),
    kind("what the fork server has ready", 3, processes::spares),
    kind("a producer of a queue", 3, channels::producers),
    kind("a consumer of a queue", 3, channels::consumers),
    kind("an end of a pipe", 2, channels::pipe),
];

/// So often is each kind of work done before the first kill, to see how long it takes.
const WARM_UP: u32 = 3;
/// So long may any handle take, after the first kill, to come to its result.
const BOUND: Duration = Duration::from_secs(2);

pub(crate) fn run(options: &Options) -> Result<bool> {
    let seed = options.seed.unwrap_or_else(rand::random);
    let again = format!("`cargo xtask faults --seed {seed} --only kills`");
    eprintln!("kills with {again}");
    interrupt::heed()?;
    let wanted =
        |kind: &&Kind| options.victim.as_ref().is_none_or(|text| kind.victim.contains(text.as_str()));
    let kinds: Vec<_> = KINDS.iter().filter(wanted).filter(|kind| !is_of_other_method(kind)).collect();
    ensure!(!kinds.is_empty(), "there is no such victim");
    let lines = kinds.iter().map(|kind| Line::new("kills", kind.victim)).collect();
    let lines = Arc::new(Mutex::new(lines));
    let watchdog = Watchdog::new(1, tell_of_hang(Arc::clone(&lines), again.clone()))?;
    let lengths = vec![Duration::ZERO; kinds.len()];
    let mut killer = Killer { seed, again, kinds, lengths, before: Possessions::default(), watchdog };
    killer.warm_up()?;
    killer.strike_all(options.count, &lines)?;
    let lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
    lines.iter().for_each(Line::print);
    Ok(lines.iter().all(|line| line.failures.is_empty()))
}

/// Where each child is a program of its own, there is no fork server.
fn is_of_other_method(kind: &Kind) -> bool {
    kind.victim.contains("the fork server")
        && std::env::var("MULTIPROC_START_METHOD").is_ok_and(|method| method == "spawn")
}

struct Killer {
    seed: u64,
    /// How to have it again.
    again: String,
    kinds: Vec<&'static Kind>,
    /// How long each kind of work takes undisturbed.
    lengths: Vec<Duration>,
    before: Possessions,
    watchdog: Watchdog,
}

impl Killer {
    fn warm_up(&mut self) -> Result<()> {
        for number in 0..WARM_UP {
            for (kind, length) in self.kinds.iter().zip(&mut self.lengths) {
                self.watchdog.note(0, Some(format!("{}, undisturbed", kind.victim)));
                let begun = Instant::now();
                (kind.round)(&mut Fire::none(u64::from(number)))
                    .with_context(|| format!("{}, undisturbed", kind.victim))?;
                *length = begun.elapsed();
            }
        }
        self.watchdog.note(0, None);
        self.before = Possessions::once_all_is_kept()?;
        Ok(())
    }

    fn strike_all(&self, count: u64, lines: &Mutex<Vec<Line>>) -> Result<()> {
        let bar = progress(count);
        for number in 0.. {
            if bar.position() >= count || interrupt::came() {
                break;
            }
            let place = usize::try_from(number)? % self.kinds.len();
            let victim = self.kinds[place].victim;
            self.watchdog.note(0, Some(format!("{victim}, round {number}")));
            let (killed, came) = self.round(place, number);
            self.watchdog.note(0, None);
            if came.is_err() && interrupt::comes() {
                break;
            }
            let line = &mut lines.lock().unwrap_or_else(PoisonError::into_inner)[place];
            line.places += 1;
            match came {
                Ok(worst) => line.survive_all(killed, worst),
                Err(error) => {
                    let failure = format!("round {number}: {error:#}; {}", self.again);
                    bar.suspend(|| eprintln!("{victim}, {failure}"));
                    line.times += killed;
                    line.failures.push(failure);
                }
            }
            bar.inc(killed);
        }
        bar.finish_and_clear();
        Ok(())
    }

    /// Says how many were killed, and how long it took at most until everything was settled.
    fn round(&self, place: usize, number: u64) -> (u64, Result<Option<Duration>>) {
        let kind = self.kinds[place];
        let mut fire = Fire::new(self.seed ^ number.rotate_left(32), kind.most, self.lengths[place]);
        let came = (kind.round)(&mut fire).and_then(|()| fire.settle());
        let killed = fire.count();
        drop(fire);
        (killed, came.and_then(|worst| self.before.await_return().map(|()| worst)))
    }
}

fn tell_of_hang(lines: Arc<Mutex<Vec<Line>>>, again: String) -> impl Fn(&str) {
    move |what| {
        eprintln!("this hangs: {what}; {again}");
        let mut hang = Line::new("kills", "a hang");
        hang.fail(format!("{what}; {again}"));
        let lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().chain([&hang]).for_each(Line::print);
    }
}

fn progress(count: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} killed, {eta} left");
    let bar = ProgressBar::new(count);
    style.map_or(bar.clone(), |style| bar.with_style(style))
}

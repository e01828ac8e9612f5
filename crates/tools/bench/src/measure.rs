//! How time is taken: many repetitions, and the one in the median.

use std::env;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::usage::Usage;

/// How much a round may take on itself.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    pub quick: bool,
}

impl Scale {
    /// How long a stream flows.
    pub fn stream(self) -> Duration {
        Duration::from_millis(if self.quick { 100 } else { 400 })
    }

    /// How long repetitions may take together, except that some are made in any case.
    fn repetitions(self) -> Duration {
        Duration::from_millis(if self.quick { 300 } else { 1500 })
    }

    /// Fewer where it has to be quick.
    pub fn times(self, times: usize) -> usize {
        if self.quick { (times / 5).max(3) } else { times }
    }
}

/// The pause between two calls: long enough that a spinning waiter has gone to sleep.
const PAUSE: Duration = Duration::from_millis(2);

/// The number of back-to-back calls in one timing, so that reading the clock does not count.
const TOGETHER: u32 = 10;

/// The median of some hundred calls, as far as the time allows, each timed by itself. In microseconds.
pub fn repeated(scale: Scale, times: usize, mut call: impl FnMut() -> Result<()>) -> Result<Measured> {
    micros(&series(scale, scale.times(times), || timed(&mut call).map(|(time, ())| time))?)
}

/// The median of thousands of calls, one right after the other. In microseconds.
pub fn back_to_back(scale: Scale, mut call: impl FnMut() -> Result<()>) -> Result<Measured> {
    let ten = || Ok(timed(|| (0..TOGETHER).try_for_each(|_| call()))?.0 / TOGETHER);
    micros(&series(scale, scale.times(2_000), ten)?)
}

/// The median of batches of a thousand calls that take too short a time for the clock. In nanoseconds.
pub fn nanoseconds(scale: Scale, mut call: impl FnMut() -> Result<()>) -> Result<Measured> {
    let batch = || Ok(timed(|| (0..1_000).try_for_each(|_| call()))?.0);
    micros(&series(scale, scale.times(2_000), batch)?) // of a thousand
}

/// The median of some hundred calls with a pause before each, in which caller and called fall asleep. In
/// microseconds.
pub fn from_sleep(scale: Scale, mut call: impl FnMut() -> Result<()>) -> Result<Measured> {
    let one = || {
        thread::sleep(PAUSE);
        timed(&mut call).map(|(time, ())| time)
    };
    micros(&series(scale, scale.times(300), one)?)
}

/// The rate of a piece of work that is done several times over, by the median time: `amount` of it a
/// microsecond, which is millions of items a second. Each time, what came of it is checked, which does not
/// count.
pub fn rate<T>(
    scale: Scale,
    amount: f64,
    mut work: impl FnMut() -> Result<T>,
    mut check: impl FnMut(T) -> Result<()>,
) -> Result<Measured> {
    let one = || {
        let (time, result) = timed(&mut work)?;
        check(result).map(|()| time)
    };
    let time = micros(&series(scale, scale.times(25), one)?)?;
    Ok(Measured { value: amount / time.value, ..time })
}

/// The median of some runs of this program, each of which prints how many microseconds it has taken. In
/// milliseconds.
pub fn cold(scale: Scale, arguments: &[&str]) -> Result<Measured> {
    let program = env::current_exe()?;
    let once = || {
        let mut command = Command::new(&program);
        let output = command.args(arguments).stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
        ensure!(output.status.success(), "the fresh program ended with {}", output.status);
        let micros: f64 = String::from_utf8(output.stdout)?.trim().parse().context("no time was printed")?;
        Ok(Duration::from_secs_f64(micros / 1e6))
    };
    milliseconds(scale, 50, once)
}

/// The median of what `one` says that it takes, in milliseconds.
pub fn milliseconds(scale: Scale, times: usize, one: impl FnMut() -> Result<Duration>) -> Result<Measured> {
    let measured = micros(&series(scale, scale.times(times), one)?)?;
    Ok(Measured { value: measured.value / 1e3, ..measured })
}

/// The time of a call, and its value.
pub fn timed<T>(call: impl FnOnce() -> Result<T>) -> Result<(Duration, T)> {
    let start = Instant::now();
    let result = call()?;
    Ok((start.elapsed(), result))
}

/// At most `times`, and no more than the time allows; the first ones do not count.
fn series(scale: Scale, times: usize, mut one: impl FnMut() -> Result<Duration>) -> Result<Vec<Duration>> {
    let start = Instant::now();
    for _ in 0..(times / 20).clamp(1, 50) {
        one()?;
    }
    let mut durations = Vec::with_capacity(times);
    while durations.is_empty() || (durations.len() < times && start.elapsed() < scale.repetitions()) {
        durations.push(one()?);
    }
    Ok(durations)
}

fn micros(durations: &[Duration]) -> Result<Measured> {
    let value = median(durations.iter().map(|duration| duration.as_secs_f64() * 1e6).collect())?;
    Ok(Measured::new(value).with(format!("median of {}", durations.len())))
}

/// The value in the median; of an even number of them, the mean of the two there.
pub fn median(mut values: Vec<f64>) -> Result<f64> {
    if values.is_empty() {
        bail!("there is no median of nothing");
    }
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    Ok(if values.len() % 2 == 1 { values[half] } else { f64::midpoint(values[half - 1], values[half]) })
}

/// A time on a clock that all processes share.
pub fn now() -> Result<Duration> {
    Ok(nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)?.into())
}

/// The result of a round.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    pub value: f64,
    pub detail: Option<String>,
    /// Of a real workload.
    pub usage: Option<Usage>,
}

impl Measured {
    pub fn new(value: f64) -> Self {
        Self { value, detail: None, usage: None }
    }

    #[must_use]
    pub fn with(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_not_moved_by_an_outlier() {
        let is_3 = |values| (median(values).unwrap() - 3.0).abs() < 1e-9;
        assert!(is_3(vec![3.0, 900.0, 2.0, 4.0, 1.0]));
        assert!(is_3(vec![4.0, 1.0, 900.0, 2.0]));
        assert!(median(vec![]).is_err());
    }

    #[test]
    fn the_first_calls_do_not_count() {
        let mut calls = 0;
        let measured = repeated(Scale { quick: false }, 20, || {
            calls += 1;
            if calls == 1 {
                thread::sleep(Duration::from_millis(200));
            }
            Ok(())
        });
        assert!(measured.unwrap().value < 100_000.0);
        assert_eq!(calls, 21);
    }
}

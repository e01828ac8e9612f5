//! Times, taken so that a busy machine does little harm, and shown in three digits.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// How long something takes. Blocks as long as that.
///
/// # Errors
/// Those of what is measured.
pub fn time<T>(what: impl FnOnce() -> Result<T>) -> Result<Duration> {
    let start = Instant::now();
    what()?;
    Ok(start.elapsed())
}

/// The median of several rounds.
///
/// # Errors
/// The first round's that fails; and when there are none.
pub fn median(rounds: usize, mut round: impl FnMut() -> Result<Duration>) -> Result<Duration> {
    Ok(medians(rounds, &[()], |()| round())?[0])
}

/// The median for each of several variants. A round measures each of them once, so that whatever else the
/// machine is busy with disturbs them alike.
///
/// # Errors
/// The first measurement's that fails; and when there are no rounds.
pub fn medians<V>(
    rounds: usize,
    variants: &[V],
    mut measure: impl FnMut(&V) -> Result<Duration>,
) -> Result<Vec<Duration>> {
    let mut times = vec![Vec::with_capacity(rounds); variants.len()];
    for _ in 0..rounds {
        for (variant, times) in variants.iter().zip(&mut times) {
            times.push(measure(variant)?);
        }
    }
    times.iter_mut().map(|times| median_of(times).context("no median of no rounds")).collect()
}

fn median_of(times: &mut [Duration]) -> Option<Duration> {
    times.sort_unstable();
    times.get(times.len() / 2).copied()
}

/// How many times as long `longer` is as `shorter`.
pub fn ratio(longer: Duration, shorter: Duration) -> f64 {
    longer.as_secs_f64() / shorter.as_secs_f64().max(f64::MIN_POSITIVE)
}

/// A time in milliseconds, for a chart.
pub fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// A time in microseconds, for a chart.
pub fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// A time in three digits, with the unit that suits it.
///
/// ```
/// # use std::time::Duration;
/// assert_eq!(experiments::measure::show(Duration::from_micros(1234)), "1.23 ms");
/// ```
pub fn show(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    let (factor, unit) = match seconds {
        0.999_5.. => (1.0, "s"),
        0.000_999_5.. => (1e3, "ms"),
        _ => (1e6, "µs"),
    };
    format!("{} {unit}", three_digits(seconds * factor))
}

/// A number in three digits, or as many as it has before the point.
///
/// ```
/// assert_eq!(experiments::measure::three_digits(0.1234), "0.123");
/// assert_eq!(experiments::measure::three_digits(12.34), "12.3");
/// assert_eq!(experiments::measure::three_digits(1234.5), "1234");
/// ```
pub fn three_digits(number: f64) -> String {
    let decimals = match number.abs() {
        99.95.. => 0,
        9.995.. => 1,
        0.999_5.. => 2,
        _ => 3,
    };
    format!("{number:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_change_where_three_digits_end() {
        for (nanoseconds, shown) in [
            (250, "0.250 µs"),
            (12_340, "12.3 µs"),
            (999_400, "999 µs"),
            (999_600, "1.00 ms"),
            (99_960_000, "100 ms"),
            (999_600_000, "1.00 s"),
            (61_000_000_000, "61.0 s"),
        ] {
            assert_eq!(show(Duration::from_nanos(nanoseconds)), shown);
        }
    }

    #[test]
    fn a_median_is_not_moved_by_an_outlier() {
        let mut times = [3, 900, 2, 4, 1].map(Duration::from_millis).into_iter();
        let median = median(5, || times.next().context("no more")).unwrap();
        assert_eq!(median, Duration::from_millis(3));
        assert!(medians(0, &[()], |()| Ok(Duration::ZERO)).is_err());
    }
}

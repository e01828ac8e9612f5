//! A log-linear histogram of times, as in Gil Tene's `HdrHistogram`: four buckets for each power of two.

use std::fmt;
use std::ops::AddAssign;
use std::time::Duration;

/// How often times of each length have occurred, in buckets that are at most a quarter wide.
///
/// Its `Display` is one line: `50 % within 1.0 ms, 90 % within 2.6 ms, 99 % within 42 ms, all within 101 ms`.
///
/// ```
/// use multiproc::Pool;
/// use std::time::Duration;
///
/// multiproc::init();
/// let pool = Pool::new(2)?;
/// let _ = pool.map(|n: u64| n * n, 0..1000u64)?;
/// let times = pool.stats().total().run_times;
/// assert!(times.quantile(0.5) <= times.quantile(0.99));
/// println!("{times}");
/// for (limit, tasks) in times.buckets().filter(|(_, tasks)| *tasks > 0) {
///     println!("{tasks} more tasks took less than {limit:?}");
/// }
/// # Ok::<(), multiproc::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram(Vec<u64>);

/// The number of buckets. The last one has all times above 32 min.
pub(super) const BUCKETS: usize = 160;
/// The buckets for each power of two.
const PER_OCTAVE: u32 = 4;

/// The bucket of a time.
#[inline]
pub(super) fn bucket(nanos: u64) -> usize {
    let shift = nanos.max(1).ilog2().saturating_sub(2);
    let bucket = u64::from(PER_OCTAVE * shift) + (nanos >> shift);
    usize::try_from(bucket).map_or(BUCKETS - 1, |bucket| bucket.min(BUCKETS - 1))
}

/// The times of a bucket are below this.
fn limit(bucket: u32) -> Duration {
    let shift = (bucket / PER_OCTAVE).saturating_sub(1);
    Duration::from_nanos(u64::from(bucket - PER_OCTAVE * shift + 1) << shift)
}

impl Histogram {
    /// The number of times.
    pub fn count(&self) -> u64 {
        self.0.iter().fold(0, |sum, &count| sum.saturating_add(count))
    }

    /// A time that this share of all times (0 to 1) does not reach: the upper end of the bucket with the last of them,
    /// so up to a quarter too long. `None` if there are no times.
    ///
    /// That of the last bucket, of all times above 32 min, is [`Duration::MAX`].
    #[allow(clippy::cast_precision_loss)] // numbers above 2^53 are rounded
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let wanted = (share.clamp(0.0, 1.0) * self.count() as f64).max(1.0);
        let mut sum = 0.0;
        let mut reached = self.buckets().filter(|(_, count)| *count > 0).skip_while(|(_, count)| {
            sum += *count as f64;
            sum < wanted
        });
        let last = self.buckets().filter(|(_, count)| *count > 0).last();
        reached.next().or(last).map(|(limit, _)| limit)
    }

    /// The buckets, the shortest times first: the time that its times do not reach, and how many there are.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> + '_ {
        let limits = (0..).map(limit).take(BUCKETS - 1).chain([Duration::MAX]);
        limits.zip(self.0.iter().copied())
    }

    /// Those counts, by bucket. Missing ones are 0.
    pub(super) fn of(counts: impl Iterator<Item = u64>) -> Self {
        let counts: Vec<_> = counts.take(BUCKETS).collect();
        Self(if counts.iter().all(|&count| count == 0) { Vec::new() } else { counts })
    }

    pub(super) fn add(&mut self, nanos: u64, count: u64) {
        self.0.resize(BUCKETS, 0);
        if let Some(sum) = self.0.get_mut(bucket(nanos)) {
            *sum = sum.saturating_add(count);
        }
    }
}

impl AddAssign<&Self> for Histogram {
    fn add_assign(&mut self, other: &Self) {
        self.0.resize(self.0.len().max(other.0.len()), 0);
        for (sum, &count) in self.0.iter_mut().zip(&other.0) {
            *sum = sum.saturating_add(count);
        }
    }
}

impl fmt::Display for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, share) in [("50 %", 0.5), (", 90 %", 0.9), (", 99 %", 0.99), (", all", 1.0)] {
            match self.quantile(share) {
                None => return f.write_str("none"),
                Some(Duration::MAX) => write!(f, "{name} in over 32 min")?,
                Some(time) => write!(f, "{name} within {}", Rounded(time))?,
            }
        }
        Ok(())
    }
}

/// A time with two digits, or all of a whole number.
struct Rounded(Duration);

impl fmt::Display for Rounded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs_f64();
        let units = [(1e-9, "ns"), (1e-6, "µs"), (1e-3, "ms"), (1.0, "s")];
        let (unit, name) = units.into_iter().rev().find(|(unit, _)| seconds >= *unit).unwrap_or(units[0]);
        let number = seconds / unit;
        write!(f, "{number:.*} {name}", usize::from(number < 9.95 && unit > 1e-9))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::cases;

    proptest! {
        #![proptest_config(cases(1000))]

        #[test]
        fn a_bucket_is_at_most_a_quarter_wide(nanos in (0_u32..41).prop_flat_map(|bits| 0..1_u64 << bits)) {
            let time = Duration::from_nanos(nanos);
            let limit = limit(u32::try_from(bucket(nanos)).unwrap());
            prop_assert!(time < limit, "{time:?} is in the bucket below {limit:?}");
            prop_assert!(limit <= time + (time / 4).max(Duration::from_nanos(1)), "{time:?} {limit:?}");
        }

        #[test]
        fn any_counts_have_quantiles(
            counts in proptest::collection::vec(any::<u64>(), 0..BUCKETS + 2),
            share in any::<f64>(),
        ) {
            let mut sum = Histogram::of(counts.into_iter());
            sum += &sum.clone();
            prop_assert_eq!(sum.quantile(share).is_some(), sum.count() > 0);
            prop_assert!(sum.quantile(0.2) <= sum.quantile(0.8));
            prop_assert!(!sum.to_string().is_empty());
        }
    }

    #[test]
    fn buckets_have_no_gap() {
        let mut of = (0..1_u64 << 12).map(bucket).collect::<Vec<_>>();
        of.dedup();
        assert!(of.iter().copied().eq(0..of.len()));
        assert_eq!((bucket(u64::MAX), bucket(1 << 42)), (BUCKETS - 1, BUCKETS - 1));
    }

    #[test]
    fn quantiles_are_of_all_times() {
        let mut times = Histogram::default();
        assert_eq!((times.quantile(0.5), times.to_string()), (None, "none".to_owned()));
        times.add(1_000_000, 90);
        times.add(40_000_000, 9);
        times.add(100_000_000, 1);
        assert_eq!(times.count(), 100);
        let within = |share| times.quantile(share).unwrap().as_millis();
        assert_eq!((within(0.0), within(0.9), within(0.91), within(0.99), within(1.0)), (1, 1, 41, 41, 100));
        let line = "50 % within 1.0 ms, 90 % within 1.0 ms, 99 % within 42 ms, all within 101 ms";
        assert_eq!(times.to_string(), line);
        times.add(u64::MAX, 1);
        assert_eq!(times.quantile(1.0), Some(Duration::MAX));
    }
}

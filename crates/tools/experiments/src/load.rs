//! How much of the cores other programs use while an experiment runs.

use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use procfs::{CurrentSI, KernelStats};

/// The share of all cores, from 0 to 1, that other programs used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OtherLoad(f64);

/// More than this share can turn a comparison of times round.
const HEAVY: f64 = 0.15;

impl OtherLoad {
    #[cfg(test)]
    pub(crate) const NONE: Self = Self(0.0);
    #[cfg(test)]
    pub(crate) const ALL: Self = Self(1.0);

    /// Runs `experiment`, and says what others used meanwhile; nothing where the kernel does not tell.
    pub(crate) fn during<T>(experiment: impl FnOnce() -> T) -> (T, Self) {
        let (before, start) = (Reading::take(), Instant::now());
        let result = experiment();
        let cores = available_parallelism().map_or(1, usize::from);
        let share = |before: Reading| Some(before.others_until(Reading::take()?, start.elapsed(), cores));
        (result, before.and_then(share).unwrap_or(Self(0.0)))
    }

    pub(crate) fn is_heavy(self) -> bool {
        self.0 > HEAVY
    }
}

/// CPU time used until now.
#[derive(Clone, Copy)]
struct Reading {
    /// By all programs.
    machine: Duration,
    /// By this process, and those of its children that have ended.
    own: Duration,
}

impl Reading {
    fn take() -> Option<Self> {
        let total = KernelStats::current().ok()?.total;
        let rest = [total.irq_duration(), total.softirq_duration(), total.steal_duration()];
        let machine = total.user_duration() + total.nice_duration() + total.system_duration();
        let own = used(UsageWho::RUSAGE_SELF)? + used(UsageWho::RUSAGE_CHILDREN)?;
        Some(Self { machine: machine + rest.into_iter().flatten().sum::<Duration>(), own })
    }

    fn others_until(self, after: Self, elapsed: Duration, cores: usize) -> OtherLoad {
        let machine = after.machine.saturating_sub(self.machine);
        let others = machine.saturating_sub(after.own.saturating_sub(self.own)).as_secs_f64();
        #[allow(clippy::cast_precision_loss)] // no machine has 2^52 cores
        let available = elapsed.as_secs_f64() * cores as f64;
        OtherLoad(others / available.max(f64::MIN_POSITIVE))
    }
}

fn used(who: UsageWho) -> Option<Duration> {
    let usage = getrusage(who).ok()?;
    let micros = |time: TimeVal| time.tv_sec() * 1_000_000 + time.tv_usec();
    Some(Duration::from_micros((micros(usage.user_time()) + micros(usage.system_time())).try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_work_is_no_load_of_others() {
        let reading = |machine, own| Reading {
            machine: Duration::from_millis(machine),
            own: Duration::from_millis(own),
        };
        let is_heavy = |machine: u64, own: u64| {
            let before = reading(5000, 3000);
            before.others_until(reading(5000 + machine, 3000 + own), Duration::from_secs(1), 2).is_heavy()
        };
        assert!(!is_heavy(2000, 2000) && !is_heavy(0, 0) && !is_heavy(100, 2000));
        assert!(is_heavy(2000, 1000) && is_heavy(1000, 0) && !is_heavy(1100, 1000));
        assert!(Reading::take().is_some());
    }
}

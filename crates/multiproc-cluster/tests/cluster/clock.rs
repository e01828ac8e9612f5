//! How long something takes, on a machine that may be busy.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::thread;
use std::time::{Duration, Instant};

/// Measures the time that something takes, without that in which the machine did not run this program.
pub(crate) struct Clock {
    started: Instant,
    is_over: Arc<AtomicBool>,
    late: Arc<AtomicU64>,
}

impl Clock {
    pub(crate) fn start() -> Self {
        let clock = Self { started: Instant::now(), is_over: Arc::default(), late: Arc::default() };
        let (is_over, late) = (Arc::clone(&clock.is_over), Arc::clone(&clock.late));
        thread::spawn(move || {
            let pause = Duration::from_millis(5);
            while !is_over.load(Relaxed) {
                let before = Instant::now();
                thread::sleep(pause);
                let excess = before.elapsed().saturating_sub(pause).as_millis();
                late.fetch_add(u64::try_from(excess).unwrap(), Relaxed);
            }
        });
        clock
    }

    /// Not more than the lease and five seconds.
    pub(crate) fn check(&self, lease: Duration) {
        let (took, late) = (self.started.elapsed(), Duration::from_millis(self.late.load(Relaxed)));
        // Broker and agents are late, too: three times the delay that this program has itself.
        let bound = lease + Duration::from_secs(5) + late * 3;
        assert!(took <= bound, "{took:?}, where {bound:?} are allowed");
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.is_over.store(true, Relaxed);
    }
}

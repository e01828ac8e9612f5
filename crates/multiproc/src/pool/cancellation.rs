//! `is_cancelled`: whether the pool asks the running task to end.

use std::sync::OnceLock;

use super::worker_rings::WorkerRings;

/// In a pool's worker, the memory that it shares with the pool.
static RINGS: OnceLock<WorkerRings> = OnceLock::new();

/// Whether the running task of this worker should end: it was [cancelled](crate::pool::TaskHandle::cancel), or
/// has exceeded its [time limit](crate::pool::CallOptions::timeout), and its call has a
/// [grace](crate::pool::CallOptions::grace). Otherwise, and in every process but a pool's worker, false.
///
/// Reads one word in shared memory, in about a nanosecond, from any thread of the worker. Does not block.
///
/// ```
/// use multiproc::Pool;
/// use std::time::Duration;
///
/// /// Returns as soon as it is asked to end, and leaves its worker alive.
/// fn count() -> u64 {
///     let mut steps = 0;
///     while !multiproc::is_cancelled() {
///         steps += 1;
///         std::thread::sleep(Duration::from_millis(1));
///     }
///     steps
/// }
///
/// fn main() -> multiproc::Result<()> {
///     multiproc::init();
///     let pool = Pool::new(1)?;
///     let worker = pool.apply(std::process::id, ())?;
///     let task = pool.options().grace(Duration::from_secs(60)).submit(count, ())?;
///     while !task.is_running() {
///         std::thread::yield_now();
///     }
///     assert!(task.cancel());
///     assert!(task.get().unwrap_err().is_cancelled());
///     assert_eq!(pool.apply(std::process::id, ())?, worker);
///     Ok(())
/// }
/// ```
pub fn is_cancelled() -> bool {
    RINGS.get().is_some_and(WorkerRings::is_cancelled)
}

/// This process is a worker with these rings.
pub(super) fn set_rings(rings: WorkerRings) {
    let _ = RINGS.set(rings);
}

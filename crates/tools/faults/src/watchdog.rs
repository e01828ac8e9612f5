//! A watchdog: turns a hang into a failure.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

/// An operation that takes longer than this hangs.
const LIMIT: Duration = Duration::from_secs(30);

/// The current operation of each of several threads, and its start.
#[derive(Clone)]
pub(crate) struct Watchdog(Arc<Mutex<Vec<Doing>>>);

/// The current operation of a thread, and its start.
type Doing = Option<(String, Instant)>;

impl Watchdog {
    /// Watches this many threads. If one of them hangs, calls `tell` with its operation and ends the program.
    pub(crate) fn new(threads: usize, tell: impl Fn(&str) + Send + 'static) -> Result<Self> {
        let watchdog = Self(Arc::new(Mutex::new(vec![None; threads])));
        let watched = watchdog.clone();
        thread::Builder::new().name("watchdog".to_owned()).spawn(move || {
            loop {
                thread::sleep(Duration::from_millis(500));
                let hangs = |(_, since): &&(String, Instant)| since.elapsed() > LIMIT;
                if let Some((what, _)) = watched.lock().iter().flatten().find(hangs) {
                    tell(what);
                    std::process::exit(1);
                }
            }
        })?;
        Ok(watchdog)
    }

    /// Sets the current operation of a thread.
    pub(crate) fn note(&self, thread: usize, what: Option<String>) {
        if let Some(place) = self.lock().get_mut(thread) {
            *place = what.map(|what| (what, Instant::now()));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Doing>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

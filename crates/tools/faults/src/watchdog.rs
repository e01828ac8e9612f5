//! Turns a hang into a failure.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

/// What takes longer than this hangs.
const LIMIT: Duration = Duration::from_secs(30);

/// What each of several threads is doing, and since when.
#[derive(Clone)]
pub(crate) struct Watchdog(Arc<Mutex<Vec<Doing>>>);

/// What a thread is doing, and since when.
type Doing = Option<(String, Instant)>;

impl Watchdog {
    /// Watches so many threads. Should one of them hang, `tell` is called with what it was doing, and the
    /// program ends.
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

    /// From now on the thread does this, or nothing.
    pub(crate) fn note(&self, thread: usize, what: Option<String>) {
        if let Some(place) = self.lock().get_mut(thread) {
            *place = what.map(|what| (what, Instant::now()));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Doing>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! Feature `trace`: a timeline of all processes of the program, in a file.
//!
//! Each process writes its events as lines of JSON (`event`) to a buffer in shared memory (`buffers`), from
//! where the first process takes them to the file. A child gets the buffers with its bootstrap message.
//! `docs/timeline.md` describes the events.

mod buffer;
mod buffers;
mod event;
mod exits;
mod file;
mod items;
mod overflow;
mod submissions;
mod tracer;

use std::env::var_os;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, Once, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use self::buffers::Buffers;
use self::file::Writer;
use self::tracer::{Tracer, tracer};
use crate::error::{Error, Result};
use crate::impl_serde::impl_serde;
use crate::ipc::link;
use crate::ipc::wire::SharedFd;
use crate::sys::ancestors::is_open_in_an_ancestor;
use crate::sys::at_exit::at_exit;
use crate::sys::clock;
use crate::sys::poll::Deadline;
use crate::sys::privileges::is_secure;
use crate::sys::process_local::ProcessLocal;
use crate::sys::signals::with_signals_blocked;
use crate::sys::stdio::print_error;
use crate::sys::thread_id::ThreadId;

pub(crate) use self::exits::{cancelled, died, exited, restarted, task, timed_out};
pub(crate) use self::items::Items;
pub(crate) use self::submissions::{Submission, Submissions, Tag};

/// How often the events of all processes are written to the file.
const FLUSH_INTERVAL: Duration = Duration::from_millis(100);

/// How often the first process looks for processes that have ended after their parents.
const ORPHANS_INTERVAL: Duration = Duration::from_secs(1);

/// How long a program that exits waits for a process that is stopped while it writes an event, and for a reader
/// of the file, which is a pipe, that reads nothing.
const EXIT_TIME: Duration = Duration::from_secs(1);

/// A shorter wait is not worth a slice.
const MIN_WAIT: u64 = 1_000;

/// Writes a timeline of this process, and of the children that it starts from now on, to a file: which
/// process ran what and when, waited, and died. The file opens in Perfetto (<https://ui.perfetto.dev>) and in
/// `chrome://tracing`. An existing file is overwritten.
///
/// The environment variable `MULTIPROC_TRACE=FILE.json` does the same from the start, for any program that
/// calls [`init`](crate::init()).
///
/// The file has all events up to 0.1 s ago, and all of them when the program has exited. A killed program
/// leaves a file that can be opened, too. At most 512 processes at a time have events.
///
/// Call it in the first process of the program, after [`init`](crate::init()). In a child, and before `init`, it
/// makes a file without the events of children.
///
/// Starts a thread (`mp-trace`), as the first child of a traced program does; before `init`, only that child does. Does
/// not block, beyond opening the file.
///
/// # Errors
/// When the file cannot be written, or another program writes its trace there; and when there is a trace already.
///
/// ```
/// use multiproc::Pool;
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     multiproc::init();
///     let file = std::env::temp_dir().join(format!("trace-{}.json", std::process::id()));
///     multiproc::start_trace(&file)?;
///     let pool = Pool::new(2)?;
///     assert_eq!(pool.map(|n: u32| n + 1, [1, 2])?, [2, 3]);
///     pool.join();
///     assert!(std::fs::read_to_string(&file)?.starts_with('['));
///     std::fs::remove_file(&file)?;
///     Ok(())
/// }
/// ```
pub fn start_trace(path: impl AsRef<Path>) -> Result<()> {
    start(path.as_ref())?;
    // Workers that were started before may keep this process busy: it need not start a child any more.
    tracer().into_iter().for_each(flush_from_time_to_time);
    Ok(())
}

/// Not before `init`: a fork server runs that part of `main`, too, and has no threads.
static MAY_START_THREADS: AtomicBool = AtomicBool::new(false);

fn start(path: &Path) -> Result<()> {
    static STARTING: ProcessLocal<Mutex<()>> = ProcessLocal::new(|_| Mutex::default());
    // One at a time: else both threads would make their files, and one file would stay empty.
    let _starting = STARTING.get().lock().unwrap_or_else(PoisonError::into_inner);
    let taken = || Error::invalid("a trace of this program is being written already");
    if tracer().is_some() {
        return Err(taken());
    }
    if Tracer::is_inherited() {
        return Err(Error::invalid("a forked copy of a process that writes a trace can write none"));
    }
    let buffers = Buffers::create()?;
    let writer = Writer::create(path, &buffers)?;
    Tracer::begin(&buffers, "main", None, Some(writer)).ok_or_else(taken)?;
    at_exit(flush_at_exit);
    Ok(())
}

/// Starts the trace that the environment asks for. A program that is not to be trusted with its environment,
/// since it has other privileges than its caller, writes none.
pub(crate) fn start_from_environment() {
    MAY_START_THREADS.store(true, Relaxed);
    let Some(path) = var_os("MULTIPROC_TRACE").filter(|path| !path.is_empty() && !is_secure()) else {
        return;
    };
    let path = Path::new(&path);
    // A program that a traced one executes has its environment, and shall not speak of it.
    if let Err(error) = start(path)
        && !is_open_in_an_ancestor(path)
    {
        print_error(&format!("multiproc: no trace (MULTIPROC_TRACE): {error}"));
    }
}

/// What a child needs to take part in the trace.
pub(crate) struct TraceLink {
    buffers: Buffers,
    /// When the start was requested, and by whom.
    requested_at: u64,
    parent: u64,
}

impl_serde!(struct TraceLink { buffers, requested_at, parent });

/// Appends what a child needs to its bootstrap message; returns its descriptor. A zygote has no task, and no
/// events.
pub(crate) fn encode_link(has_task: bool, body: &mut Vec<u8>) -> Result<Vec<SharedFd>> {
    let own = tracer().filter(|_| has_task).map(|tracer| {
        flush_from_time_to_time(tracer);
        let buffers = tracer.buffers.clone();
        let parent = ThreadId::current_and_process().1.bits();
        TraceLink { buffers, requested_at: clock::nanos(), parent }
    });
    link::encode(own.as_ref(), body)
}

/// Takes that from the front of the bytes, and from the end of the descriptors.
pub(crate) fn decode_link<'a>(
    bytes: &'a [u8],
    descriptors: &mut Vec<OwnedFd>,
) -> Result<(Option<TraceLink>, &'a [u8])> {
    link::decode(bytes, descriptors)
}

/// Makes this process a part of the trace. Its start ends here.
pub(crate) fn install(link: TraceLink, name: &str) {
    let TraceLink { buffers, requested_at, parent } = link;
    let parent = ThreadId::from_bits(parent);
    if let Some(tracer) = Tracer::begin(&buffers, name, Some(parent), None) {
        tracer.put(tracer.slice_since("start", "start", requested_at).count("parent", parent.number()));
    }
}

/// Gives this process the name of a pool's worker: that of its process, and its index.
pub(crate) fn name_worker(name: &str, index: usize) {
    if let Some(tracer) = tracer() {
        tracer.name_process(&format!("{name} {index}"));
    }
}

/// Calls `wait`, which may block, and writes a slice if it does.
#[inline]
pub(crate) fn waiting<R>(name: &str, wait: impl FnOnce() -> R) -> R {
    match tracer() {
        None => wait(),
        Some(tracer) => {
            let begun = clock::nanos();
            let result = wait();
            if clock::nanos() - begun >= MIN_WAIT {
                tracer.put(tracer.slice_since("wait", name, begun));
            }
            result
        }
    }
}

/// Starts the thread of the first process that takes the events of all processes to the file.
fn flush_from_time_to_time(tracer: &'static Tracer) {
    static STARTED: Once = Once::new();
    if let Some(writer) = tracer.writer.as_ref().filter(|_| MAY_START_THREADS.load(Relaxed)) {
        STARTED.call_once(|| {
            let flush = || {
                let mut checked = Instant::now();
                loop {
                    if checked.elapsed() >= ORPHANS_INTERVAL {
                        tracer.release_orphans();
                        checked = Instant::now();
                    }
                    if tracer.flush(writer, Deadline::now()) {
                        writer.buffers().wait(FLUSH_INTERVAL);
                    } else {
                        writer.wait_for_room(Deadline::after(FLUSH_INTERVAL));
                    }
                }
            };
            let thread = thread::Builder::new().name("mp-trace".to_owned()).stack_size(64 * 1024);
            // Without it, there are events until the buffers are full.
            let _ = with_signals_blocked(|| thread.spawn(flush));
        });
    }
}

extern "C" fn flush_at_exit() {
    flush_file();
}

/// In a process that has begun a trace: takes all events to the file. Waits for [`EXIT_TIME`] at most, each, for a
/// process that writes one, and for a file that blocks to go on.
pub(crate) fn flush_file() {
    if let Some((tracer, writer)) = tracer().and_then(|tracer| Some((tracer, tracer.writer.as_ref()?))) {
        tracer.release_orphans();
        while !tracer.flush(writer, Deadline::limit(EXIT_TIME))
            && writer.wait_for_room(Deadline::limit(EXIT_TIME))
        {}
    }
}

#[cfg(test)]
mod tests;

//! The end of a round: disarms the failpoint, takes the hit, and continues the process that the hit stopped.
//!
//! A hit can come late. The zygote reports a fork before it reaches `zygote:fork-reported`, so a scenario may
//! end while the zygote is still between the failpoint's countdown, the record of the hit, and the signal.
//! The round waits for that: if the next round were armed first, arming would erase the record, and a process
//! stopped by a hit without a record is never continued.

use std::fs;
use std::process;
use std::sync::Mutex;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use faults::Row;
use multiproc::failpoints::{Action, Controller, Hit, now};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, gettid};

use crate::target::{TargetProcess, descendants_of};

/// How long a stopped process stays stopped.
const PAUSE: Duration = Duration::from_millis(20);
/// A round that takes longer than this hangs.
const LIMIT: Duration = Duration::from_secs(30);
/// How long a killed process may take to die.
const EXIT_GRACE: Duration = Duration::from_secs(2);
const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// Starts the thread that continues each stopped process after [`PAUSE`].
pub(super) fn continue_stopped(control: &'static Controller) -> Result<()> {
    let watch = move || {
        loop {
            thread::sleep(POLL_INTERVAL);
            // A hit is recorded before its process stops, so the state is read again and again.
            if let Some(hit) = control.hit_process()
                && now().saturating_sub(hit.at) >= PAUSE
                && is_stopped(hit.pid)
            {
                let _ = kill(Pid::from_raw(hit.pid.cast_signed()), Signal::SIGCONT);
            }
        }
    };
    thread::Builder::new().name("continue".to_owned()).spawn(watch)?;
    Ok(())
}

/// Disarms the failpoint. Gives the hit of this round, once its process has continued or is dead.
pub(super) fn end(control: &Controller, action: Action) -> Option<Hit> {
    control.disarm();
    wait_until_quiescent();
    let hit = control.hit_process()?;
    match action {
        Action::Stop => {
            while is_alive(hit.pid) && !(control.resumed() && has_continued(hit.pid)) {
                thread::sleep(POLL_INTERVAL);
            }
        }
        // The parent would still send a bootstrap message to a dying preforked child.
        Action::Kill => {
            if let Some(dying) = TargetProcess::open(hit.pid) {
                let _ = dying.has_ended(EXIT_GRACE); // if it has not, the checks that follow fail
            }
        }
        Action::Refuse => {}
    }
    Some(hit)
}

/// Waits until every other thread of this process and of its descendants has slept, stopped or ended once.
///
/// A thread makes no system call between the failpoint's countdown and the record of its hit. So a thread
/// that has slept since the failpoint was disarmed has recorded its hit, or finds the failpoint disarmed.
fn wait_until_quiescent() {
    let this_thread = gettid().as_raw().cast_unsigned();
    let processes = descendants_of(process::id()).into_iter().chain([process::id()]);
    let mut threads: Vec<_> =
        processes.flat_map(|pid| threads_of(pid).into_iter().map(move |tid| (pid, tid))).collect();
    threads.retain(|&(_, tid)| tid != this_thread);
    loop {
        // `D` can be a page fault within the failpoint.
        threads.retain(|&(pid, tid)| matches!(state(pid, tid), Some('R' | 'D')));
        if threads.is_empty() {
            return;
        }
        thread::sleep(POLL_INTERVAL);
    }
}

fn threads_of(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    threads.filter_map(|thread| thread.file_name().to_str()?.parse().ok()).collect()
}

/// Whether a process that has sent itself SIGSTOP has stopped and continued.
///
/// The kernel may give the signal to another thread of the process. The thread that sent it then runs on for
/// a moment, and [`Controller::resumed`] says so before the process stops.
fn has_continued(pid: u32) -> bool {
    // In this order: once the signal is not pending, the thread that took it is in state `T` until SIGCONT.
    !is_stop_pending(pid) && !is_stopped(pid)
}

fn is_stop_pending(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:"));
    let pending = pending.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    pending & 1 << (Signal::SIGSTOP as u32 - 1) != 0
}

fn is_stopped(pid: u32) -> bool {
    threads_of(pid).into_iter().any(|tid| state(pid, tid) == Some('T'))
}

fn is_alive(pid: u32) -> bool {
    state(pid, pid).is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

/// The thread's state as in /proc/PID/task/TID/stat; `None` if the thread is gone.
fn state(pid: u32, tid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/task/{tid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Ends the program with an error that names the hung round, unless the result is dropped in time.
pub(super) fn limit(what: String) -> mpsc::Sender<()> {
    static WHAT: Mutex<()> = Mutex::new(());
    let (running, watch) = mpsc::channel();
    thread::spawn(move || {
        if watch.recv_timeout(LIMIT) == Err(RecvTimeoutError::Timeout) {
            let _one_at_a_time = WHAT.lock();
            eprintln!("this hangs: {what}");
            let mut row = Row::new("failpoints", "a hang");
            row.fail(what);
            row.print();
            process::exit(1);
        }
    });
    running
}

//! Lets those go on that a fault has stopped, and ends the program where something hangs.

use std::sync::Mutex;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use faults::Row;
use multiproc::failpoints::Controller;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// So long does one that a fault has stopped stay so.
const PAUSE: Duration = Duration::from_millis(20);
/// What takes longer than this hangs.
const LIMIT: Duration = Duration::from_secs(30);

/// From now on, whoever is stopped goes on after a while.
pub(super) fn watch(control: &'static Controller) -> Result<()> {
    let watch = move || {
        let mut last = None;
        loop {
            thread::sleep(Duration::from_millis(1));
            let Some(struck) = control.hit_process() else { continue };
            if last != Some(struck.at) {
                last = Some(struck.at);
                thread::sleep(PAUSE);
                if control.hit_process().is_some_and(|now| now.at == struck.at) && is_stopped(struck.pid) {
                    let _ = kill(Pid::from_raw(struck.pid.cast_signed()), Signal::SIGCONT);
                }
            }
        }
    };
    thread::Builder::new().name("continue".to_owned()).spawn(watch)?;
    Ok(())
}

/// Waits until the one that was stopped has gone on, or is no more. Nobody may have waited for it: a fork
/// server works ahead.
pub(super) fn await_end(control: &Controller, pid: u32) {
    while !control.resumed() && lives(pid) {
        thread::sleep(Duration::from_millis(1));
    }
}

fn lives(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
}

fn is_stopped(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
}

/// Ends the program, saying what hangs, unless the result is dropped in time.
pub(super) fn limit(what: String) -> mpsc::Sender<()> {
    static WHAT: Mutex<()> = Mutex::new(());
    let (running, watch) = mpsc::channel();
    thread::spawn(move || {
        if watch.recv_timeout(LIMIT) == Err(RecvTimeoutError::Timeout) {
            let _one_at_a_time = WHAT.lock();
            eprintln!("this hangs: {what}");
            let mut line = Row::new("failpoints", "a hang");
            line.fail(what);
            line.print();
            std::process::exit(1);
        }
    });
    running
}

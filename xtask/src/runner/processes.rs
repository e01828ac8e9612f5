//! Starts programs so that every process of theirs can be found again, and finds those that outlive them.
//!
//! A process belongs to a run if it carries the mark of the run in its environment or is in its process
//! group. `cargo xtask` makes itself a subreaper, so that an orphan becomes its child and can be reaped.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    io,
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, ExitStatus},
    sync::{Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::{
        prctl,
        signal::{Signal, kill, killpg},
        wait::{Id, WaitPidFlag, waitid, waitpid},
    },
    unistd::Pid,
};

use super::Process;

/// The environment variable that carries the mark.
pub(crate) const RUN_ENV: &str = "MULTIPROC_VERIFY_RUN";

/// How long a killed process may take to be gone on a busy machine.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// The programs that were started and not yet reaped, each the leader of a process group.
///
/// Starting and reaping a process take this lock, so that an orphan can be told from a program that was
/// started this moment. For the same reason the id of an orphan cannot pass to another process meanwhile.
static STARTED: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

pub(crate) fn adopt_orphans() -> io::Result<()> {
    Ok(prctl::set_child_subreaper(true)?)
}

/// Starts a program in a process group of its own.
pub(crate) fn start(command: &mut Command, mark: &Path) -> io::Result<Child> {
    let mut started = started();
    let child = command.env(RUN_ENV, mark).process_group(0).spawn()?;
    started.insert(child.id().cast_signed());
    Ok(child)
}

/// Waits for the program to exit. After `limit` it kills the process group and returns `false`. The program
/// is not reaped yet, so that no other process can get its id.
pub(crate) fn wait(child: &Child, limit: Duration) -> io::Result<bool> {
    let pid = pid_of(child);
    let (ended, end) = mpsc::channel::<()>();
    thread::scope(|scope| {
        let watchdog = scope.spawn(move || {
            let late = end.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout);
            if late {
                _ = (killpg(pid, Signal::SIGKILL), kill(pid, Signal::SIGKILL));
            }
            late
        });
        while let Err(error) = waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) {
            if error != Errno::EINTR {
                return Err(error.into());
            }
        }
        drop(ended);
        Ok(watchdog.join().is_ok_and(|late| !late))
    })
}

/// Gives the other processes of an ended program time to exit, then kills them and returns their names.
pub(crate) fn clear_up(child: &Child, mark: &Path, grace: Duration) -> Vec<Process> {
    let leaked = outliving(child, mark, grace);
    if !leaked.is_empty() {
        living_after(KILL_TIMEOUT, || kill_living(&started(), of_run(child, mark)));
    }
    leaked
}

/// The other processes of an ended program that still live after this time. Returns sooner if none does.
pub(crate) fn outliving(child: &Child, mark: &Path, time: Duration) -> Vec<Process> {
    living_after(time, || living(&started(), of_run(child, mark)))
}

/// Whether a process is of this run, by its group and its mark.
fn of_run(child: &Child, mark: &Path) -> impl Fn(i32, Option<&Path>) -> bool {
    let pid = pid_of(child).as_raw();
    move |group, its_mark| group == pid || its_mark == Some(mark)
}

/// Reaps the program that has ended.
pub(crate) fn reap(child: &mut Child) -> io::Result<ExitStatus> {
    let mut started = started();
    let status = child.wait()?;
    started.remove(&child.id().cast_signed());
    Ok(status)
}

/// Kills every process of every run whose mark begins with `marks`, and lets no program start again.
pub(crate) fn kill_everything(marks: &Path) {
    let started = started();
    living_after(KILL_TIMEOUT, || {
        kill_living(&started, |group, its_mark| {
            started.contains(&group) || its_mark.is_some_and(|mark| mark.starts_with(marks))
        })
    });
    // The threads that wait for these programs would start the next ones.
    std::mem::forget(started);
}

fn started() -> MutexGuard<'static, BTreeSet<i32>> {
    STARTED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(child.id().cast_signed())
}

/// Polls which processes live, at once and with growing pauses, until none does or the time is up.
fn living_after(time: Duration, living: impl Fn() -> Vec<Process>) -> Vec<Process> {
    let deadline = Instant::now() + time;
    let mut pause = Duration::from_millis(1);
    loop {
        let processes = living();
        if processes.is_empty() || Instant::now() >= deadline {
            return processes;
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

fn kill_living(started: &BTreeSet<i32>, mine: impl Fn(i32, Option<&Path>) -> bool) -> Vec<Process> {
    let processes = living(started, mine);
    for process in &processes {
        _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
    }
    processes
}

/// The living processes that are `mine` by their group and mark.
///
/// All count as dead only after a second poll: during the first, a process may end before its turn and
/// leave another behind that was not on the list yet.
fn living(started: &BTreeSet<i32>, mine: impl Fn(i32, Option<&Path>) -> bool) -> Vec<Process> {
    let found = scan(started, &mine);
    if found.is_empty() { scan(started, &mine) } else { found }
}

/// Lists every process once, and reaps dead orphans.
fn scan(started: &BTreeSet<i32>, mine: impl Fn(i32, Option<&Path>) -> bool) -> Vec<Process> {
    let own_pid = std::process::id().cast_signed();
    let mut found = Vec::new();
    for process in procfs::process::all_processes().into_iter().flatten().flatten() {
        let Ok(stat) = process.stat() else { continue };
        if matches!(stat.state, 'Z' | 'X') {
            if stat.ppid == own_pid && !started.contains(&stat.pid) {
                _ = waitpid(Pid::from_raw(stat.pid), Some(WaitPidFlag::WNOHANG));
            }
            continue;
        }
        let mark = process.environ().ok().and_then(|mut environment| environment.remove(OsStr::new(RUN_ENV)));
        if mine(stat.pgrp, mark.as_deref().map(Path::new)) {
            let words = process.cmdline().unwrap_or_default().join(" ");
            let command = if words.is_empty() { stat.comm } else { words };
            found.push(Process { pid: stat.pid, command });
        }
    }
    found
}

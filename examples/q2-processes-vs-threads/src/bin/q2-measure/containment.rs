//! Containment of faults. A fault that would end this program happens in a child.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use experiments::measure::{median, show};
use experiments::{Finding, crash};
use multiproc::{Connection, Error, Process, pipe, queue};
use nix::sys::signal::Signal;

pub(crate) fn panic() -> Result<Finding> {
    let thread_contained = Process::spawn(survives_its_thread, ())?.join()?;
    let child = Process::spawn(panics, ())?.join();
    let child_contained = child.is_err_and(|error| error.is_panic());
    let fate = |contained| if contained { "an error" } else { "more than that" };
    let figure = format!("thread: {}, child: {}", fate(thread_contained), fate(child_contained));
    Ok(Finding::new(thread_contained && child_contained, figure))
}

fn survives_its_thread() -> bool {
    crash::suppress_diagnostics();
    thread::spawn(panics).join().is_err()
}

fn panics() {
    crash::suppress_diagnostics();
    panic!("this is meant to happen");
}

pub(crate) fn child_segfault() -> Result<Finding> {
    let killed_by = signal(Process::spawn(crash::segfault, ())?.join());
    // That this line is reached is the claim; that another child works shows that we are in good health.
    let well = Process::spawn(|number: u64| number.pow(3), (4,))?.join()? == 64;
    let figure = format!("child: {}; we go on", name(killed_by));
    Ok(Finding::new(killed_by == Some(Signal::SIGSEGV) && well, figure))
}

pub(crate) fn thread_segfault() -> Result<Finding> {
    let killed_by = signal(Process::spawn(would_survive_its_thread, ())?.join());
    let figure = format!("whole process: {}", name(killed_by));
    Ok(Finding::new(killed_by == Some(Signal::SIGSEGV), figure))
}

fn would_survive_its_thread() {
    let _ = thread::spawn(crash::segfault).join();
}

pub(crate) fn endless_child() -> Result<Finding> {
    let mut as_expected = true;
    let time = median(5, || {
        let (ours, theirs) = pipe::<(), ()>()?;
        let child = Process::spawn(spin, (theirs,))?;
        ours.recv().context("the child ended before its time")?;
        let start = Instant::now();
        child.kill()?;
        as_expected &= signal(child.join()) == Some(Signal::SIGKILL);
        Ok(start.elapsed())
    })?;
    Ok(Finding::new(as_expected, format!("SIGKILL, over after {}", show(time))))
}

fn spin(parent: Connection<(), ()>) -> Result<(), Error> {
    parent.send(())?;
    loop {
        std::hint::spin_loop();
    }
}

/// That the standard library has no call to end a thread can be read, not measured. What can be measured is
/// that letting go of one does not end it.
pub(crate) fn endless_thread() -> Result<Finding> {
    let runs_on = Process::spawn(lets_go_of_a_thread, ())?.join()?;
    Ok(Finding::new(runs_on, if runs_on { "still counting" } else { "it has stopped" }))
}

/// Does the thread still run? It ends with the process that this is run in.
fn lets_go_of_a_thread() -> bool {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let thread = thread::spawn(|| {
        loop {
            COUNT.fetch_add(1, Ordering::Relaxed); // it looks at nothing that could tell it to stop
        }
    });
    drop(thread);
    sleep(Duration::from_millis(50));
    let seen = COUNT.load(Ordering::Relaxed);
    sleep(Duration::from_millis(50));
    COUNT.load(Ordering::Relaxed) > seen
}

/// The receiver needs no sentinel: the iteration ends when the last sender is gone, dropped or killed.
pub(crate) fn killed_writer() -> Result<Finding> {
    let (sender, items) = queue::bounded::<u32>(16)?;
    let child = Process::spawn(send_two, (sender,))?;
    let received = [items.recv()?, items.recv()?].len();
    child.kill()?;
    let late = items.iter().count(); // ends, which is the claim
    Ok(Finding::new(late == 0, format!("{received} items, then the end")))
}

/// Would send more, some day.
fn send_two(items: queue::Sender<u32>) -> Result<(), Error> {
    items.send(1)?;
    items.send(2)?;
    loop {
        thread::park();
    }
}

fn signal<T>(outcome: multiproc::Result<T>) -> Option<Signal> {
    outcome.err()?.signal()?.try_into().ok()
}

fn name(signal: Option<Signal>) -> &'static str {
    signal.map_or("no signal", Signal::as_str)
}

//! Children that go down, and a parent that goes on.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use experiments::measure::{median, millis, show};
use experiments::{Chart, Finding, crash};
use multiproc::{Connection, Process, pipe};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

static NOTICED: Chart = Chart {
    title: "From the child's end, or the order to end, until the parent knows",
    quantity: "time",
    unit: "ms",
    along: "",
    logarithmic: false,
};

#[derive(Clone, Copy, Serialize, Deserialize)]
enum Death {
    Segfault,
    Abort,
    StackOverflow,
    Killed,
}

pub(crate) fn segfault() -> Result<Finding> {
    ends_alone(Death::Segfault, "segfault", Signal::SIGSEGV)
}

pub(crate) fn abort() -> Result<Finding> {
    ends_alone(Death::Abort, "abort", Signal::SIGABRT)
}

/// Rust notices that the stack is full, and aborts.
pub(crate) fn stack_overflow() -> Result<Finding> {
    ends_alone(Death::StackOverflow, "stack overflow", Signal::SIGABRT)
}

pub(crate) fn endless_loop() -> Result<Finding> {
    ends_alone(Death::Killed, "endless loop, killed", Signal::SIGKILL)
}

fn ends_alone(death: Death, label: &str, expected: Signal) -> Result<Finding> {
    let mut as_expected = true;
    let time = median(5, || {
        let (signal, time) = watch(death)?;
        as_expected &= signal == Some(expected as i32);
        Ok(time)
    })?;
    // That this line is reached is the claim; that another child works shows that the parent is in good
    // health.
    let parent_is_well = Process::spawn(|number: u64| number.pow(3), (4,))?.join()? == 64;
    let figure = format!("{expected}, known after {}", show(time));
    Ok(Finding::new(as_expected && parent_is_well, figure).point(&NOTICED, "", label, millis(time)))
}

/// Which signal the child died of, and how long it was until this process knew.
fn watch(death: Death) -> Result<(Option<i32>, std::time::Duration)> {
    let (ours, theirs) = pipe::<(), ()>()?;
    let child = Process::spawn(doomed, (theirs, death))?;
    ours.recv().context("the child ended before its time")?;
    let start = Instant::now();
    match death {
        Death::Killed => child.kill()?,
        _ => ours.send(())?,
    }
    let outcome = child.join();
    let time = start.elapsed();
    ensure!(outcome.is_err(), "the child survived");
    Ok((outcome.err().and_then(|error| error.signal()), time))
}

fn doomed(parent: Connection<(), ()>, death: Death) -> Result<(), multiproc::Error> {
    crash::suppress_diagnostics();
    parent.send(())?;
    match death {
        Death::Killed => loop {
            std::hint::spin_loop();
        },
        _ => parent.recv()?,
    }
    match death {
        Death::Segfault => crash::segfault(),
        Death::StackOverflow => crash::overflow_stack(),
        Death::Abort | Death::Killed => crash::abort(),
    }
    Ok(())
}

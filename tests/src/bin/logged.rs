//! Programs whose children log, which set a logger at different places. With `RUST_LOG`. A program that has
//! forked says who writes.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use log::{debug, error, info, trace};
use multiproc::{Process, Result};

/// Whether this is a forked copy of the first process.
static IS_COPY: AtomicBool = AtomicBool::new(false);

/// Logs at each level, and returns which of it was not dropped at once.
fn log_at_each_level() -> [bool; 4] {
    error!(target: "quiet", "one");
    info!(target: "app", "two");
    debug!(target: "app", "three");
    trace!(target: "app::loud", "four");
    [
        log::log_enabled!(target: "quiet", log::Level::Error),
        log::log_enabled!(target: "app", log::Level::Info),
        log::log_enabled!(target: "app", log::Level::Debug),
        log::log_enabled!(target: "app::loud", log::Level::Trace),
    ]
}

fn set_logger() {
    let format = |out: &mut env_logger::fmt::Formatter, record: &log::Record<'_>| {
        let name =
            if IS_COPY.load(Relaxed) { "copy".to_owned() } else { multiproc::current().name().to_owned() };
        writeln!(out, "{name} {} {}", record.target(), record.args())
    };
    env_logger::Builder::from_default_env().format(format).target(env_logger::Target::Stdout).init();
}

fn main() -> Result<()> {
    match std::env::args().nth(1).as_deref() {
        Some("before-init") => set_logger(),
        Some("at-start") => multiproc::at_start(set_logger)?,
        _ => {}
    }
    multiproc::init();
    if std::env::args().nth(1).is_none_or(|place| place != "before-init") {
        set_logger();
    }
    if std::env::args().nth(1).is_some_and(|place| place == "forked") {
        Process::spawn(|| info!(target: "app", "of the original"), ())?.join()?;
        // The library's threads sleep now, and hold no lock that the copy needs.
        if tests::fork_and_wait() {
            return Ok(());
        }
        IS_COPY.store(true, Relaxed);
    }
    let was_sent = Process::builder().name("Anna").spawn(log_at_each_level, ())?.join()?;
    println!("{was_sent:?}");
    Ok(())
}

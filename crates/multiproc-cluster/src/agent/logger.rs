//! Feature `log`: the agent's logger, which gets what tasks log.

use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use log::{LevelFilter, Log, Metadata, Record};

use super::{forwarder, print_line};
use crate::log_record::LogRecord;

struct AgentLogger {
    host: String,
    levels: Vec<Level>,
}

/// The beginning of targets, and the highest level of their records.
type Level = (String, LevelFilter);

static LOGGER: OnceLock<AgentLogger> = OnceLock::new();

/// Sets the logger, unless the program has one that calls [`agent`](super::agent) by itself. Workers that start after
/// that send it their records.
pub(super) fn install(host: &str) {
    let logger = LOGGER.get_or_init(|| {
        let levels = parse(&std::env::var("RUST_LOG").unwrap_or_default());
        AgentLogger { host: host.to_owned(), levels }
    });
    if log::set_logger(logger).is_ok() {
        let max = logger.levels.iter().map(|(_, level)| *level).max();
        log::set_max_level(max.unwrap_or(LevelFilter::Off));
        forwarder::enable();
    }
}

impl Log for AgentLogger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= level_of(&self.levels, metadata.target())
    }

    fn log(&self, record: &Record<'_>) {
        // What the library itself says is of records that it has lost.
        if (self.enabled(record.metadata()) || record.target() == "multiproc")
            && let Some(unwanted) = forwarder::pass_on(LogRecord::new(record, &self.host))
        {
            print(unwanted.to_string());
        }
    }

    fn flush(&self) {}
}

/// The most lines that wait to be printed.
const MAX_LINES: usize = 1024;

/// Prints a line in a thread of its own: standard error may block, and records of other tasks would wait behind it.
fn print(line: String) {
    static LINES: OnceLock<Option<SyncSender<String>>> = OnceLock::new();
    static LOST: AtomicU64 = AtomicU64::new(0);
    let start = || {
        let (lines, taken) = sync_channel::<String>(MAX_LINES);
        let print_all = move || {
            for line in taken {
                print_line(&line);
                match LOST.swap(0, Relaxed) {
                    0 => {}
                    count => print_line(&format!("{count} log records were faster than standard error")),
                }
            }
        };
        thread::Builder::new().name("mp-agent-print".to_owned()).spawn(print_all).is_ok().then_some(lines)
    };
    let is_taken = LINES.get_or_init(start).as_ref().is_some_and(|lines| lines.try_send(line).is_ok());
    LOST.fetch_add(u64::from(!is_taken), Relaxed);
}

/// The level of a target: that of the longest beginning.
fn level_of(levels: &[Level], target: &str) -> LevelFilter {
    let found = levels.iter().rev().find(|(beginning, _)| target.starts_with(&**beginning));
    found.map_or(LevelFilter::Off, |(_, level)| *level)
}

/// The levels of `RUST_LOG`, the shortest beginning first: `level`, `target` or `target=level`, between commas. What is
/// something else does not count. If nothing counts, the level is `info`, and `warn` for the client of the broker: the
/// agent itself says when it is connected.
fn parse(text: &str) -> Vec<Level> {
    let list = text.split('/').next().unwrap_or_default(); // a regular expression may follow
    let mut levels: Vec<Level> = list.split(',').map(str::trim).filter_map(level).collect();
    if levels.is_empty() {
        levels = vec![(String::new(), LevelFilter::Info), ("async_nats".to_owned(), LevelFilter::Warn)];
    }
    levels.sort_by_key(|(beginning, _)| beginning.len());
    levels
}

fn level(text: &str) -> Option<Level> {
    match text.split_once('=') {
        Some((target, level)) => Some((target.to_owned(), level.parse().ok()?)),
        None if text.is_empty() => None,
        None => Some(match text.parse() {
            Ok(level) => (String::new(), level),
            Err(_) => (text.to_owned(), LevelFilter::Trace),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_beginning_of_a_target_has_its_level() {
        let levels = parse("warn, app=debug,app::net=off,other/text");
        let level = |target| level_of(&levels, target);
        assert_eq!((level("x"), level("app::io")), (LevelFilter::Warn, LevelFilter::Debug));
        assert_eq!((level("app::net::tcp"), level("other")), (LevelFilter::Off, LevelFilter::Trace));
        assert_eq!(level_of(&parse("app=debug"), "x"), LevelFilter::Off);
    }

    #[test]
    fn without_a_level_that_counts_it_is_info() {
        for text in ["", ",", "app=loud"] {
            let levels = parse(text);
            assert_eq!(level_of(&levels, "app"), LevelFilter::Info, "{text}");
            assert_eq!(level_of(&levels, "async_nats::connector"), LevelFilter::Warn, "{text}");
        }
    }
}

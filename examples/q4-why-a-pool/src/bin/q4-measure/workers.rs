//! A pool as a bound on concurrency.

use std::collections::BTreeSet;
use std::thread::sleep;
use std::time::Duration;

use anyhow::Result;
use experiments::Finding;
use multiproc::{Pool, Process};
use serde::{Deserialize, Serialize};

use crate::order::now;

/// A task's trace: its worker, start and end.
#[derive(Serialize, Deserialize)]
struct Span {
    pid: u32,
    start: u64,
    end: u64,
}

const TASKS: usize = 12;
const WORKERS: usize = 3;

pub(crate) fn bound() -> Result<Finding> {
    let pooled = Pool::new(WORKERS)?.map(nap, [30; TASKS])?;
    let started: multiproc::Result<Vec<_>> = (0..TASKS).map(|_| Process::spawn(nap, (30,))).collect();
    let single: multiproc::Result<Vec<_>> = started?.into_iter().map(Process::join).collect();
    let single = single?;
    let figure = format!(
        "{} at once in {} processes, else {} in {}",
        most_at_once(&pooled),
        processes(&pooled),
        most_at_once(&single),
        processes(&single)
    );
    Ok(Finding::new(most_at_once(&pooled) <= WORKERS && processes(&pooled) <= WORKERS, figure))
}

fn nap(millis: u64) -> Span {
    let start = now();
    sleep(Duration::from_millis(millis));
    Span { pid: std::process::id(), start, end: now() }
}

fn processes(spans: &[Span]) -> usize {
    spans.iter().map(|span| span.pid).collect::<BTreeSet<_>>().len()
}

/// The maximum is reached at the start of some task, so only these instants count.
fn most_at_once(spans: &[Span]) -> usize {
    let running = |time: u64| spans.iter().filter(|span| span.start <= time && time < span.end).count();
    spans.iter().map(|span| running(span.start)).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_that_touch_do_not_overlap() {
        let span = |start, end| Span { pid: 1, start, end };
        assert_eq!(most_at_once(&[]), 0);
        assert_eq!(most_at_once(&[span(0, 2), span(2, 4)]), 1);
        assert_eq!(most_at_once(&[span(0, 9), span(1, 3), span(3, 5), span(4, 6)]), 3);
    }
}

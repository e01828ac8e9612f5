//! Runs many commands at once, and those that must be alone one by one.

use std::{
    num::NonZeroUsize,
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

use super::{Outcome, Task, report::Report};

enum Event<'a> {
    Start(&'a Task<'a>),
    End(Outcome<'a>),
}

pub(super) fn run_all<'a>(
    tasks: &'a [Task<'a>],
    jobs: NonZeroUsize,
    run_one: impl Fn(&Task<'a>) -> Outcome<'a> + Sync,
    report: &mut Report<'a>,
) {
    let (alone, together): (Vec<_>, Vec<_>) = tasks.iter().partition(|task| task.block.expected.alone);
    run_some(&together, jobs, &run_one, report);
    run_some(&alone, NonZeroUsize::MIN, &run_one, report);
}

fn run_some<'a>(
    tasks: &[&'a Task<'a>],
    jobs: NonZeroUsize,
    run_one: &(impl Fn(&Task<'a>) -> Outcome<'a> + Sync),
    report: &mut Report<'a>,
) {
    let next = AtomicUsize::new(0);
    let next_task = || tasks.get(next.fetch_add(1, Ordering::Relaxed)).copied();
    let (events, to_report) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..jobs.get().min(tasks.len()) {
            let events = events.clone();
            scope.spawn(move || {
                while let Some(task) = next_task() {
                    _ = events.send(Event::Start(task));
                    _ = events.send(Event::End(run_one(task)));
                }
            });
        }
        drop(events);
        for event in to_report {
            match event {
                Event::Start(task) => report.start(task.block),
                Event::End(outcome) => report.add(outcome),
            }
        }
    });
}

//! A pool as small as it gets: forked workers take ranges of numbers from a shared counter and write results
//! to shared memory.

use std::slice;
use std::sync::atomic::{
    AtomicU32, AtomicUsize,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};

use anyhow::Result;
use bench::work::cube;

use super::memory::{Child, fork, shared, shared_value, sleep_while, wake};

pub(super) struct Pool {
    board: &'static JobBoard,
    results: *mut u64,
    workers: Vec<Child>,
}

#[derive(Default)]
#[repr(align(128))]
struct Line<T>(T);

/// Where a job is described. Each word has a cache line of its own.
struct JobBoard {
    job: Line<AtomicU32>,
    items: Line<AtomicUsize>,
    chunk: Line<AtomicUsize>,
    next: Line<AtomicUsize>,
    /// How many workers still work on the job.
    busy: Line<AtomicU32>,
}

impl Pool {
    /// With room for this many results.
    pub(super) fn start(workers: u32, room: usize) -> Result<Self> {
        let board: &JobBoard = shared_value()?;
        let results = shared(room * size_of::<u64>())?.cast::<u64>();
        let workers: Result<_> = (0..workers).map(|_| fork(|| board.work(results))).collect();
        Ok(Self { board, results, workers: workers? })
    }

    pub(super) fn map(&self, items: usize, chunk: usize) {
        let JobBoard { job, busy, .. } = self.board;
        self.board.items.0.store(items, Relaxed);
        self.board.chunk.0.store(chunk, Relaxed);
        self.board.next.0.store(0, Relaxed);
        let workers = u32::try_from(self.workers.len()).unwrap_or(0);
        busy.0.store(workers, Relaxed);
        job.0.fetch_add(1, Release);
        wake(&job.0);
        loop {
            match busy.0.load(Acquire) {
                0 => return,
                busy_now => sleep_while(&busy.0, busy_now),
            }
        }
    }

    pub(super) fn results(&self, items: usize) -> &[u64] {
        // SAFETY: this many were mapped, and no process writes between jobs.
        unsafe { slice::from_raw_parts(self.results, items) }
    }
}

impl JobBoard {
    fn work(&self, results: *mut u64) {
        let mut done = 0;
        loop {
            while self.job.0.load(Acquire) == done {
                sleep_while(&self.job.0, done);
            }
            done += 1;
            self.do_job(results);
            if self.busy.0.fetch_sub(1, AcqRel) == 1 {
                wake(&self.busy.0);
            }
        }
    }

    fn do_job(&self, results: *mut u64) {
        let (items, chunk) = (self.items.0.load(Relaxed), self.chunk.0.load(Relaxed));
        loop {
            let from = self.next.0.fetch_add(chunk, Relaxed);
            if from >= items {
                return;
            }
            for number in from..(from + chunk).min(items) {
                // SAFETY: there is room for every item of a job, and this worker alone writes this slot.
                unsafe { results.add(number).write(cube(number as u64)) };
            }
        }
    }
}

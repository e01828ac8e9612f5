//! A pool against a process for each task, as tasks get smaller.

use std::sync::OnceLock;
use std::thread::{self, available_parallelism};
use std::time::Duration;

use anyhow::{Result, anyhow};
use experiments::measure::{medians, millis, ratio, show, time};
use experiments::{Chart, Finding, work};
use multiproc::{Pool, Process};

static SIZES: Chart = Chart {
    title: "Time per task, as tasks get smaller",
    quantity: "time per task",
    unit: "ms",
    along: "work in one task, in ms (logarithmic)",
    logarithmic: true,
};

/// Tasks of one size: the time per task in each way of doing them.
struct Row {
    in_turn: Duration,
    by_process: Duration,
    in_pool: Duration,
}

pub(crate) fn small() -> Result<Finding> {
    let rows = rows()?;
    let Row { by_process, in_pool, .. } = rows[0];
    let figure =
        format!("pool {}, process {}: {:.0} ×", show(in_pool), show(by_process), ratio(by_process, in_pool));
    Ok(rows.iter().fold(Finding::new(by_process > in_pool, figure), |finding, row| {
        let size = millis(row.in_turn);
        finding
            .point(&SIZES, "a process for each task", size, millis(row.by_process))
            .point(&SIZES, "a pool, with its start and end", size, millis(row.in_pool))
            .point(&SIZES, "one process, in turn", size, size)
    }))
}

pub(crate) fn crossing() -> Result<Finding> {
    let rows = rows()?;
    let (pool, process) = (crosses(rows, |row| row.in_pool), crosses(rows, |row| row.by_process));
    let holds = pool.is_some_and(|pool| process.is_none_or(|process| pool < process));
    let words = |size: Option<Duration>| size.map_or("never".to_owned(), show);
    Ok(Finding::new(holds, format!("pool {}, process {}", words(pool), words(process))))
}

pub(crate) fn long() -> Result<Finding> {
    let [.., Row { by_process, in_pool, .. }] = rows()? else { return Err(anyhow!("no sizes")) };
    let figure = format!(
        "pool {}, process {}: {:.2} ×",
        show(*in_pool),
        show(*by_process),
        ratio(*by_process, *in_pool)
    );
    Ok(Finding::new(ratio(*by_process, *in_pool) < 1.5, figure))
}

/// The least size from which on a way is quicker than one process that does the tasks in turn: where their
/// lines cross, taken as straight between the measured sizes.
fn crosses(rows: &[Row], way: fn(&Row) -> Duration) -> Option<Duration> {
    let gain = |row: &Row| ratio(row.in_turn, way(row)).ln();
    let quicker = rows.iter().rev().take_while(|row| gain(row) > 0.0).count();
    let first = rows.len() - quicker;
    let after = rows.get(first)?;
    let Some(before) = first.checked_sub(1).and_then(|index| rows.get(index)) else {
        return Some(after.in_turn);
    };
    let part = -gain(before) / (gain(after) - gain(before));
    Some(before.in_turn.mul_f64(ratio(after.in_turn, before.in_turn).powf(part)))
}

/// Measured once, used by three claims.
fn rows() -> Result<&'static [Row]> {
    static ROWS: OnceLock<Vec<Row>> = OnceLock::new();
    if ROWS.get().is_none() {
        let rows: Result<Vec<Row>> = [10, 32, 100, 320, 1_000, 3_200, 10_000].into_iter().map(row).collect();
        let _ = ROWS.set(rows?);
    }
    ROWS.get().map(Vec::as_slice).ok_or_else(|| anyhow!("no sizes were measured"))
}

#[derive(Clone, Copy)]
enum Way {
    InTurn,
    ByProcess,
    InPool,
}

fn row(micros: u64) -> Result<Row> {
    let turns = work::turns_in(Duration::from_micros(micros))?;
    let tasks = usize::try_from(32_000 / micros)?.clamp(8, 32);
    let workers = available_parallelism()?.get().min(8);
    let ways = [Way::InTurn, Way::ByProcess, Way::InPool];
    let times = medians(3, &ways, |way| time(|| way.compute(turns, tasks, workers)))?;
    let each = |index: usize| Ok::<_, anyhow::Error>(times[index] / u32::try_from(tasks)?);
    Ok(Row { in_turn: each(0)?, by_process: each(1)?, in_pool: each(2)? })
}

impl Way {
    fn compute(self, turns: u64, tasks: usize, workers: usize) -> Result<()> {
        match self {
            Self::InTurn => (0..tasks).for_each(|_| _ = work::burn(turns)),
            Self::ByProcess => a_process_a_task(turns, tasks, workers)?,
            Self::InPool => _ = Pool::new(workers)?.map(work::burn, vec![turns; tasks])?,
        }
        Ok(())
    }
}

/// As many at once as the pool has workers, for a fair comparison.
fn a_process_a_task(turns: u64, tasks: usize, at_once: usize) -> Result<()> {
    let start_and_join = |first| {
        (first..tasks)
            .step_by(at_once)
            .try_for_each(|_| Process::spawn(work::burn, (turns,))?.join().map(drop))
    };
    thread::scope(|scope| {
        let starters: Vec<_> = (0..at_once).map(|first| scope.spawn(move || start_and_join(first))).collect();
        for starter in starters {
            starter.join().map_err(|_| anyhow!("a thread panicked"))??;
        }
        Ok(())
    })
}

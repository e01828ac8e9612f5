//! Tasks of which some take longer than others. They are naps, so that the number of cores plays no part.

use std::thread::sleep;
use std::time::Duration;

use anyhow::Result;
use experiments::measure::{medians, millis, ratio, show, time};
use experiments::{Chart, Finding};
use multiproc::Pool;

static UNEVEN: Chart = Chart {
    title: "16 tasks of different length, 4 workers: until the last one has ended",
    quantity: "time",
    unit: "ms",
    along: "",
    logarithmic: false,
};

const WORKERS: usize = 4;

/// The four long ones stand together, as big files of one folder do, or the hard cases of a search.
const LONG_TOGETHER: [u64; 16] = [40, 40, 40, 40, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10];

pub(crate) fn handed_out() -> Result<Finding> {
    let pool = ready_pool()?;
    let ways: [fn(&Pool) -> Result<()>; 2] = [in_shares, one_by_one];
    let times = medians(3, &ways, |way| time(|| way(&pool)))?;
    let figure = format!(
        "shares {}, handed out {}: {:.1} ×",
        show(times[0]),
        show(times[1]),
        ratio(times[0], times[1])
    );
    Ok(Finding::new(ratio(times[0], times[1]) > 1.2, figure)
        .point(&UNEVEN, "", "4 long ones, fixed shares", millis(times[0]))
        .point(&UNEVEN, "", "4 long ones, handed out", millis(times[1])))
}

/// A quarter of the tasks for each worker, whatever is in it.
fn in_shares(pool: &Pool) -> Result<()> {
    let shares = LONG_TOGETHER.chunks(LONG_TOGETHER.len() / WORKERS).map(<[u64]>::to_vec);
    pool.map(|share: Vec<u64>| share.into_iter().for_each(nap), shares)?;
    Ok(())
}

fn one_by_one(pool: &Pool) -> Result<()> {
    pool.map(nap, LONG_TOGETHER)?;
    Ok(())
}

pub(crate) fn long_one_last() -> Result<Finding> {
    let pool = ready_pool()?;
    let mut tasks = [12; 16];
    tasks[15] = 70;
    let last = tasks;
    tasks.reverse();
    let times = medians(3, &[last, tasks], |naps| time(|| Ok(pool.map(nap, *naps)?)))?;
    let figure = format!("last {}, first {}", show(times[0]), show(times[1]));
    Ok(Finding::new(ratio(times[0], times[1]) > 1.2, figure)
        .point(&UNEVEN, "", "1 long one, last", millis(times[0]))
        .point(&UNEVEN, "", "1 long one, first", millis(times[1])))
}

/// A pool whose workers have all started, so that the measurements are of their work alone.
fn ready_pool() -> Result<Pool> {
    let pool = Pool::new(WORKERS)?;
    pool.map(nap, [10; 2 * WORKERS])?;
    Ok(pool)
}

fn nap(millis: u64) {
    sleep(Duration::from_millis(millis));
}

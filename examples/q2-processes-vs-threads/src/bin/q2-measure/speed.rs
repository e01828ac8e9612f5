//! Work on several cores, which needs no processes.

use std::thread::{self, available_parallelism};
use std::time::Duration;

use anyhow::{Result, anyhow};
use experiments::measure::{medians, millis, ratio, time};
use experiments::{Chart, Finding, work};
use multiproc::Process;

static WORK: Chart = Chart {
    title: "The same work on all cores",
    quantity: "time",
    unit: "ms",
    along: "",
    logarithmic: false,
};

pub(crate) fn in_parallel() -> Result<Finding> {
    let cores = available_parallelism()?.get();
    let turns = work::turns_in(Duration::from_millis(100))?;
    let ways = [Way::InTurn, Way::Threads, Way::Processes];
    let times = medians(5, &ways, |way| time(|| way.compute(turns, cores)))?;
    let [threads, processes] = [ratio(times[0], times[1]), ratio(times[0], times[2])];
    let figure = format!("{threads:.2} × and {processes:.2} × as fast");
    Ok(Finding::new(threads > 1.25 && processes > 1.25, figure)
        .point(&WORK, "", "in turn", millis(times[0]))
        .point(&WORK, "", "threads", millis(times[1]))
        .point(&WORK, "", "processes", millis(times[2])))
}

#[derive(Clone, Copy)]
enum Way {
    InTurn,
    Threads,
    Processes,
}

impl Way {
    fn compute(self, turns: u64, workers: usize) -> Result<()> {
        let share = turns / u64::try_from(workers)?;
        match self {
            Self::InTurn => {
                work::burn(turns);
                Ok(())
            }
            Self::Threads => in_threads(share, workers),
            Self::Processes => in_processes(share, workers),
        }
    }
}

fn in_threads(turns: u64, count: usize) -> Result<()> {
    let threads: Vec<_> = (0..count).map(|_| thread::spawn(move || work::burn(turns))).collect();
    for thread in threads {
        thread.join().map_err(|_| anyhow!("a thread panicked"))?;
    }
    Ok(())
}

fn in_processes(turns: u64, count: usize) -> Result<()> {
    let children: multiproc::Result<Vec<_>> =
        (0..count).map(|_| Process::spawn(work::burn, (turns,))).collect();
    for child in children? {
        child.join()?;
    }
    Ok(())
}

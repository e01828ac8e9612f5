//! Several processes at once.

use std::thread::{available_parallelism, sleep};
use std::time::Duration;

use anyhow::Result;
use experiments::measure::{medians, millis, ratio, show, time};
use experiments::{Chart, Finding, work};
use multiproc::Process;

static WORK: Chart = Chart {
    title: "The same work, shared out among processes",
    quantity: "time",
    unit: "ms",
    along: "",
    logarithmic: false,
};

pub(crate) fn use_all_cores() -> Result<Finding> {
    let cores = available_parallelism()?.get();
    let turns = work::turns_in(Duration::from_millis(100))?;
    let counts = one_to(cores);
    let times = medians(5, &counts, |&processes| time(|| share_out(turns, processes)))?;
    let all: Vec<_> = counts.into_iter().zip(times).collect();
    let time_of =
        |wanted| all.iter().find(|(count, _)| *count == wanted).map_or(Duration::MAX, |(_, time)| *time);
    let gain = ratio(time_of(1), time_of(cores));
    let finding = Finding::new(gain > 1.25, format!("{gain:.2} × as fast on {cores}"));
    Ok(all.iter().fold(finding, |finding, (count, time)| {
        let label = if *count == 1 { "1 process".to_owned() } else { format!("{count} processes") };
        finding.point(&WORK, "", label, millis(*time))
    }))
}

/// 1, 2, 4 and so on, the number of cores among them, and last twice as many processes as there are cores.
fn one_to(cores: usize) -> Vec<usize> {
    let doublings =
        std::iter::successors(Some(1), |count| Some(count * 2)).take_while(|count| *count < cores);
    doublings.chain([cores, cores * 2]).collect()
}

fn share_out(turns: u64, processes: usize) -> Result<()> {
    let share = turns / u64::try_from(processes)?;
    let children: multiproc::Result<Vec<_>> =
        (0..processes).map(|_| Process::spawn(work::burn, (share,))).collect();
    for child in children? {
        child.join()?;
    }
    Ok(())
}

pub(crate) fn joined_at_once() -> Result<Finding> {
    let times = medians(3, &[one_loop as fn() -> Result<()>, two_loops], |naps| time(naps))?;
    let [one, two] = [times[0], times[1]];
    let figure = format!("one {}, two {}", show(one), show(two));
    Ok(Finding::new(ratio(one, two) > 1.5, figure))
}

const NAPS: usize = 3;

fn nap() {
    sleep(Duration::from_millis(60));
}

/// The usual mistake: the second child is started when the first one has ended.
fn one_loop() -> Result<()> {
    for _ in 0..NAPS {
        Process::spawn(nap, ())?.join()?;
    }
    Ok(())
}

fn two_loops() -> Result<()> {
    let children: multiproc::Result<Vec<_>> = (0..NAPS).map(|_| Process::spawn(nap, ())).collect();
    for child in children? {
        child.join()?;
    }
    Ok(())
}

//! W1 and W7: processes and pools from nothing.

use std::time::Instant;

use anyhow::Result;
use bench::measure::{self, Scale, repeated};
use bench::program::Measured;
use bench::work::{MIB, ballast, check, cube};
use multiproc::{Pool, Process};

fn nothing() {}

pub(super) fn start(scale: Scale) -> Result<Measured> {
    repeated(scale, 500, || Ok(Process::spawn(nothing, ())?.join()?))
}

pub(super) fn start_from_1gib(scale: Scale) -> Result<Measured> {
    let ballast = ballast(1024 * MIB);
    let measured = start(scale);
    drop(ballast);
    measured
}

pub(super) fn start_four(scale: Scale) -> Result<Measured> {
    repeated(scale, 300, || {
        let children: multiproc::Result<Vec<_>> = (0..4).map(|_| Process::spawn(nothing, ())).collect();
        Ok(children?.into_iter().try_for_each(Process::join)?)
    })
}

pub(super) fn spawn(scale: Scale) -> Result<Measured> {
    use multiproc::StartMethod::Spawn;

    repeated(scale, 500, || Ok(Process::builder().start_method(Spawn).spawn(nothing, ())?.join()?))
}

pub(super) fn cold(scale: Scale) -> Result<Measured> {
    measure::cold(scale, &["fresh"])
}

pub(super) fn cold_running(scale: Scale) -> Result<Measured> {
    measure::cold(scale, &["fresh", "second"])
}

/// How many microseconds from nothing to the first result of a pool; or from a first child that has come and
/// gone.
pub(super) fn first_result(after_a_child: bool) -> Result<f64> {
    if after_a_child {
        Process::spawn(nothing, ())?.join()?;
    }
    let start = Instant::now();
    let pool = Pool::builder().workers(2).build()?;
    let result = pool.apply(cube, (3,))?;
    let time = start.elapsed();
    check("first result", 27, result)?;
    Ok(time.as_secs_f64() * 1e6)
}

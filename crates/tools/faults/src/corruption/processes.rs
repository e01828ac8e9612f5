//! Processes that are started while the memory of the fork server is overwritten.

use std::time::Duration;

use anyhow::Result;
use multiproc::Process;
use tests::corrupter::Random;

use super::bounds::Bounds;
use super::{Rest, nap};

/// The default time limit of a start.
pub(super) const START: Duration = Duration::from_secs(10);

#[allow(clippy::unnecessary_wraps)] // as for all work
pub(super) fn start_processes(random: &mut Random, _: &Bounds) -> Result<Rest> {
    let count = 1 + random.below(6);
    Ok(Box::new(move |_, bounds| {
        for number in 0..count {
            let spawn = || bounds.within(START, "Process::spawn", || Process::spawn(nap, (number,)));
            for child in [spawn()?, spawn()?].into_iter().flatten() {
                drop(bounds.at_once("Process::join", || child.join())?);
            }
        }
        Ok(())
    }))
}

//! **Queue**: items from any number of processes to any number of processes.

mod bad_items;
mod batches;
mod capacity;
mod close;
mod disconnect;
mod joinable;
mod order;
mod unbounded;

use libtest_mimic::Trial;
use multiproc::Result;
use multiproc::queue::Sender;

pub(crate) fn trials() -> Vec<Trial> {
    let all = [
        bad_items::trials(),
        batches::trials(),
        capacity::trials(),
        close::trials(),
        disconnect::trials(),
        joinable::trials(),
        order::trials(),
        unbounded::trials(),
    ];
    all.into_iter().flatten().collect()
}

/// Puts the numbers below `end` into the queue.
fn count(sender: Sender<u32>, end: u32) -> Result<()> {
    (0..end).try_for_each(|number| Ok(sender.send(number)?))
}

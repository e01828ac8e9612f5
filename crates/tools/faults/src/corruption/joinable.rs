//! Joinable queues of which the memory is overwritten.

use anyhow::Result;
use multiproc::Process;
use multiproc::queue::{self, JoinableReceiver, JoinableSender, Unfinished};
use tests::corrupter::Random;

use super::bounds::Bounds;
use super::{Rest, TIME, end};

/// A child at each end, and the parent at both.
pub(super) fn use_joinable(random: &mut Random, _: &Bounds) -> Result<Rest> {
    let unfinished = if random.below(2) == 0 { Unfinished::Redeliver } else { Unfinished::Report };
    // An item whose length is overwritten is as long as its place, which is larger in a smaller queue.
    let capacity = [64, 1_000][usize::try_from(random.below(2))?];
    let (sender, receiver) = queue::joinable::<String>(capacity, unfinished)?;
    let produce = |sender: JoinableSender<String>, count: u64| {
        (0..count).all(|number| sender.send_timeout(number.to_string(), TIME).is_ok());
    };
    let consume = |receiver: JoinableReceiver<String>, count: u64| {
        (0..count).all(|_| receiver.recv_timeout(TIME).map(queue::Delivery::done).is_ok());
    };
    let children = [
        Process::spawn(produce, (sender.clone(), random.below(300)))?,
        Process::spawn(consume, (receiver.clone(), random.below(300)))?,
    ];
    Ok(Box::new(move |random, bounds| {
        for number in 0..random.below(100) {
            let text = number.to_string();
            match random.below(7) {
                0 => drop(bounds.at_once("JoinableSender::try_send", || sender.try_send(text))?),
                1 => {
                    let send = || sender.send_timeout(text, TIME);
                    drop(bounds.within(TIME, "JoinableSender::send_timeout", send)?);
                }
                2 => drop(bounds.at_once("JoinableReceiver::try_recv", || receiver.try_recv())?),
                3 => {
                    let receive = || receiver.recv_timeout(TIME).map(queue::Delivery::done);
                    drop(bounds.within(TIME, "JoinableReceiver::recv_timeout", receive)?);
                }
                4 => drop(bounds.within(TIME, "JoinableSender::join_timeout", || sender.join_timeout(TIME))?),
                5 => _ = bounds.at_once("JoinableSender::unfinished", || sender.unfinished())?,
                _ => _ = bounds.at_once("JoinableReceiver::len", || receiver.len())?,
            }
        }
        children.into_iter().try_for_each(|child| end(child, bounds))?;
        // Without a time limit, as all receivers are gone.
        bounds.at_once("JoinableReceiver::drop", || drop(receiver))?;
        if bounds.only_with_limits() {
            return Ok(());
        }
        drop(bounds.at_once("JoinableSender::join without receivers", || sender.join())?);
        Ok(())
    }))
}

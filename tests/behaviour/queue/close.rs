//! Closing a queue for all of its ends.

use std::thread;

use multiproc::Process;
use multiproc::queue::{Receiver, Sender, bounded};

use super::count;
use crate::support::{Outcome, TEST_TIMEOUT, trials, wait_for_state};

trials![a_close_ends_the_queue_for_all, a_close_wakes_all_that_wait, what_was_sent_is_received_after_a_close,];

fn a_close_ends_the_queue_for_all() -> Outcome {
    let (sender, receiver) = bounded::<u32>(10)?;
    assert_eq!((sender.capacity(), receiver.capacity()), (Some(10), Some(10)));
    sender.send_all([1, 2])?;
    let close = |receiver: Receiver<u32>| receiver.close();
    Process::spawn(close, (receiver.clone(),))?.join()?;
    let refused = sender.send(3).unwrap_err();
    assert!(refused.error().is_disconnected(), "{refused}");
    assert_eq!(sender.send_all([3, 4]).unwrap_err().into_item(), [3, 4]);
    assert!(Process::spawn(count, (sender, 1))?.join()?.unwrap_err().is_disconnected());
    assert_eq!(receiver.iter().collect::<multiproc::Result<Vec<_>>>()?, [1, 2]);
    receiver.close();
    assert!(receiver.try_recv().unwrap_err().is_disconnected());
    Ok(())
}

fn a_close_wakes_all_that_wait() -> Outcome {
    let (full, kept) = bounded(1)?;
    let (other, empty) = bounded(1)?;
    full.send(0)?;
    let sends = Process::spawn(count, (full.clone(), 10))?;
    let receives = |receiver: Receiver<u32>| receiver.recv().map(drop);
    let receives = [Process::spawn(receives, (empty.clone(),))?, Process::spawn(receives, (empty,))?];
    for pid in [sends.pid(), receives[0].pid(), receives[1].pid()] {
        wait_for_state(pid, 'S');
    }
    full.close();
    other.close();
    for mut child in [sends].into_iter().chain(receives) {
        let outcome = child.join_timeout(TEST_TIMEOUT)?.unwrap();
        assert!(outcome.unwrap_err().is_disconnected());
    }
    assert_eq!(kept.recv()?, 0);
    Ok(())
}

/// Also what was sent while the queue was being closed.
fn what_was_sent_is_received_after_a_close() -> Outcome {
    for round in 0..50 {
        let (sender, receiver) = bounded::<u32>(100)?;
        let send =
            |sender: Sender<u32>| (0..u32::MAX).take_while(|&number| sender.send(number).is_ok()).count();
        let receive = || receiver.iter().flatten().count();
        let (sent, received) = thread::scope(|scope| {
            let senders = [(); 2].map(|()| scope.spawn(|| send(sender.clone())));
            let received = scope.spawn(receive);
            while round % 2 == 1 && sender.is_empty() {
                thread::yield_now();
            }
            sender.close();
            let sent = senders.into_iter().map(|sender| sender.join().unwrap()).sum::<usize>();
            (sent, received.join().unwrap())
        });
        assert_eq!((received, receiver.len()), (sent, 0));
    }
    Ok(())
}

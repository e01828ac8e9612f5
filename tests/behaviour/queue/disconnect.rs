//! Queues whose senders or receivers are dropped or killed.

use multiproc::queue::{Receiver, Sender, bounded};
use multiproc::{Connection, Error, Process, Result, pipe};

use super::count;
use crate::support::{Outcome, TEST_TIMEOUT, alone, trials};

trials![
    put_after_the_last_receiver_has_gone_is_an_error,
    get_after_the_last_sender_has_gone_takes_what_is_left_then_is_an_error,
    a_killed_sender_ends_the_iteration,
    a_killed_receiver_ends_a_put_that_waits,
    a_send_after_the_receiver_was_killed_and_joined_fails_at_once,
    receivers_killed_while_they_take_leave_the_queue_in_order,
    senders_killed_while_they_put_leave_the_queue_in_order,
];

fn put_after_the_last_receiver_has_gone_is_an_error() -> Outcome {
    alone(|| {
        let (sender, receiver) = bounded(2)?;
        let other = receiver.clone();
        drop(receiver);
        sender.send(1)?;
        let take_one = |receiver: Receiver<u32>| receiver.recv();
        assert_eq!(Process::spawn(take_one, (other,))?.join()??, 1);
        for refused in [sender.send(2), sender.try_send(2), sender.send_timeout(2, TEST_TIMEOUT)] {
            let refused = refused.unwrap_err();
            assert!(refused.error().is_disconnected(), "{refused}");
            assert_eq!(refused.into_item(), 2);
        }
        Ok(())
    })
}

fn get_after_the_last_sender_has_gone_takes_what_is_left_then_is_an_error() -> Outcome {
    let (sender, receiver) = bounded(10)?;
    Process::spawn(count, (sender, 3))?.join()??;
    assert_eq!(receiver.iter().collect::<Result<Vec<_>>>()?, [0, 1, 2]);
    assert!(receiver.recv().unwrap_err().is_disconnected());
    assert!(receiver.try_recv().unwrap_err().is_disconnected());
    assert!(receiver.recv_timeout(TEST_TIMEOUT).unwrap_err().is_disconnected());
    Ok(())
}

fn a_killed_sender_ends_the_iteration() -> Outcome {
    let (sender, receiver) = bounded(10)?;
    let send_and_wait = |sender: Sender<u32>| {
        sender.send(7).unwrap();
        loop {
            std::thread::park();
        }
    };
    let producer: Process<()> = Process::spawn(send_and_wait, (sender,))?;
    let mut items = receiver.into_iter();
    assert_eq!(items.next().transpose()?, Some(7));
    producer.kill()?;
    assert!(items.next().is_none());
    Ok(())
}

fn a_killed_receiver_ends_a_put_that_waits() -> Outcome {
    let (sender, receiver) = bounded(1)?;
    let (ours, theirs) = pipe::<(), ()>()?;
    let hold = |_receiver: Receiver<u32>, latch| crate::support::block(latch);
    let holder = Process::spawn(hold, (receiver, theirs))?;
    ours.recv()?;
    sender.send(1)?;
    let put = std::thread::spawn(move || sender.send(2).map_err(Error::from));
    holder.kill()?;
    assert!(put.join().unwrap().unwrap_err().is_disconnected());
    Ok(())
}

/// Alone: a program that another test is about to execute holds a copy of the receiver for a moment.
fn a_send_after_the_receiver_was_killed_and_joined_fails_at_once() -> Outcome {
    alone(|| {
        for sends in 1..=20 {
            let (sender, receiver) = bounded(100)?;
            let (ours, theirs) = pipe::<(), ()>()?;
            let hold = |_receiver: Receiver<u32>, latch| crate::support::block(latch);
            let holder = Process::spawn(hold, (receiver, theirs))?;
            ours.recv()?;
            (0..sends).try_for_each(|number| sender.send(number))?;
            holder.kill()?;
            assert!(holder.join().is_err());
            assert!(
                sender.send(7).map_err(Error::from).unwrap_err().is_disconnected(),
                "after {sends} items"
            );
        }
        Ok(())
    })
}

fn receivers_killed_while_they_take_leave_the_queue_in_order() -> Outcome {
    let take_and_tell = |receiver: Receiver<u32>, teller: Connection<u32, ()>| -> Result<()> {
        receiver.into_iter().try_for_each(|number| Ok(teller.send(number?)?))
    };
    for _ in 0..20 {
        let (sender, receiver) = bounded(1)?;
        let producer = Process::spawn(count, (sender.clone(), u32::MAX))?;
        let (ours, theirs) = pipe::<(), u32>()?;
        let consumer = Process::spawn(take_and_tell, (receiver.clone(), theirs))?;
        assert_eq!(ours.recv()?, 0);
        consumer.kill()?;
        assert_eq!(consumer.join().unwrap_err().signal(), Some(9));
        producer.kill()?;
        assert_eq!(producer.join().unwrap_err().signal(), Some(9));
        let told = ours.iter().map(Result::unwrap).last().unwrap_or(0);
        // It may have taken one item more than it has reported; another receiver gets the rest.
        if let Ok(next) = receiver.try_recv() {
            assert!(next == told + 1 || next == told + 2, "{next} after {told}");
        }
        is_empty_and_has_room(&sender, &receiver)?;
    }
    Ok(())
}

fn senders_killed_while_they_put_leave_the_queue_in_order() -> Outcome {
    for _ in 0..20 {
        let (sender, receiver) = bounded(1)?;
        let producer = Process::spawn(count, (sender.clone(), u32::MAX))?;
        assert!((0..10).try_for_each(|number| (receiver.recv().ok()? == number).then_some(())).is_some());
        producer.kill()?;
        assert_eq!(producer.join().unwrap_err().signal(), Some(9));
        is_empty_and_has_room(&sender, &receiver)?;
    }
    Ok(())
}

/// Takes what is left; then there is room for one item, wherever in a call the process was killed.
fn is_empty_and_has_room(sender: &Sender<u32>, receiver: &Receiver<u32>) -> Result<()> {
    let last = std::iter::from_fn(|| Some(receiver.try_recv())).find_map(Result::err);
    assert!(last.is_some_and(|error| error.is_empty()));
    assert!(sender.is_empty());
    sender.try_send(7)?;
    assert_eq!(sender.len(), 1);
    assert!(sender.try_send(8).unwrap_err().error().is_full());
    assert_eq!(receiver.recv()?, 7);
    Ok(())
}

//! Full and empty queues: back-pressure, time limits, length.

use std::time::{Duration, Instant};

use multiproc::queue::{Receiver, bounded};
use multiproc::{Process, Result};

use super::count;
use crate::support::{Outcome, TEST_TIMEOUT, trials};

trials![
    a_full_queue_refuses_at_once_and_gives_the_item_back,
    a_timed_put_into_a_full_queue_ends_on_time,
    a_put_waits_until_there_is_room,
    the_kernels_own_limit_is_back_pressure_too,
    an_empty_queue_has_nothing_at_once,
    a_timed_get_from_an_empty_queue_ends_on_time,
    the_length_is_right_when_quiet,
    no_room_at_all_is_refused,
];

fn a_full_queue_refuses_at_once_and_gives_the_item_back() -> Outcome {
    let (sender, receiver) = bounded(2)?;
    sender.try_send("a".to_owned())?;
    sender.try_send("b".to_owned())?;
    // There is no receiver, so a call that waited for room would not return.
    let refused = sender.try_send("c".to_owned()).unwrap_err();
    assert!(refused.error().is_full(), "{refused}");
    assert_eq!(refused.into_item(), "c");
    assert_eq!(receiver.recv()?, "a");
    sender.try_send("c".to_owned())?;
    assert_eq!((receiver.recv()?, receiver.recv()?), ("b".to_owned(), "c".to_owned()));
    Ok(())
}

fn a_timed_put_into_a_full_queue_ends_on_time() -> Outcome {
    let (sender, receiver) = bounded(1)?;
    sender.send(1)?;
    let time = Duration::from_millis(50);
    let start = Instant::now();
    let refused = sender.send_timeout(2, time).unwrap_err();
    assert!(start.elapsed() >= time);
    assert!(refused.error().is_timeout(), "{refused}");
    assert_eq!(refused.into_item(), 2);
    assert_eq!(receiver.recv()?, 1);
    assert!(receiver.try_recv().unwrap_err().is_empty());
    Ok(())
}

fn a_put_waits_until_there_is_room() -> Outcome {
    let (sender, receiver) = bounded(3)?;
    let producer = Process::spawn(count, (sender.clone(), 50))?;
    for expected in 0..50 {
        assert!(sender.len() <= 3);
        assert_eq!(receiver.recv_timeout(TEST_TIMEOUT)?, expected);
    }
    Ok(producer.join()??)
}

fn the_kernels_own_limit_is_back_pressure_too() -> Outcome {
    let (sender, receiver) = bounded(u32::MAX)?;
    for _ in 0..2 {
        let mut sent = 0;
        while sender.try_send(sent).is_ok() {
            sent += 1;
        }
        assert!(sender.try_send(0).unwrap_err().error().is_full());
        assert!(sender.send_timeout(0, Duration::from_millis(1)).unwrap_err().error().is_timeout());
        assert_eq!(sender.len(), sent);
        for number in 0..sent {
            assert_eq!(receiver.try_recv()?, number);
        }
        assert!(receiver.try_recv().unwrap_err().is_empty());
    }
    Ok(())
}

fn an_empty_queue_has_nothing_at_once() -> Outcome {
    let (sender, receiver) = bounded(1)?;
    let nothing = receiver.try_recv().unwrap_err();
    assert!(nothing.is_empty() && !nothing.is_timeout(), "{nothing}");
    assert_eq!(nothing.to_string(), "the queue is empty");
    sender.send(1)?;
    assert_eq!(receiver.try_recv()?, 1);
    assert!(receiver.try_recv().unwrap_err().is_empty());
    Ok(())
}

fn a_timed_get_from_an_empty_queue_ends_on_time() -> Outcome {
    let (sender, receiver) = bounded(1)?;
    let time = Duration::from_millis(50);
    let start = Instant::now();
    let late = receiver.recv_timeout(time).unwrap_err();
    assert!(late.is_timeout() && !late.is_empty(), "{late}");
    assert!(start.elapsed() >= time);
    sender.send(1)?;
    assert_eq!(receiver.recv_timeout(Duration::MAX)?, 1);
    Ok(())
}

fn the_length_is_right_when_quiet() -> Outcome {
    let (sender, receiver) = bounded(10)?;
    assert!(sender.is_empty() && receiver.is_empty());
    Process::spawn(count, (sender.clone(), 5))?.join()??;
    assert_eq!(sender.len(), 5);
    let take_two = |receiver: Receiver<u32>| -> Result<_> { Ok((receiver.recv()?, receiver.recv()?)) };
    assert_eq!(Process::spawn(take_two, (receiver.clone(),))?.join()??, (0, 1));
    assert_eq!((sender.len(), receiver.len()), (3, 3));
    assert!(!receiver.is_empty());
    assert_eq!(receiver.iter().take(3).collect::<Result<Vec<_>>>()?, [2, 3, 4]);
    assert!(sender.is_empty());
    Ok(())
}

fn no_room_at_all_is_refused() -> Outcome {
    assert!(bounded::<u32>(0).is_err());
    Ok(())
}

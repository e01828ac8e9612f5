//! The order of items, across processes and at every size.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use multiproc::queue::{Receiver, Sender, bounded};
use multiproc::{Process, Result};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::count;
use crate::support::{Outcome, TEST_TIMEOUT, trials, wait_for_state};

trials![
    a_timeout_ends_a_timed_iteration_and_takes_nothing,
    first_in_first_out_across_processes,
    each_item_goes_to_exactly_one_receiver,
    items_of_every_size_keep_their_order,
    works_when_created_before_the_child_and_already_used,
    join_before_draining_does_not_deadlock,
    a_sleeper_is_woken_at_once,
    an_item_that_uses_its_own_queue_does_not_deadlock,
];

fn first_in_first_out_across_processes() -> Outcome {
    let (sender, receiver) = bounded(7)?;
    let producer = Process::spawn(count, (sender, 1000))?;
    let items: Vec<u32> = receiver.into_iter().collect::<Result<_>>()?;
    assert!(items.into_iter().eq(0..1000));
    Ok(producer.join()??)
}

fn each_item_goes_to_exactly_one_receiver() -> Outcome {
    let (sender, receiver) = bounded(16)?;
    let produce = |sender: Sender<(u32, u32)>, producer| -> Result<()> {
        (0..500).try_for_each(|number| Ok(sender.send((producer, number))?))
    };
    let consume = |receiver: Receiver<(u32, u32)>| -> Result<Vec<_>> { receiver.into_iter().collect() };
    let consumers: Vec<_> =
        (0..3).map(|_| Process::spawn(consume, (receiver.clone(),))).collect::<Result<_>>()?;
    let producers: Vec<_> =
        (0..3).map(|name| Process::spawn(produce, (sender.clone(), name))).collect::<Result<_>>()?;
    drop((sender, receiver));
    producers.into_iter().try_for_each(|producer| producer.join()?)?;

    let mut all = Vec::new();
    for consumer in consumers {
        let items = consumer.join()??;
        for producer in 0..3 {
            let of_one = items.iter().filter(|item| item.0 == producer);
            assert!(of_one.is_sorted(), "a sender's items came out of order");
        }
        all.extend(items);
    }
    all.sort_unstable();
    assert!(all.into_iter().eq((0..3).flat_map(|producer| (0..500).map(move |number| (producer, number)))));
    Ok(())
}

fn items_of_every_size_keep_their_order() -> Outcome {
    const SIZES: [usize; 8] = [0, 200_000, 1, 32 * 1024 - 8, 5_000_000, 32 * 1024 + 1, 0, 60_000];
    let (sender, receiver) = bounded::<Vec<u8>>(3)?;
    let produce = |sender: Sender<Vec<u8>>| -> Result<()> {
        (0..).zip(SIZES).try_for_each(|(byte, size)| Ok(sender.send(vec![byte; size])?))
    };
    let producer = Process::spawn(produce, (sender,))?;
    for (byte, size) in (0..).zip(SIZES) {
        let item = receiver.recv()?;
        assert!(item == vec![byte; size], "{size} bytes came as {}", item.len());
    }
    Ok(producer.join()??)
}

fn works_when_created_before_the_child_and_already_used() -> Outcome {
    let (sender, receiver) = bounded(10)?;
    (0..4).try_for_each(|number| sender.send(number))?;
    assert_eq!(receiver.recv()?, 0);
    let consumer = Process::spawn(
        |receiver: Receiver<u32>| receiver.into_iter().collect::<Result<Vec<_>>>(),
        (receiver,),
    )?;
    sender.send(4)?;
    drop(sender);
    assert_eq!(consumer.join()??, [1, 2, 3, 4]);
    Ok(())
}

fn join_before_draining_does_not_deadlock() -> Outcome {
    let put = |sender: Sender<Vec<u8>>, size| -> Result<()> { Ok(sender.send(vec![7; size])?) };
    for size in [60_000, 200_000, 20_000_000] {
        let (sender, receiver) = bounded(1)?;
        Process::spawn(put, (sender, size))?.join()??;
        assert!(receiver.recv()? == vec![7; size]);
    }
    Ok(())
}

/// A sleeper that is not woken polls twice a second, so each time would take half a second.
fn a_sleeper_is_woken_at_once() -> Outcome {
    const TIMES: u32 = 40;
    let (sender, items) = bounded(1)?;
    let (echoes, receiver) = bounded(1)?;
    let echo = |items: Receiver<u32>, echoes: Sender<u32>| -> Result<()> {
        items.into_iter().try_for_each(|item| Ok(echoes.send(item?)?))
    };
    let child = Process::spawn(echo, (items, echoes))?;
    let mut waited = Duration::ZERO;
    for number in 0..TIMES {
        wait_for_state(child.pid(), 'S');
        let start = Instant::now();
        sender.send(number)?;
        assert_eq!(receiver.recv()?, number);
        waited += start.elapsed();
    }
    assert!(waited < TIMES * Duration::from_millis(250), "{waited:?} for {TIMES} times");
    drop(sender);
    Ok(child.join()??)
}

static OWN_QUEUE: OnceLock<(Sender<Reentrant>, Receiver<Reentrant>)> = OnceLock::new();

/// A value that uses its own queue while it is encoded or decoded.
#[derive(Debug, PartialEq)]
struct Reentrant(u32);

impl Serialize for Reentrant {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (sender, receiver) = OWN_QUEUE.get().unwrap();
        if self.0 > 0 {
            sender.send(Self(self.0 - 1)).unwrap();
            assert_eq!(receiver.recv().unwrap(), Self(self.0 - 1));
        }
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Reentrant {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (_, receiver) = OWN_QUEUE.get().unwrap();
        assert!(receiver.try_recv().unwrap_err().is_empty());
        u32::deserialize(deserializer).map(Self)
    }
}

fn an_item_that_uses_its_own_queue_does_not_deadlock() -> Outcome {
    let (sender, receiver) = OWN_QUEUE.get_or_init(|| bounded(10).unwrap());
    sender.send(Reentrant(3))?;
    assert_eq!(receiver.recv()?, Reentrant(3));
    Ok(())
}

fn a_timeout_ends_a_timed_iteration_and_takes_nothing() -> Outcome {
    let time = Duration::from_millis(20);
    let (sender, receiver) = bounded(4)?;
    sender.send_all([1, 2])?;
    let mut items = receiver.iter_timeout(time);
    assert_eq!((items.next().unwrap()?, items.next().unwrap()?), (1, 2));
    let begun = Instant::now();
    assert!(items.next().unwrap().unwrap_err().is_timeout());
    assert!(begun.elapsed() >= time);
    sender.send(3)?;
    assert!(items.next().is_none(), "it has ended");
    drop((items, sender));
    let rest: Result<Vec<u32>> = receiver.iter_timeout(TEST_TIMEOUT).collect();
    assert_eq!(rest?, [3]);
    Ok(())
}

//! **Queue**: items from any number of processes to any number of processes.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use multiproc::queue::{Receiver, Sender, bounded};
use multiproc::{Connection, Error, Process, Result, pipe};
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::support::{BadValue, Outcome, PATIENCE, alone, descriptors, trials, wait_for_state};

trials![
    first_in_first_out_across_processes,
    each_item_goes_to_exactly_one_receiver,
    items_of_every_size_keep_their_order,
    a_full_queue_refuses_at_once_and_gives_the_item_back,
    a_timed_put_into_a_full_queue_ends_on_time,
    a_put_waits_until_there_is_room,
    the_systems_own_limit_is_back_pressure_too,
    an_empty_queue_has_nothing_at_once,
    a_timed_get_from_an_empty_queue_ends_on_time,
    works_when_created_before_the_child_and_already_used,
    the_length_is_right_when_quiet,
    no_room_at_all_is_refused,
    an_item_that_does_not_encode_is_refused_and_nothing_of_it_is_left,
    an_item_that_does_not_decode_does_not_end_the_iteration,
    an_end_of_a_queue_is_not_an_item,
    put_after_the_last_receiver_has_gone_is_an_error,
    get_after_the_last_sender_has_gone_takes_what_is_left_then_is_an_error,
    a_killed_sender_ends_the_iteration,
    a_killed_receiver_ends_a_put_that_waits,
    a_send_after_the_receiver_was_killed_and_joined_fails_at_once,
    receivers_killed_while_they_take_leave_the_queue_in_order,
    senders_killed_while_they_put_leave_the_queue_in_order,
    join_before_draining_does_not_deadlock,
    many_items_go_in_and_come_out_in_order,
    a_batch_that_cannot_go_off_is_given_back,
    a_batch_ends_before_an_item_that_does_not_encode,
    an_item_that_does_not_decode_harms_no_other_of_its_batch,
    a_sleeper_is_woken_at_once,
    an_item_that_uses_its_own_queue_does_not_deadlock,
    an_item_for_which_there_is_no_descriptor_stays,
    an_error_that_takes_no_item_ends_the_iteration,
];

fn first_in_first_out_across_processes() -> Outcome {
    let (sender, receiver) = bounded(7)?;
    let producer = Process::spawn(count, (sender, 1000))?;
    let items: Vec<u32> = receiver.into_iter().collect::<Result<_>>()?;
    assert!(items.into_iter().eq(0..1000));
    Ok(producer.join()??)
}

/// Puts the numbers below `end` into the queue.
fn count(sender: Sender<u32>, end: u32) -> Result<()> {
    (0..end).try_for_each(|number| Ok(sender.send(number)?))
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

fn a_full_queue_refuses_at_once_and_gives_the_item_back() -> Outcome {
    let (sender, receiver) = bounded(2)?;
    sender.try_send("a".to_owned())?;
    sender.try_send("b".to_owned())?;
    // Nobody takes anything, so a call that waited for room would not return.
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
        assert_eq!(receiver.recv_timeout(PATIENCE)?, expected);
    }
    Ok(producer.join()??)
}

fn the_systems_own_limit_is_back_pressure_too() -> Outcome {
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

fn an_item_that_does_not_encode_is_refused_and_nothing_of_it_is_left() -> Outcome {
    let (sender, receiver) = bounded(1)?;
    for number in 0..20 {
        let refused = sender.send((number, BadValue::Unencodable)).unwrap_err();
        assert!(refused.error().is_codec(), "{refused}");
        assert_eq!(refused.into_item(), (number, BadValue::Unencodable));
        assert_eq!(sender.len(), 0);
        assert!(receiver.try_recv().unwrap_err().is_empty());
        sender.try_send((number, BadValue::Fine(1)))?;
        assert_eq!(receiver.recv()?, (number, BadValue::Fine(1)));
    }
    Ok(())
}

fn an_item_that_does_not_decode_does_not_end_the_iteration() -> Outcome {
    let (sender, receiver) = bounded(3)?;
    for item in [BadValue::Fine(1), BadValue::Undecodable, BadValue::Fine(2)] {
        sender.try_send(item)?;
    }
    drop(sender);
    let items: Vec<Option<BadValue>> = receiver.into_iter().map(Result::ok).collect();
    assert_eq!(items, [Some(BadValue::Fine(1)), None, Some(BadValue::Fine(2))]);
    Ok(())
}

fn an_end_of_a_queue_is_not_an_item() -> Outcome {
    let (sender, receiver) = bounded::<Sender<u32>>(1)?;
    let (item, _inner) = bounded(1)?;
    let refused = sender.send(item).unwrap_err();
    assert!(
        refused.error().is_codec() && refused.to_string().contains("not inside a queue's items"),
        "{refused}"
    );
    assert_eq!(sender.len(), 0);
    drop((sender, refused));
    assert!(receiver.recv().unwrap_err().is_disconnected());
    Ok(())
}

fn put_after_the_last_receiver_has_gone_is_an_error() -> Outcome {
    alone(|| {
        let (sender, receiver) = bounded(2)?;
        let other = receiver.clone();
        drop(receiver);
        sender.send(1)?;
        let take_one = |receiver: Receiver<u32>| receiver.recv();
        assert_eq!(Process::spawn(take_one, (other,))?.join()??, 1);
        for refused in [sender.send(2), sender.try_send(2), sender.send_timeout(2, PATIENCE)] {
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
    assert!(receiver.recv_timeout(PATIENCE).unwrap_err().is_disconnected());
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
    let hold = |_receiver: Receiver<u32>, gate| crate::support::block(gate);
    let holder = Process::spawn(hold, (receiver, theirs))?;
    ours.recv()?;
    sender.send(1)?;
    let put = std::thread::spawn(move || sender.send(2).map_err(Error::from));
    holder.kill()?;
    assert!(put.join().unwrap().unwrap_err().is_disconnected());
    Ok(())
}

fn a_send_after_the_receiver_was_killed_and_joined_fails_at_once() -> Outcome {
    for sends in 1..=20 {
        let (sender, receiver) = bounded(100)?;
        let (ours, theirs) = pipe::<(), ()>()?;
        let hold = |_receiver: Receiver<u32>, gate| crate::support::block(gate);
        let holder = Process::spawn(hold, (receiver, theirs))?;
        ours.recv()?;
        (0..sends).try_for_each(|number| sender.send(number))?;
        holder.kill()?;
        assert!(holder.join().is_err());
        assert!(sender.send(7).map_err(Error::from).unwrap_err().is_disconnected(), "after {sends} items");
    }
    Ok(())
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
        // It may have taken one more than it could tell of, no more; another receiver gets all the rest.
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

/// Takes what is left; then the room for one item is back, wherever in a call somebody was killed.
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

fn join_before_draining_does_not_deadlock() -> Outcome {
    let put = |sender: Sender<Vec<u8>>, size| -> Result<()> { Ok(sender.send(vec![7; size])?) };
    for size in [60_000, 200_000, 20_000_000] {
        let (sender, receiver) = bounded(1)?;
        Process::spawn(put, (sender, size))?.join()??;
        assert!(receiver.recv()? == vec![7; size]);
    }
    Ok(())
}

fn many_items_go_in_and_come_out_in_order() -> Outcome {
    for capacity in [3, 100_000] {
        let (sender, receiver) = bounded(capacity)?;
        let produce =
            |sender: Sender<u32>| sender.send_all((0..20_000).filter(|n| n % 3 > 0)).map_err(Error::from);
        let producer = Process::spawn(produce, (sender,))?;
        assert!(receiver.recv_many(0)?.is_empty());
        let mut expected = (0..20_000).filter(|n| n % 3 > 0);
        while let Ok(items) = receiver.recv_many(1000) {
            assert!((1..=1000).contains(&items.len()));
            for item in items {
                assert_eq!(Some(item?), expected.next());
            }
        }
        assert_eq!(expected.next(), None);
        assert!(receiver.recv_many(1).unwrap_err().is_disconnected());
        producer.join()??;
    }
    Ok(())
}

fn a_batch_that_cannot_go_off_is_given_back() -> Outcome {
    alone(|| {
        let (sender, receiver) = bounded(10)?;
        let take_three = |receiver: Receiver<u32>| receiver.recv_many(3).map(|items| items.len());
        let consumer = Process::spawn(take_three, (receiver,))?;
        let mut numbers = 0..5_000;
        let refused = sender.send_all(&mut numbers).unwrap_err();
        assert!(refused.error().is_disconnected(), "{refused}");
        assert!((1..=3).contains(&consumer.join()??));
        let rest = refused.into_item();
        // All that were taken and not sent are here, the others are still to be taken.
        assert!(!rest.is_empty() && rest[0] >= 10 && rest[0] <= 13, "{rest:?}");
        assert!(rest.iter().copied().chain(numbers).eq(rest[0]..5_000));
        Ok(())
    })
}

fn a_batch_ends_before_an_item_that_does_not_encode() -> Outcome {
    let (sender, receiver) = bounded(10)?;
    let mut items =
        vec![BadValue::Fine(1), BadValue::Fine(2), BadValue::Unencodable, BadValue::Fine(3)].into_iter();
    let refused = sender.send_all(&mut items).unwrap_err();
    assert!(refused.error().is_codec(), "{refused}");
    assert_eq!(refused.into_item(), [BadValue::Unencodable]);
    assert_eq!(items.collect::<Vec<_>>(), [BadValue::Fine(3)]);
    let arrived: Vec<BadValue> = receiver.recv_many(10)?.into_iter().collect::<Result<_>>()?;
    assert_eq!(arrived, [BadValue::Fine(1), BadValue::Fine(2)]);

    drop(receiver); // and where neither the batch nor the item can be sent, all are given back
    let refused = sender.send_all([BadValue::Fine(1), BadValue::Unencodable, BadValue::Fine(3)]).unwrap_err();
    assert!(refused.error().is_disconnected(), "{refused}");
    assert_eq!(refused.into_item(), [BadValue::Fine(1), BadValue::Unencodable]);
    Ok(())
}

fn an_item_that_does_not_decode_harms_no_other_of_its_batch() -> Outcome {
    let (sender, receiver) = bounded(10)?;
    sender.send_all([BadValue::Fine(1), BadValue::Undecodable, BadValue::Fine(2)]).map_err(Error::from)?;
    let items: Vec<Option<BadValue>> = receiver.recv_many(10)?.into_iter().map(Result::ok).collect();
    assert_eq!(items, [Some(BadValue::Fine(1)), None, Some(BadValue::Fine(2))]);
    Ok(())
}

/// One that is not woken looks twice a second all the same, so it would take half a second a time.
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

static OWN_QUEUE: OnceLock<(Sender<Selfish>, Receiver<Selfish>)> = OnceLock::new();

/// Takes something from the queue in which it travels whenever it is encoded or decoded.
#[derive(Debug, PartialEq)]
struct Selfish(u32);

impl Serialize for Selfish {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (sender, receiver) = OWN_QUEUE.get().unwrap();
        if self.0 > 0 {
            sender.send(Self(self.0 - 1)).unwrap();
            assert_eq!(receiver.recv().unwrap(), Self(self.0 - 1));
        }
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Selfish {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (_, receiver) = OWN_QUEUE.get().unwrap();
        assert!(receiver.try_recv().unwrap_err().is_empty());
        u32::deserialize(deserializer).map(Self)
    }
}

fn an_item_that_uses_its_own_queue_does_not_deadlock() -> Outcome {
    let (sender, receiver) = OWN_QUEUE.get_or_init(|| bounded(10).unwrap());
    sender.send(Selfish(3))?;
    assert_eq!(receiver.recv()?, Selfish(3));
    Ok(())
}

fn an_item_for_which_there_is_no_descriptor_stays() -> Outcome {
    alone(|| {
        let (sender, receiver) = bounded::<Vec<u8>>(10)?;
        sender.send(vec![1; 3_000_000])?;
        let (limit, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, descriptors().len() as u64, hard).unwrap();
        for _ in 0..2 {
            let error = receiver.recv().unwrap_err();
            assert_eq!(error.os_error(), Some(Errno::EMFILE as i32), "{error}");
            assert_eq!(sender.len(), 1);
        }
        assert!(sender.send(vec![2; 3_000_000]).unwrap_err().error().os_error().is_some());
        sender.send(vec![3])?;
        setrlimit(Resource::RLIMIT_NOFILE, limit, hard).unwrap();
        assert!(receiver.recv()? == vec![1; 3_000_000]);
        assert_eq!(receiver.recv()?, [3]);
        Ok(())
    })
}

/// Else what passes errors over, as `flatten` does, would meet the same one without end.
fn an_error_that_takes_no_item_ends_the_iteration() -> Outcome {
    alone(|| {
        let (sender, receiver) = bounded::<Vec<u8>>(10)?;
        sender.send(vec![1; 3_000_000])?;
        sender.send(vec![2])?;
        let (limit, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, descriptors().len() as u64, hard).unwrap();
        assert_eq!(receiver.iter().flatten().count(), 0);
        assert_eq!(receiver.clone().into_iter().flatten().count(), 0);
        let mut items = receiver.iter();
        let error = items.next().unwrap().unwrap_err();
        assert_eq!(error.os_error(), Some(Errno::EMFILE as i32), "{error}");
        setrlimit(Resource::RLIMIT_NOFILE, limit, hard).unwrap();
        assert!(items.next().is_none());
        drop((items, sender));
        assert!(receiver.iter().collect::<Result<Vec<_>>>()? == [vec![1; 3_000_000], vec![2]]);
        Ok(())
    })
}

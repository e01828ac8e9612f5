//! Joinable queues: `join` waits until all that was sent is dealt with, and no item is lost with its receiver.

use std::hint::black_box;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use multiproc::queue::{Delivery, JoinableReceiver, JoinableSender, Unfinished, joinable};
use multiproc::sync::Atomic;
use multiproc::{ErrorKind, Process, Result};
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::support::{BadValue, Outcome, TEST_TIMEOUT, alone, trials, wait_for_state};
use crate::sync::{Stage, corrupt, ends_soon, killed, started, takes_at_least};

trials![
    join_waits_until_all_is_done,
    items_of_a_killed_receiver_go_to_another_in_their_place,
    a_killed_receiver_is_reported_with_its_items,
    a_loss_is_reported_once_nothing_is_left,
    an_item_that_is_dropped_or_in_a_panic_is_not_done,
    calls_end_when_the_other_side_is_gone,
    receivers_meet_the_end_when_all_is_done,
    a_sender_waits_for_what_is_not_done,
    a_timed_join_ends_on_time,
    both_ends_tell_what_is_queued,
    an_iteration_with_a_time_limit_ends_with_a_timeout,
    items_are_as_large_as_their_share_and_leave_no_memory,
    a_bad_item_is_refused_or_done,
    an_error_that_takes_no_item_ends_the_iteration,
    a_copy_of_the_process_gives_nothing_back,
    nothing_is_lost_however_many_receivers_are_killed,
    any_bytes_in_its_memory_are_a_joinable_queue,
];

type Ends<T> = (JoinableSender<T>, JoinableReceiver<T>);

fn serve(receiver: JoinableReceiver<u32>, sum: Atomic<u32>) -> Result<()> {
    for delivery in receiver {
        let delivery = delivery?;
        sum.fetch_add(*delivery, SeqCst);
        delivery.done();
    }
    Ok(())
}

fn join_waits_until_all_is_done() -> Outcome {
    let (sender, receiver): Ends<u32> = joinable(8, Unfinished::Redeliver)?;
    let sum = Atomic::new(0_u32)?;
    let servers: Result<Vec<_>> =
        (0..3).map(|_| Process::spawn(serve, (receiver.clone(), sum.clone()))).collect();
    drop(receiver);
    for round in 1..=30 {
        (0..20).try_for_each(|number| sender.send(number))?;
        sender.join()?;
        assert_eq!((sum.load(SeqCst), sender.unfinished()), (round * 190, 0));
    }
    drop(sender);
    servers?.into_iter().try_for_each(|server| server.join()?)?;
    Ok(())
}

/// Takes two items, and keeps them until it is told.
fn keep_two(receiver: JoinableReceiver<u32>, stage: Stage) -> Result<()> {
    let deliveries = [receiver.recv()?, receiver.recv()?];
    stage.send(())?;
    let _ = stage.recv();
    drop(deliveries);
    Ok(())
}

fn items_of_a_killed_receiver_go_to_another_in_their_place() -> Outcome {
    let (sender, receiver): Ends<u32> = joinable(4, Unfinished::Redeliver)?;
    (0..4).try_for_each(|number| sender.send(number))?;
    let (child, _stage) = started(keep_two, &receiver)?;
    assert_eq!(*receiver.recv()?, 2, "the others are taken; it goes back");
    killed(child);
    assert!(sender.try_send(4).unwrap_err().error().is_full(), "none of them is done");
    for expected in 0..4 {
        let delivery = receiver.recv()?;
        assert_eq!((*delivery, delivery.attempt()), (expected, if expected < 3 { 2 } else { 1 }));
        delivery.done();
    }
    sender.join()?;

    // A receiver that waits before the other one dies.
    sender.send(5)?;
    sender.send(6)?;
    let (child, _stage) = started(keep_two, &receiver)?;
    let waiter = std::thread::spawn(move || receiver.recv().map(Delivery::done));
    killed(child);
    assert_eq!(ends_soon(|| waiter.join()).unwrap()?, 5);
    Ok(())
}

fn a_killed_receiver_is_reported_with_its_items() -> Outcome {
    let (sender, receiver): Ends<u32> = joinable(4, Unfinished::Report)?;
    (0..3).try_for_each(|number| sender.send(number))?;
    let (child, _stage) = started(keep_two, &receiver)?;
    assert_eq!(receiver.recv()?.done(), 2);
    let is_reported = |pid| {
        let error = ends_soon(|| sender.join()).unwrap_err();
        assert_eq!((error.kind(), error.pid()), (ErrorKind::Unacknowledged, Some(pid)));
        assert!(error.to_string().starts_with("2 items"), "{error}");
        sender.join()
    };
    is_reported(killed(child))?;

    // So it is when no receiver is left.
    (0..2).try_for_each(|number| sender.send(number))?;
    let (child, _stage) = started(keep_two, &receiver)?;
    drop(receiver);
    is_reported(killed(child))?;
    Ok(())
}

fn a_loss_is_reported_once_nothing_is_left() -> Outcome {
    let (sender, receiver): Ends<u32> = joinable(8, Unfinished::Report)?;
    (1..=2).try_for_each(|number| sender.send(number))?;
    let other = receiver.clone();
    drop(receiver.recv()?);
    drop((receiver, other));
    assert!(sender.join().unwrap_err().is_disconnected(), "an item is left that no receiver had");
    assert!(sender.join().unwrap_err().is_disconnected());
    Ok(())
}

fn an_item_that_is_dropped_or_in_a_panic_is_not_done() -> Outcome {
    let (sender, receiver): Ends<String> = joinable(4, Unfinished::Redeliver)?;
    sender.send("work".to_owned())?;
    drop(receiver.recv()?);
    let panics = |receiver: JoinableReceiver<String>| -> () {
        let _delivery = receiver.recv();
        panic!("while it has the item");
    };
    assert!(Process::spawn(panics, (receiver.clone(),))?.join().unwrap_err().is_panic());
    let delivery = ends_soon(|| receiver.recv())?;
    assert_eq!((delivery.as_str(), delivery.attempt()), ("work", 3));
    assert!(sender.join_timeout(Duration::ZERO).unwrap_err().is_timeout());
    assert_eq!(delivery.done(), "work");
    sender.join()?;
    Ok(())
}

fn calls_end_when_the_other_side_is_gone() -> Outcome {
    let (sender, receiver): Ends<u32> = joinable(2, Unfinished::Redeliver)?;
    sender.send(0)?;
    sender.send(1)?;
    let (child, _stage) = started(keep_two, &receiver)?;
    drop(receiver);
    let (joiner, blocked) = (sender.clone(), sender.clone());
    let joiner = std::thread::spawn(move || joiner.join());
    let blocked = std::thread::spawn(move || blocked.send(2).map_err(|refused| refused.error().clone()));
    killed(child);
    assert!(ends_soon(|| joiner.join()).unwrap().unwrap_err().is_disconnected());
    assert!(ends_soon(|| blocked.join()).unwrap().unwrap_err().is_disconnected());
    assert!(sender.send(3).unwrap_err().error().is_disconnected());

    let (sender, receiver): Ends<u32> = joinable(2, Unfinished::Redeliver)?;
    let wait = |receiver: JoinableReceiver<u32>| receiver.recv().map(|delivery| *delivery);
    let waiter = Process::spawn(wait, (receiver,))?;
    wait_for_state(waiter.pid(), 'S');
    drop(sender);
    assert!(ends_soon(|| waiter.join())?.unwrap_err().is_disconnected());
    Ok(())
}

fn receivers_meet_the_end_when_all_is_done() -> Outcome {
    let (sender, receiver): Ends<u32> = joinable(2, Unfinished::Redeliver)?;
    sender.send(0)?;
    sender.send(1)?;
    let (child, _stage) = started(keep_two, &receiver)?;
    drop(sender);
    assert!(receiver.recv_timeout(Duration::from_millis(20)).unwrap_err().is_timeout());
    let rest = std::thread::spawn(move || -> Result<Vec<u32>> {
        receiver.into_iter().map(|delivery| Ok(delivery?.done())).collect()
    });
    killed(child);
    assert_eq!(ends_soon(|| rest.join()).unwrap()?, [0, 1]);
    Ok(())
}

fn a_sender_waits_for_what_is_not_done() -> Outcome {
    let (sender, receiver): Ends<u32> = joinable(2, Unfinished::Redeliver)?;
    assert_eq!(sender.capacity(), 2);
    sender.send(0)?;
    sender.send(1)?;
    let first = receiver.recv()?;
    let time = Duration::from_millis(20);
    let refused = takes_at_least(time, || sender.send_timeout(2, time)).unwrap_err();
    assert!(refused.error().is_timeout(), "it was taken, and is not done");
    let blocked = std::thread::spawn(move || sender.send(3));
    first.done();
    blocked.join().unwrap()?;
    assert_eq!(receiver.recv()?.done(), 1);
    assert_eq!(receiver.recv()?.done(), 3);
    for capacity in [0, 65_537] {
        assert_eq!(joinable::<u32>(capacity, Unfinished::Report).unwrap_err().kind(), ErrorKind::Invalid);
    }
    Ok(())
}

fn both_ends_tell_what_is_queued() -> Outcome {
    let (sender, receiver): Ends<u32> = joinable(3, Unfinished::Redeliver)?;
    assert!(receiver.is_empty() && sender.is_empty());
    (0..3).try_for_each(|number| sender.send(number))?;
    let tell = |receiver: JoinableReceiver<u32>| (receiver.len(), receiver.is_empty(), receiver.capacity());
    assert_eq!(Process::spawn(tell, (receiver.clone(),))?.join()?, (3, false, 3));
    let tell = |sender: JoinableSender<u32>| (sender.len(), sender.is_empty(), sender.capacity());
    assert_eq!(Process::spawn(tell, (sender.clone(),))?.join()?, (3, false, 3));
    let delivery = receiver.recv()?;
    assert_eq!((receiver.len(), sender.len(), sender.unfinished()), (2, 2, 3));
    drop(delivery); // it goes back
    assert_eq!((receiver.len(), sender.len()), (3, 3));
    receiver.recv()?.done();
    assert_eq!((receiver.len(), sender.len(), sender.unfinished()), (2, 2, 2));
    let deliveries = [receiver.recv()?, receiver.recv()?];
    assert!(receiver.is_empty() && sender.is_empty());
    assert_eq!(sender.unfinished(), 2);
    drop(deliveries);
    Ok(())
}

fn an_iteration_with_a_time_limit_ends_with_a_timeout() -> Outcome {
    let (sender, receiver): Ends<u32> = joinable(3, Unfinished::Redeliver)?;
    (0..3).try_for_each(|number| sender.send(number))?;
    let time = Duration::from_millis(30);
    let done = |item: Result<Delivery<u32>>| item.map(Delivery::done);
    let items: Vec<_> = takes_at_least(time, || receiver.iter_timeout(time).map(done).collect());
    assert_eq!(items.iter().flatten().collect::<Vec<_>>(), [&0, &1, &2]);
    assert!(items.len() == 4 && items[3].as_ref().is_err_and(multiproc::Error::is_timeout));
    sender.send(3)?;
    drop(sender);
    assert!(receiver.iter_timeout(TEST_TIMEOUT).map(done).collect::<Result<Vec<_>>>()?.iter().eq([&3]));
    Ok(())
}

fn a_timed_join_ends_on_time() -> Outcome {
    let (sender, receiver): Ends<u32> = joinable(2, Unfinished::Redeliver)?;
    sender.join()?;
    sender.send(0)?;
    let time = Duration::from_millis(50);
    assert!(takes_at_least(time, || sender.join_timeout(time)).unwrap_err().is_timeout());
    let delivery = receiver.recv()?;
    assert!(takes_at_least(time, || sender.join_timeout(time)).unwrap_err().is_timeout());
    delivery.done();
    sender.join_timeout(time)?;
    assert!(receiver.try_recv().unwrap_err().is_empty());
    Ok(())
}

fn items_are_as_large_as_their_share_and_leave_no_memory() -> Outcome {
    alone(|| {
        let (sender, receiver): Ends<Vec<u8>> = joinable(1024, Unfinished::Redeliver)?;
        let refused = sender.send(vec![1; 2 << 20]).unwrap_err();
        assert!(refused.error().is_codec(), "{refused}");
        assert_eq!(refused.into_item().len(), 2 << 20);
        let item = vec![7; (2 << 20) - 100];
        for _ in 0..20 {
            sender.send(item.clone())?;
        }
        assert!(shared_memory() > 38 << 20);
        for _ in 0..20 {
            assert!(receiver.recv()?.done() == item);
        }
        assert!(shared_memory() < 4 << 20, "{}", shared_memory());
        Ok(())
    })
}

/// The bytes of shared memory that this process has in use.
fn shared_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssShmem:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

fn a_bad_item_is_refused_or_done() -> Outcome {
    let (sender, receiver): Ends<BadValue> = joinable(4, Unfinished::Redeliver)?;
    assert!(sender.send(BadValue::Unencodable).unwrap_err().error().is_codec());
    sender.send(BadValue::Undecodable)?;
    sender.send(BadValue::Fine(1))?;
    assert!(receiver.recv().unwrap_err().is_codec());
    assert_eq!(sender.unfinished(), 1);
    assert_eq!(receiver.recv()?.done(), BadValue::Fine(1));
    sender.join()?;
    let (sender, _receiver) = joinable(4, Unfinished::Redeliver)?;
    let slice = multiproc::SharedSlice::from_slice(&[1_u8])?;
    assert!(sender.send(slice).unwrap_err().error().is_codec(), "it holds a descriptor");
    Ok(())
}

/// Otherwise `flatten`, which skips errors, would meet the same error without end.
fn an_error_that_takes_no_item_ends_the_iteration() -> Outcome {
    alone(|| {
        let (sender, receiver): Ends<Vec<u8>> = joinable(4, Unfinished::Redeliver)?;
        sender.send(vec![1; LARGE])?;
        sender.send(vec![2])?;
        drop(black_box(vec![1_u8; 64 * 1024])); // the C library keeps it, for the messages of errors
        let (limit, hard) = getrlimit(Resource::RLIMIT_DATA).unwrap();
        setrlimit(Resource::RLIMIT_DATA, 1, hard).unwrap();
        assert_eq!(receiver.iter().flatten().count(), 0);
        assert_eq!(receiver.iter_timeout(TEST_TIMEOUT).flatten().count(), 0);
        assert_eq!(receiver.clone().into_iter().flatten().count(), 0);
        let mut items = receiver.iter();
        let error = items.next().unwrap().unwrap_err();
        assert_eq!(error.os_error(), Some(Errno::ENOMEM as i32), "{error}");
        setrlimit(Resource::RLIMIT_DATA, limit, hard).unwrap();
        assert!(items.next().is_none());
        drop((items, sender));
        let done: Result<Vec<_>> = receiver.iter().map(|delivery| Ok(delivery?.done())).collect();
        assert!(done? == [vec![1; LARGE], vec![2]]);
        Ok(())
    })
}

/// The C library keeps no freed memory of this size, above 32 MiB.
const LARGE: usize = 33 << 20;

fn a_copy_of_the_process_gives_nothing_back() -> Outcome {
    alone(|| {
        let (sender, receiver): Ends<u32> = joinable(1, Unfinished::Redeliver)?;
        sender.send(0)?;
        let delivery = receiver.recv()?;
        if !tests::fork_and_wait() {
            drop(delivery);
            tests::exit_at_once();
        }
        assert!(receiver.try_recv().unwrap_err().is_empty());
        delivery.done();
        sender.join()
    })
}

fn nothing_is_lost_however_many_receivers_are_killed() -> Outcome {
    const ITEMS: u32 = 2_000;
    let note = |receiver: JoinableReceiver<u32>, done: Atomic<[u32]>| -> Result<()> {
        for delivery in receiver {
            let delivery = delivery?;
            done[*delivery as usize].fetch_add(1, SeqCst);
            delivery.done();
        }
        Ok(())
    };
    let (sender, receiver): Ends<u32> = joinable(16, Unfinished::Redeliver)?;
    let done = Atomic::from_slice(&[0_u32; ITEMS as usize])?;
    let start = || Process::spawn(note, (receiver.clone(), done.clone()));
    let feeder = std::thread::spawn(move || -> Result<()> {
        (0..ITEMS).try_for_each(|number| sender.send(number))?;
        sender.join_timeout(TEST_TIMEOUT)
    });
    let mut servers = vec![start()?, start()?];
    let begun = Instant::now();
    for round in 0_u64.. {
        if feeder.is_finished() || begun.elapsed() > TEST_TIMEOUT {
            break;
        }
        std::thread::sleep(Duration::from_micros(500 * (round * 7 % 13)));
        let victim = servers.remove(0);
        victim.kill()?;
        let _ = victim.join(); // it may have been at its end
        servers.push(start()?);
    }
    feeder.join().unwrap()?;
    drop(receiver);
    servers.into_iter().try_for_each(|server| server.join()?)?;
    assert!(done.iter().all(|count| count.load(SeqCst) >= 1));
    Ok(())
}

fn any_bytes_in_its_memory_are_a_joinable_queue() -> Outcome {
    let (sender, receiver): Ends<u32> = joinable(64, Unfinished::Report)?;
    corrupt(&(sender, receiver), |(sender, receiver): Ends<u32>| {
        let time = Duration::from_millis(1);
        let _ = sender.send_timeout(1, time);
        let delivery = receiver.recv_timeout(time);
        let _ = (sender.join_timeout(time), sender.unfinished());
        drop(delivery);
    })
}

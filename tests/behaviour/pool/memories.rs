//! Items that share memory: slices and locks that many items of a call hold.

use std::thread;

use multiproc::queue::{Sender, bounded};
use multiproc::sync::{Event, Mutex};
use multiproc::{Pool, Result, SharedSlice};
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, raise};

use crate::support::{Outcome, TEST_TIMEOUT, descriptors, trials};

trials![
    items_find_what_they_share_however_much_there_is,
    inline_items_find_what_they_share,
    items_with_a_time_limit_find_what_they_share,
    items_share_memory_and_hold_other_descriptors,
    an_item_that_shares_memory_may_run_again,
    an_item_may_run_again_whatever_memory_it_holds,
    memories_that_are_sent_in_vain_do_not_fill_a_worker_s_socket,
    an_item_that_shares_memory_leaves_a_worker_that_is_busy,
    a_new_worker_finds_what_items_share,
    a_worker_keeps_a_few_memories,
    a_worker_without_free_descriptors_says_so_and_finds_the_memory_later,
    a_worker_that_loses_memory_keeps_no_end_of_a_queue,
];

fn slices(count: usize) -> Result<Vec<SharedSlice<usize>>> {
    (0..count).map(|number| SharedSlice::from_slice(&[number; 600])).collect()
}

/// The slice's number, and the item's.
fn look((slice, number): (SharedSlice<usize>, usize)) -> (usize, usize) {
    assert!(slice.len() == 600 && slice.iter().all(|element| *element == slice[0]));
    (slice[0], number)
}

/// Looks at more slices than a worker keeps, at a few of them at a time and at all in turn.
fn check_looks(pool: &Pool, options: multiproc::pool::CallOptions<'_>) -> Outcome {
    let slices = slices(20)?;
    for stride in [1, 7, 150] {
        let which = |number: usize| number / stride % 20;
        let items = (0..900).map(|number| (slices[which(number)].clone(), number));
        let looks = options.map(look, items)?;
        assert!(looks.into_iter().eq((0..900).map(|number| (which(number), number))));
    }
    assert_eq!(pool.apply(|| 7, ())?, 7);
    Ok(())
}

fn items_find_what_they_share_however_much_there_is() -> Outcome {
    let pool = Pool::new(3)?;
    check_looks(&pool, pool.options())
}

fn inline_items_find_what_they_share() -> Outcome {
    let pool = Pool::builder().workers(1).inline(true).build()?;
    check_looks(&pool, pool.options())
}

fn items_with_a_time_limit_find_what_they_share() -> Outcome {
    let pool = Pool::new(2)?;
    check_looks(&pool, pool.options().timeout(TEST_TIMEOUT))
}

fn items_share_memory_and_hold_other_descriptors() -> Outcome {
    let pool = Pool::new(2)?;
    let (total, (sender, receiver)) = (Mutex::new(0)?, bounded::<u64>(100)?);
    let add = |(total, sender, number): (Mutex<u64>, Sender<u64>, u64)| {
        *total.lock().unwrap() += number;
        sender.send(number).is_ok()
    };
    let sent = pool.map(add, (0..100).map(|number| (total.clone(), sender.clone(), number)))?;
    assert!(sent.into_iter().all(|is_sent| is_sent));
    drop(sender);
    let mut numbers: Vec<u64> = receiver.iter().collect::<Result<_>>()?; // ends: no worker has kept a sender
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(0..100));
    assert_eq!(*total.lock().unwrap(), 4950);
    Ok(())
}

/// Kills its worker if the event is not set.
fn die_once((event, number): (Event, u64)) -> u64 {
    if !event.is_set() {
        event.set();
        let _ = raise(Signal::SIGKILL);
    }
    number
}

fn an_item_that_shares_memory_may_run_again() -> Outcome {
    let pool = Pool::new(1)?;
    let event = Event::new()?;
    for has_travelled in [false, true] {
        event.clear();
        let retrying = pool.options().retries(1);
        let numbers = retrying.map(die_once, (0..50).map(|number| (event.clone(), number)))?;
        assert!(numbers.into_iter().eq(0..50), "{has_travelled}");
    }
    Ok(())
}

fn an_item_may_run_again_whatever_memory_it_holds() -> Outcome {
    let pool = Pool::builder().workers(1).chunk_size(20).build()?;
    let events = (0..9).map(|_| Event::new()).collect::<Result<Vec<_>>>()?;
    for _ in 0..2 {
        events.iter().for_each(Event::clear);
        let items = events.iter().cloned().zip(0..);
        assert!(pool.options().retries(1).map(die_once, items)?.into_iter().eq(0..9));
    }
    Ok(())
}

fn memories_that_are_sent_in_vain_do_not_fill_a_worker_s_socket() -> Outcome {
    let pool = Pool::new(1)?;
    let events = (0..9).map(|_| Event::new()).collect::<Result<Vec<_>>>()?;
    let is_set = |event: Event| event.is_set();
    for event in &events {
        assert!(!pool.apply(is_set, (event.clone(),))?);
    }
    let latch = Event::new()?;
    let wait = |event: Event| event.wait_timeout(TEST_TIMEOUT);
    for is_busy in [true, false].into_iter().cycle().take(20) {
        let running = is_busy.then(|| pool.submit(wait, (latch.clone(),))).transpose()?;
        while running.as_ref().is_some_and(|running| !running.is_running()) {
            thread::yield_now();
        }
        // Each is dispatched at once, if at all, and withdrawn before the worker claims it.
        for event in events.iter().cycle().take(600) {
            pool.submit(is_set, (event.clone(),))?.cancel();
        }
        latch.set();
        if let Some(running) = running {
            assert!(running.get()?);
        }
        latch.clear();
        let mut handle = pool.submit(|text: String| text.len(), ("large".repeat(20_000),))?;
        assert_eq!(handle.get_timeout(TEST_TIMEOUT)?, Some(100_000));
    }
    Ok(())
}

/// Waits, if it is the first item, until an event that the last one sets.
fn wait_for_last((event, number): (Event, u64)) -> bool {
    match number {
        0 => event.wait_timeout(TEST_TIMEOUT),
        99 => {
            event.set();
            true
        }
        _ => true,
    }
}

fn an_item_that_shares_memory_leaves_a_worker_that_is_busy() -> Outcome {
    let pool = Pool::builder().workers(2).chunk_size(100).build()?;
    let event = Event::new()?;
    let is_same = |(event, set): (Event, bool)| event.is_set() == set;
    assert!(pool.apply(is_same, ((event.clone(), false),))?);
    let waited = pool.map(wait_for_last, (0..100).map(|number| (event.clone(), number)))?;
    assert!(waited.into_iter().all(|is_set| is_set));
    Ok(())
}

fn a_new_worker_finds_what_items_share() -> Outcome {
    let pool = Pool::new(1)?;
    let slices = slices(3)?;
    for round in 0..5 {
        let items = || (0..30).map(|number| (slices[number % 3].clone(), number));
        let looks = pool.map(look, items())?;
        assert!(looks.into_iter().eq((0..30).map(|number| (number % 3, number))), "round {round}");
        assert_eq!(pool.apply(|| raise(Signal::SIGKILL).is_ok(), ()).unwrap_err().signal(), Some(9));
    }
    Ok(())
}

fn a_worker_keeps_a_few_memories() -> Outcome {
    let pool = Pool::new(1)?;
    let open = || pool.apply(|| descriptors().len(), ());
    let before = open()?;
    for round in 1..=5 {
        let slices = slices(20)?;
        let twice = slices.iter().chain(&slices).cloned().zip(0..);
        assert_eq!(pool.map(look, twice)?.len(), 40);
        // Eight that items may name, and eight that are kept mapped.
        assert!(open()? <= before + 16, "{} descriptors, {before} before round {round}", open()?);
    }
    Ok(())
}

/// Leaves this process no free descriptor, or as many as it had.
fn limit(is_limited: bool) -> bool {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let soft = if is_limited { 3 } else { hard };
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).is_ok()
}

fn a_worker_without_free_descriptors_says_so_and_finds_the_memory_later() -> Outcome {
    let pool = Pool::new(1)?;
    let slices = slices(2)?;
    let items = || (0..10).map(|number| (slices[number % 2].clone(), number));
    for slice in &slices {
        pool.apply(look, ((slice.clone(), 0),))?; // the first time it travels by itself
    }
    assert!(pool.apply(limit, (true,))?);
    for result in pool.map_results(look, items())? {
        assert_eq!(result.unwrap_err().os_error(), Some(Errno::EMFILE as i32));
    }
    assert!(pool.apply(limit, (false,))?);
    let looks = pool.options().timeout(TEST_TIMEOUT).map(look, items())?;
    assert!(looks.into_iter().eq((0..10).map(|number| (number % 2, number))));
    Ok(())
}

/// Sets the event's limit as [`limit`] does, and says whether it is in force.
fn limited((event, is_limited): (Event, bool)) -> bool {
    event.is_set() && limit(is_limited)
}

fn a_worker_that_loses_memory_keeps_no_end_of_a_queue() -> Outcome {
    let pool = Pool::new(1)?;
    let event = Event::new()?;
    event.set();
    // The same function lifts the limit, so that no other header than that of the lost memory is in force.
    assert!(pool.apply(limited, ((event.clone(), true),))?);
    let error = pool.apply(limited, ((event.clone(), false),)).unwrap_err();
    assert_eq!(error.os_error(), Some(Errno::EMFILE as i32), "{error}");
    let (sender, receiver) = bounded::<u32>(1)?;
    let send = |_: Event, sender: Sender<u32>| sender.send(1).is_ok();
    let lost = pool.starmap_results(send, [(event.clone(), sender)])?;
    let error = lost[0].as_ref().unwrap_err();
    assert_eq!(error.os_error(), Some(Errno::EMFILE as i32), "{error}");
    assert!(receiver.recv_timeout(TEST_TIMEOUT).unwrap_err().is_disconnected());
    assert!(pool.apply(limit, (false,))?);
    assert!(pool.apply(limited, ((event.clone(), false),))?);
    Ok(())
}

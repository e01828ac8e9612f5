//! The backlog keeps the order of chunks, and withdraws and cancels in constant time.

use std::io::Read as _;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::*;
use crate::fd::Fd;
use crate::pool::RetryPolicy;
use crate::pool::call::Options;
use crate::pool::chunk::ChunkBuilder;
use crate::pool::result_batch::ResultBatch;
use crate::task::{RunOnce, TaskId};
use crate::testing::thread_time;

fn chunk(call: &Arc<Call>) -> impl Iterator<Item = Chunk> {
    let mut builder = ChunkBuilder::new(0);
    builder.add(&(7_u64,)).unwrap();
    builder.pack(call, 0)
}

fn call(priority: i8) -> Arc<Call> {
    let task = TaskId::of::<RunOnce, _, (u64,)>(|number: u64| number).unwrap();
    Call::new(task, Options { priority, ..Options::default() }, false, Arc::default())
}

/// The priorities of all chunks, in their order.
fn drain(backlog: &mut Backlog) -> Vec<i8> {
    let mut priorities = Vec::new();
    while let Some(chunk) = backlog.front_mut() {
        priorities.push(chunk.call.options.priority);
        backlog.pop_front();
    }
    priorities
}

#[test]
fn a_step_of_priority_is_worth_ten_seconds_of_waiting() {
    const SECOND: u64 = 1_000_000_000;
    let mut backlog = Backlog::default();
    for (second, priority) in [(100, 0), (100, -1), (105, 1), (109, 0), (111, 1), (122, 2), (121, 1)] {
        backlog.extend(chunk(&call(priority)), second * SECOND);
    }
    assert_eq!(drain(&mut backlog), [1, 0, 1, 2, 0, -1, 1]);
    // The same moment: by priority, and in the order of submission among equals.
    for (priority, number) in [(0, 1), (127, 2), (-128, 3), (0, 4)] {
        let mut chunks: Vec<_> = chunk(&call(priority)).collect();
        chunks[0].first = number;
        backlog.extend(chunks.into_iter(), 5);
    }
    let numbers: Vec<_> = std::iter::from_fn(|| {
        let number = backlog.front_mut()?.first;
        backlog.pop_front();
        Some(number)
    })
    .collect();
    assert_eq!(numbers, [2, 1, 4, 3]);
}

/// Adds chunks of priorities by turns; returns the time.
fn time_to_add(count: u64, priorities: [i8; 2]) -> Duration {
    let calls = priorities.map(call);
    let mut backlog = Backlog::default();
    let begun = Instant::now();
    for number in 0..count {
        backlog.extend(chunk(&calls[usize::from(number % 2 == 0)]), number);
    }
    let time = begun.elapsed();
    let order = drain(&mut backlog);
    assert!(order.is_sorted_by(|one, next| one >= next) && order.len() as u64 == count);
    time
}

#[test]
fn to_add_a_chunk_of_a_higher_priority_takes_constant_time() {
    // Caches that other programs fill may slow down one of the two.
    let ratio = |_| time_to_add(40_000, [0, 1]).as_secs_f64() / time_to_add(40_000, [0, 0]).as_secs_f64();
    let ratios = [0, 1, 2].map(ratio);
    assert!(ratios.iter().any(|&ratio| ratio < 5.0), "{ratios:?}");
}

#[test]
fn what_is_put_back_keeps_its_rank() {
    let (low, high) = (call(0), call(1));
    let mut backlog = Backlog::default();
    backlog.extend(chunk(&low).chain(chunk(&low)), 5);
    let revoked: Vec<_> = backlog.queues[0].chunks.drain(..).collect();
    low.leave_backlog(2);
    backlog.extend(chunk(&high).chain(chunk(&low)), 6);
    backlog.put_back(revoked);
    assert_eq!(drain(&mut backlog), [1, 0, 0, 0]);
}

/// A call whose items are run again after this pause.
fn pausing_call(pause: Duration) -> Arc<Call> {
    let task = TaskId::of::<RunOnce, _, (u64,)>(|number: u64| number).unwrap();
    let retry = RetryPolicy::new(9).backoff(pause, pause);
    Call::new(task, Options { retry, ..Options::default() }, false, Arc::default())
}

/// A chunk of the call, whose worker has died.
fn dead(call: &Arc<Call>) -> Vec<Chunk> {
    let died = |mut chunk: Chunk| {
        chunk.deaths.push(Error::invalid("it died"));
        chunk
    };
    chunk(call).map(died).collect()
}

#[test]
fn a_pausing_chunk_is_not_dispatched_before_its_pause_is_over() {
    const PAUSE: Duration = Duration::from_millis(20);
    let (soon, late, other) =
        (pausing_call(PAUSE), pausing_call(Duration::MAX), pausing_call(Duration::ZERO));
    let mut backlog = Backlog::default();
    let end = RunningTime::after(PAUSE);
    backlog.run_again(dead(&late));
    backlog.run_again(dead(&soon));
    assert!(backlog.front_mut().is_none() && !backlog.is_empty() && backlog.pausing() == 2);
    backlog.run_again(dead(&other));
    assert!(Arc::ptr_eq(&backlog.front_mut().unwrap().call, &other));
    backlog.pop_front();
    while !backlog.end_pauses() {
        assert!(backlog.pauses_until().is_some_and(|until| Some(until) >= end));
    }
    assert!(end.is_some_and(RunningTime::is_past) && backlog.pauses_of_calls.len() == 1);
    assert!(Arc::ptr_eq(&backlog.front_mut().unwrap().call, &soon));
    backlog.pop_front();
    let error = Error::invalid("it is over");
    assert!(backlog.fail_pausing(&late, &error) && late.take().len() == 1);
    assert!(backlog.is_empty() && !backlog.fail_pausing(&late, &error));
    backlog.run_again(dead(&late));
    backlog.fail(&error);
    assert!(backlog.is_empty() && late.has_arrived());
}

#[test]
fn a_call_of_many_pausing_items_fails_alone_and_as_a_whole() {
    let (many, one) = (pausing_call(Duration::MAX), pausing_call(Duration::MAX));
    let mut backlog = Backlog::default();
    for _ in 0..100 {
        backlog.run_again(dead(&many));
    }
    backlog.run_again(dead(&one));
    assert!(backlog.fail_pausing(&many, &Error::invalid("it is cancelled")));
    assert!(backlog.pausing() == 1 && backlog.pauses_of_calls.len() == 1);
    assert!(!one.has_arrived() && many.take().len() == 100);
}

#[test]
fn a_chunk_that_comes_back_to_a_withdrawn_call_is_cancelled() {
    let (one, mut backlog) = (call(0), Backlog::default());
    one.hold_back(3);
    backlog.extend(chunk(&one).chain(chunk(&one)), 0);
    assert!(backlog.withdraw(&one));
    one.deliver_cancelled(1); // a worker has the third
    assert!(!one.has_arrived());
    backlog.put_back(chunk(&one).collect());
    assert!(one.all_results::<u64>().is_some_and(|results| results.unwrap_err().is_cancelled()));
}

/// The time for each of `count` calls, each with one item in a pause, to cancel them one by one.
fn time_to_cancel(count: u32) -> Duration {
    let calls: Vec<_> = (0..count).map(|_| pausing_call(Duration::MAX)).collect();
    let mut backlog = Backlog::default();
    for call in &calls {
        backlog.run_again(dead(call));
    }
    let error = Error::invalid("it is cancelled");
    let begun = thread_time();
    for call in calls.iter().rev() {
        assert!(backlog.fail_pausing(call, &error));
    }
    let time = thread_time().saturating_sub(begun);
    assert!(backlog.is_empty() && backlog.pauses_of_calls.is_empty());
    time / count
}

#[test]
fn to_cancel_a_pausing_item_does_not_take_longer_the_more_there_are() {
    // Caches that other programs fill may slow down one of the two.
    let ratio = |_| time_to_cancel(20_000).as_secs_f64() / time_to_cancel(1_000).as_secs_f64();
    let ratios = [0, 1, 2].map(ratio);
    assert!(ratios.iter().any(|&ratio| ratio < 4.0), "{ratios:?}");
}

fn calls(count: usize) -> Vec<Arc<Call>> {
    let task = TaskId::of::<RunOnce, _, (u64,)>(|number: u64| number).unwrap();
    (0..count).map(|_| Call::new(task, Options::default(), false, Arc::default())).collect()
}

#[test]
fn withdrawn_chunks_are_not_dispatched_and_do_not_stay() {
    let calls = calls(1_000);
    let mut backlog = Backlog::default();
    backlog.extend(calls.iter().flat_map(chunk), 1);
    for (number, call) in calls.iter().enumerate().filter(|(number, _)| number % 10 != 3) {
        assert!(backlog.withdraw(call) && !backlog.withdraw(call), "{number}");
        let live = 1_000 - (0..=number).filter(|number| number % 10 != 3).count();
        assert!(backlog.len() <= (2 * live).max(live + MIN_SWEEP), "{live}");
    }
    assert_eq!(backlog.items(usize::MAX), 100);
    assert_eq!(backlog.items(7), 7);
    let mut number = 3;
    while let Some(chunk) = backlog.front_mut() {
        assert!(Arc::ptr_eq(&chunk.call, &calls[number]));
        number += 10;
        backlog.pop_front();
    }
    assert!(number == 1_003 && backlog.is_empty());
}

#[test]
fn revoked_chunks_of_a_withdrawn_call_fail_at_once() {
    let calls = calls(3);
    let mut backlog = Backlog::default();
    backlog.extend(calls.iter().flat_map(chunk), 1);
    assert!(backlog.withdraw(&calls[1]));
    backlog.put_back(chunk(&calls[1]).collect());
    backlog.put_back(chunk(&calls[2]).collect());
    assert!(Arc::ptr_eq(&backlog.front_mut().unwrap().call, &calls[2]));
    assert_eq!(backlog.items(9), 3);
    backlog.fail(&Error::invalid("it is over"));
    assert!(backlog.is_empty() && backlog.front_mut().is_none());
    let lost: Vec<u64> = calls.iter().map(|call| call.take().iter().map(ResultBatch::count).sum()).collect();
    assert_eq!(lost, [1, 1, 2]);
}

/// A chunk of the call with a descriptor, and the other end of that.
fn chunk_with_descriptor(call: &Arc<Call>) -> (Chunk, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut builder = ChunkBuilder::new(0);
    builder.add(&(Fd::from(theirs),)).unwrap();
    (builder.pack(call, 0).next().unwrap(), ours)
}

fn is_closed(mut stream: &UnixStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    stream.read(&mut [0]).is_ok_and(|count| count == 0)
}

#[test]
fn a_withdrawn_chunk_closes_its_descriptors_at_once_and_no_others() {
    let calls = calls(3);
    let mut backlog = Backlog::default();
    let (chunks, ends): (Vec<_>, Vec<_>) = calls.iter().map(chunk_with_descriptor).unzip();
    backlog.extend(chunks.into_iter(), 1);
    let revoked: Vec<_> = backlog.queues[0].chunks.drain(..1).collect();
    calls[0].leave_backlog(1);
    let (more, end_of_more) = chunk_with_descriptor(&calls[1]);
    backlog.extend([more].into_iter(), 1);
    backlog.put_back(revoked);
    assert!(backlog.withdraw(&calls[1]));
    assert_eq!([&ends[0], &ends[1], &ends[2], &end_of_more].map(is_closed), [false, true, false, true]);
    assert!(backlog.withdraw(&calls[0]) && is_closed(&ends[0]));
    assert!(Arc::ptr_eq(&backlog.front_mut().unwrap().call, &calls[2]) && !is_closed(&ends[2]));
}

/// The time for each of `count` calls to withdraw them, the last first. Every hundredth has a descriptor.
fn time_to_withdraw(count: usize) -> Duration {
    let calls = calls(count);
    let mut backlog = Backlog::default();
    let (with_descriptors, _ends): (Vec<_>, Vec<_>) =
        calls.iter().step_by(100).map(chunk_with_descriptor).unzip();
    let mut with_descriptors = with_descriptors.into_iter();
    for (number, call) in calls.iter().enumerate() {
        let of_call = if number % 100 == 0 { with_descriptors.next() } else { chunk(call).next() };
        backlog.extend(of_call.into_iter(), 1);
    }
    let begun = thread_time();
    for call in calls.iter().step_by(100).rev() {
        assert!(backlog.withdraw(call));
    }
    thread_time().saturating_sub(begun) / u32::try_from(count / 100).unwrap()
}

#[test]
fn to_withdraw_a_descriptor_does_not_take_longer_the_more_chunks_there_are() {
    // Caches that other programs fill may slow down one of the two.
    let ratio = |_| time_to_withdraw(50_000).as_secs_f64() / time_to_withdraw(2_000).as_secs_f64();
    let ratios = [0, 1, 2].map(ratio);
    assert!(ratios.iter().any(|&ratio| ratio < 5.0), "{ratios:?}");
}

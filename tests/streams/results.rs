//! The stream of `imap`.

use std::thread;
use std::time::Duration;

use multiproc::{Pool, Process, Result, pipe};
use smol::stream::StreamExt;

use crate::{Latch, Outcome, block, is_pending, rest, under_every_executor};

fn square(number: u64) -> u64 {
    number * number
}

fn slow_square(number: u64) -> u64 {
    thread::sleep(Duration::from_millis(2));
    square(number)
}

fn square_or_die(number: u64) -> u64 {
    if number == 5 {
        std::process::abort();
    }
    square(number)
}

#[test]
fn results_are_awaited_in_order_under_every_executor() -> Outcome {
    tests::watched("results_are_awaited_in_order_under_every_executor", || {
        let pool = Pool::new(2)?;
        for results in under_every_executor(|| rest(pool.imap(square, 0..10_000).into_stream())) {
            assert_eq!(results?, (0..10_000).map(square).collect::<Vec<_>>());
        }
        for results in under_every_executor(|| rest(pool.imap_unordered(slow_square, 0..40).into_stream())) {
            assert_eq!(results?.iter().sum::<u64>(), (0..40).map(square).sum());
        }
        Ok(())
    })
}

#[test]
fn streams_of_one_pool_and_a_blocked_caller_do_not_hinder_each_other() -> Outcome {
    tests::watched("streams_of_one_pool", || {
        let pool = Pool::new(2)?;
        let (latch, theirs) = pipe()?;
        thread::scope(|scope| {
            let caller = scope.spawn(|| pool.apply(block, (theirs,))); // drives the pool
            latch.recv()?;
            let streams = (0..4)
                .map(|_| scope.spawn(|| smol::block_on(rest(pool.imap(slow_square, 0..20).into_stream()))));
            for stream in streams.collect::<Vec<_>>() {
                assert_eq!(stream.join().unwrap()?.len(), 20);
            }
            drop(latch);
            Ok(caller.join().unwrap()?)
        })
    })
}

#[test]
fn poll_next_does_not_wait_for_a_task() -> Outcome {
    tests::watched("poll_next_does_not_wait_for_a_task", || {
        let pool = Pool::new(1)?;
        let (latch, theirs) = pipe::<(), ()>()?;
        let mut results = pool.imap(block, vec![theirs]).into_stream();
        assert!(is_pending(&mut results)); // it would block until the latch is dropped
        latch.recv()?;
        assert!(is_pending(&mut results));
        drop(latch);
        smol::block_on(results.next()).unwrap()?;
        assert!(smol::block_on(results.next()).is_none());
        Ok(())
    })
}

/// Runs in a child.
fn await_result(latch: Latch, waits: Latch) -> Duration {
    let pool = Pool::new(1).unwrap();
    let mut results = pool.imap(block, vec![latch]).into_stream();
    smol::block_on(tests::cpu_time_of_wait(results.next(), waits))
}

#[test]
fn a_stream_that_waits_takes_no_cpu_time() -> Outcome {
    tests::watched("a_stream_that_waits_takes_no_cpu_time", || {
        let ((latch, its_latch), (waits, its_waits)) = (pipe()?, pipe()?);
        let child = Process::spawn(await_result, (its_latch, its_waits))?;
        tests::assert_wait_is_idle(child, waits, || drop(latch));
        Ok(())
    })
}

#[test]
fn a_death_is_the_error_of_one_result() -> Outcome {
    tests::watched("a_death_is_the_error_of_one_result", || {
        let pool = Pool::builder().workers(2).chunk_size(1).build()?;
        for results in
            under_every_executor(|| pool.imap(square_or_die, 0..10).into_stream().collect::<Vec<_>>())
        {
            assert_eq!(results.len(), 10);
            let failed: Vec<usize> = (0..10).filter(|&index| results[index].is_err()).collect();
            assert_eq!(failed, [5]);
        }
        Ok(())
    })
}

#[test]
fn a_stream_of_a_pool_that_ends_ends() -> Outcome {
    tests::watched("a_stream_of_a_pool_that_ends_ends", || {
        let pool = Pool::new(1)?;
        let (latch, theirs) = pipe::<(), ()>()?;
        let results = pool.imap(block, vec![theirs]).into_stream();
        let thread = thread::scope(|scope| {
            let thread = scope.spawn(|| smol::block_on(results.collect::<Vec<Result<()>>>()));
            latch.recv()?;
            pool.terminate();
            Ok::<_, multiproc::Error>(thread.join().unwrap())
        })?;
        assert!(matches!(&thread[..], [Err(_)]), "{thread:?}");
        assert_eq!(smol::block_on(pool.imap(square, 0..3).into_stream().collect::<Vec<_>>()).len(), 1);
        Ok(())
    })
}

#[test]
fn a_dropped_stream_withdraws_what_has_not_begun() -> Outcome {
    tests::watched("a_dropped_stream_withdraws_what_has_not_begun", || {
        let pool = Pool::builder().workers(1).chunk_size(1).build()?;
        let (latch, theirs): (Latch, Latch) = pipe()?;
        let running = pool.submit(block, (theirs,))?;
        latch.recv()?;
        let (report, theirs) = pipe::<(), ()>()?;
        let mut results = pool.imap(block, vec![theirs]).into_stream();
        assert!(is_pending(&mut results));
        drop(results);
        drop(latch);
        running.get()?;
        assert_eq!(pool.apply(square, (3,))?, 9);
        assert!(report.recv().is_err(), "the withdrawn task has run");
        Ok(())
    })
}

//! `Semaphore`: order, killed holders and waiters, and overwritten memory.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use multiproc::sync::{Atomic, Semaphore};
use multiproc::{ErrorKind, Process, Result};
use nix::sys::signal::Signal;

use super::{Stage, corrupt, ends_soon, killed, reached, started, takes_at_least};
use crate::support::{Outcome, alone, send_signal, trials, wait_for_state};

trials![
    as_many_as_there_are_permits_pass_at_a_time,
    permits_of_a_killed_process_come_back,
    a_killed_waiter_is_passed_over,
    a_dead_holder_is_noticed_behind_a_stopped_waiter,
    a_permit_goes_back_with_its_guard_and_never_twice,
    many_are_taken_at_once_and_in_order,
    permits_are_given_in_the_order_of_the_calls,
    a_timed_acquire_ends_on_time,
    impossible_numbers_are_refused,
    a_permit_belongs_to_its_process_whatever_thread_has_it,
    a_copy_of_the_process_gives_nothing_back,
    any_bytes_in_its_memory_are_a_semaphore,
];

fn as_many_as_there_are_permits_pass_at_a_time() -> Outcome {
    let handles = (Semaphore::new(3)?, Atomic::new(0_u32)?, Atomic::new(0_u32)?);
    let pass = |(semaphore, inside, most): (Semaphore, Atomic<u32>, Atomic<u32>)| -> Result<()> {
        for _ in 0..300 {
            let _permit = semaphore.acquire()?;
            most.fetch_max(inside.fetch_add(1, SeqCst) + 1, SeqCst);
            inside.fetch_sub(1, SeqCst);
        }
        Ok(())
    };
    let children: Vec<_> = (0..5).map(|_| Process::spawn(pass, (handles.clone(),))).collect::<Result<_>>()?;
    children.into_iter().try_for_each(|child| child.join()?)?;
    let (semaphore, _, most) = handles;
    assert!((1..=3).contains(&most.load(SeqCst)));
    assert_eq!(semaphore.available(), 3);
    Ok(())
}

fn hold(semaphore: Semaphore, stage: Stage) -> Result<()> {
    let _permits = semaphore.acquire_many(2)?;
    stage.send(())?;
    let _ = stage.recv();
    Ok(())
}

fn permits_of_a_killed_process_come_back() -> Outcome {
    let semaphore = Semaphore::new(2)?;
    let (child, _stage) = started(hold, &semaphore)?;
    assert!(semaphore.try_acquire().unwrap_err().is_timeout());
    killed(child);
    assert_eq!(ends_soon(|| semaphore.acquire_many(2))?.count(), 2);
    let (child, _stage) = started(hold, &semaphore)?;
    killed(child);
    assert_eq!(semaphore.try_acquire()?.count(), 1);
    Ok(())
}

fn take(semaphore: Semaphore, stage: Stage) -> Result<u32> {
    stage.send(())?;
    Ok(semaphore.acquire()?.count())
}

fn a_killed_waiter_is_passed_over() -> Outcome {
    let semaphore = Semaphore::new(2)?;
    let permit = semaphore.acquire_many(2)?;
    let mut waiters = Vec::new();
    for _ in 0..3 {
        waiters.push(started(take, &semaphore)?);
        wait_for_state(waiters.last().unwrap().0.pid(), 'S');
    }
    killed(waiters.remove(0).0);
    drop(permit);
    for (waiter, _) in waiters {
        assert_eq!(ends_soon(|| waiter.join())??, 1);
    }
    assert_eq!(ends_soon(|| semaphore.acquire_many(2))?.count(), 2);
    Ok(())
}

fn a_dead_holder_is_noticed_behind_a_stopped_waiter() -> Outcome {
    let semaphore = Semaphore::new(2)?;
    let (holder, _holds) = started(hold, &semaphore)?;
    let (waiter, _waits) = started(take, &semaphore)?;
    wait_for_state(waiter.pid(), 'S');
    send_signal(waiter.pid(), Signal::SIGSTOP);
    wait_for_state(waiter.pid(), 'T');
    killed(holder);
    assert_eq!(semaphore.acquire_timeout(Duration::from_millis(50))?.count(), 1);
    assert_eq!(ends_soon(|| semaphore.acquire())?.count(), 1);
    killed(waiter);
    Ok(())
}

fn a_permit_goes_back_with_its_guard_and_never_twice() -> Outcome {
    let semaphore = Semaphore::new(2)?;
    for _ in 0..1_000 {
        let permit = semaphore.acquire()?;
        assert_eq!(semaphore.available(), 1);
        drop(permit);
    }
    assert_eq!((semaphore.available(), semaphore.permits()), (2, 2));
    Ok(())
}

fn many_are_taken_at_once_and_in_order() -> Outcome {
    let semaphore = Semaphore::new(2)?;
    let one = semaphore.acquire()?;
    let (both, stage) = started(
        |semaphore: Semaphore, stage: Stage| -> Result<()> {
            stage.send(())?;
            let _permits = semaphore.acquire_many(2)?;
            stage.recv()
        },
        &semaphore,
    )?;
    wait_for_state(both.pid(), 'S');
    assert!(semaphore.try_acquire().unwrap_err().is_timeout(), "overtaken");
    drop(one);
    crate::support::eventually("both are taken", || semaphore.available() == 0);
    stage.send(())?;
    both.join()??;
    Ok(())
}

/// Each waiter takes the next place in the list as soon as it has the only permit.
fn permits_are_given_in_the_order_of_the_calls() -> Outcome {
    type Handles = (Semaphore, Atomic<u32>);
    let pass = |(semaphore, places): Handles, stage: Stage| -> Result<u32> {
        stage.send(())?;
        let _permit = semaphore.acquire()?;
        let place = places.fetch_add(1, SeqCst);
        stage.send(())?;
        stage.recv()?;
        Ok(place)
    };
    let handles = (Semaphore::new(1)?, Atomic::new(0)?);
    let wait = || -> Result<_> {
        let waiter = started(pass, &handles)?;
        wait_for_state(waiter.0.pid(), 'S');
        Ok(waiter)
    };
    let permit = handles.0.acquire()?;
    let mut waiters = vec![wait()?, wait()?];
    drop(permit);
    reached(&waiters[0].1)?;
    // This one waits last, where the first permit's entry was.
    waiters.push(wait()?);
    for (expected, (waiter, stage)) in (0..).zip(waiters) {
        if expected > 0 {
            reached(&stage)?;
        }
        stage.send(())?;
        assert_eq!(waiter.join()??, expected);
    }
    Ok(())
}

fn a_timed_acquire_ends_on_time() -> Outcome {
    let semaphore = Semaphore::new(1)?;
    let _permit = semaphore.acquire()?;
    let time = Duration::from_millis(30);
    let error = takes_at_least(time, || semaphore.acquire_timeout(time).unwrap_err());
    assert_eq!(error.to_string(), "timed out waiting to take a permit");
    let none = semaphore.try_acquire().unwrap_err();
    assert_eq!((none.kind(), none.to_string().as_str()), (ErrorKind::Timeout, "no permit is free"));
    Ok(())
}

fn impossible_numbers_are_refused() -> Outcome {
    assert!(Semaphore::new(0).is_err() && Semaphore::new(65_537).is_err());
    let semaphore = Semaphore::new(2)?;
    assert!(semaphore.acquire_many(0).is_err());
    let error = semaphore.acquire_many(3).unwrap_err();
    assert_eq!(error.to_string(), "3 permits of a semaphore that has 2");
    Ok(())
}

fn a_permit_belongs_to_its_process_whatever_thread_has_it() -> Outcome {
    let semaphore = Semaphore::new(1)?;
    let permit = std::thread::scope(|scope| scope.spawn(|| semaphore.acquire()).join().unwrap())?;
    assert!(semaphore.try_acquire().is_err());
    drop(permit);
    assert!(semaphore.try_acquire().is_ok());
    Ok(())
}

fn a_copy_of_the_process_gives_nothing_back() -> Outcome {
    alone(|| {
        let semaphore = Semaphore::new(1)?;
        let permit = semaphore.acquire()?;
        if !tests::fork_and_wait() {
            drop(permit);
            tests::exit_at_once();
        }
        assert_eq!(semaphore.available(), 0);
        Ok(())
    })
}

fn any_bytes_in_its_memory_are_a_semaphore() -> Outcome {
    corrupt(&Semaphore::new(3)?, |semaphore: Semaphore| {
        let permit = semaphore.acquire_timeout(Duration::from_millis(1));
        let _ = (semaphore.try_acquire(), semaphore.available());
        drop(permit);
    })
}

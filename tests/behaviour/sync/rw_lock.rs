//! `RwLock`: readers and writers, fairness, deaths, and overwritten memory.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;
use std::{mem, thread};

use multiproc::sync::{Atomic, LockError, RwLock};
use multiproc::{ErrorKind, Process, Result};

use super::{Stage, corrupt, ends_soon, killed, reached, started, takes_at_least};
use crate::support::{Outcome, trials, wait_for_state};

trials![
    readers_share_it_and_writers_do_not,
    a_killed_reader_leaves_it_to_a_writer_unpoisoned,
    a_killed_writer_poisons_the_lock_for_the_next,
    a_writer_that_panics_poisons_it,
    a_thread_that_ends_while_it_writes_poisons_it,
    writers_do_not_starve_among_readers,
    a_reader_does_not_overtake_a_writer,
    a_killed_waiter_holds_no_other_up,
    timed_calls_end_on_time,
    a_thread_that_would_wait_for_itself_is_told,
    a_thread_that_reads_too_often_is_told,
    any_bytes_in_its_memory_are_a_lock,
];

type Lock = RwLock<[u64; 2]>;

fn readers_share_it_and_writers_do_not() -> Outcome {
    let lock = RwLock::new([0_u64; 2])?;
    let write = |lock: Lock| -> Result<()> {
        for _ in 0..500 {
            lock.write()?[0] += 1;
            lock.write()?[1] += 1;
            let [first, second] = *lock.read()?;
            assert!(first >= second);
        }
        Ok(())
    };
    let children: Vec<_> = (0..3).map(|_| Process::spawn(write, (lock.clone(),))).collect::<Result<_>>()?;
    children.into_iter().try_for_each(|child| child.join()?)?;
    assert_eq!(*lock.read()?, [1_500; 2]);
    let (reader, stage) = started(read, &lock)?;
    assert_eq!(*lock.try_read()?, [1_500; 2]);
    let taken = lock.try_write().unwrap_err().into_error();
    assert_eq!((taken.kind(), taken.to_string().as_str()), (ErrorKind::Timeout, "the lock is taken"));
    drop(stage);
    reader.join()??;
    assert!(lock.try_write().is_ok());
    Ok(())
}

/// Reads until the stage is gone.
fn read(lock: Lock, stage: Stage) -> Result<()> {
    let _guard = lock.read()?;
    stage.send(())?;
    let _ = stage.recv();
    Ok(())
}

/// Writes until the stage is gone.
fn write(lock: Lock, stage: Stage) -> Result<()> {
    let mut guard = lock.write()?;
    guard[0] = 7;
    stage.send(())?;
    let _ = stage.recv();
    Ok(())
}

fn a_killed_reader_leaves_it_to_a_writer_unpoisoned() -> Outcome {
    let lock = RwLock::new([1, 2])?;
    let (reader, _stage) = started(read, &lock)?;
    killed(reader);
    ends_soon(|| lock.write())?[0] = 3;
    assert!(!lock.is_poisoned());
    Ok(())
}

fn a_killed_writer_poisons_the_lock_for_the_next() -> Outcome {
    let lock = RwLock::new([1, 2])?;
    let (writer, _stage) = started(write, &lock)?;
    let pid = killed(writer);
    let error = ends_soon(|| lock.read()).unwrap_err();
    assert!(error.to_string().contains("was killed by SIGKILL while it held the lock"), "{error}");
    assert_eq!(error.error().pid(), Some(pid));
    assert_eq!(*error.into_guard()?, [1, 2]);
    assert!(lock.try_write().unwrap_err().error().is_poisoned());
    lock.clear_poison();
    assert_eq!(*lock.write()?, [1, 2]);
    Ok(())
}

fn a_writer_that_panics_poisons_it() -> Outcome {
    let lock = RwLock::new([1, 2])?;
    let panic = |lock: Lock| -> () {
        let mut guard = lock.write().unwrap();
        guard[0] = 9;
        panic!("on purpose");
    };
    assert!(Process::spawn(panic, (lock.clone(),))?.join().unwrap_err().is_panic());
    let error = lock.read().unwrap_err();
    assert!(error.error().is_poisoned());
    assert_eq!(*error.into_guard()?, [1, 2]);
    Ok(())
}

fn a_thread_that_ends_while_it_writes_poisons_it() -> Outcome {
    let lock = RwLock::new([1, 2])?;
    let other = lock.clone();
    thread::spawn(move || mem::forget(other.write())).join().unwrap();
    let error = ends_soon(|| lock.read()).unwrap_err();
    let pid = std::process::id();
    let expected = format!("the lock is poisoned: a thread of process {pid} ended while it held the lock");
    assert_eq!((error.to_string(), error.error().pid()), (expected, Some(pid)));
    Ok(())
}

fn writers_do_not_starve_among_readers() -> Outcome {
    let (lock, is_over) = (RwLock::new([0_u64; 2])?, Atomic::new(false)?);
    let read = |(lock, is_over): (Lock, Atomic<bool>), stage: Stage| -> Result<()> {
        let mut guard = lock.read()?;
        stage.send(())?;
        while !is_over.load(SeqCst) {
            // Another reader always reads meanwhile, or soon after.
            thread::sleep(Duration::from_micros(100));
            drop(guard);
            guard = lock.read()?;
        }
        Ok(())
    };
    let handles = (lock.clone(), is_over.clone());
    let children: Vec<_> = (0..4).map(|_| started(read, &handles)).collect::<Result<_>>()?;
    for _ in 0..20 {
        lock.write()?[0] += 1;
    }
    is_over.store(true, SeqCst);
    children.into_iter().try_for_each(|(child, _)| child.join()?)?;
    assert_eq!(lock.read()?[0], 20);
    Ok(())
}

fn a_reader_does_not_overtake_a_writer() -> Outcome {
    let lock = RwLock::new([1, 2])?;
    let (reader, reading) = started(read, &lock)?;
    let wait = |lock: Lock, stage: Stage| -> Result<()> {
        stage.send(())?;
        lock.write()?[0] = 7;
        Ok(())
    };
    let (writer, _stage) = started(wait, &lock)?;
    wait_for_state(writer.pid(), 'S');
    assert!(lock.try_read().unwrap_err().error().is_timeout(), "overtaken");
    drop(reading);
    assert_eq!(*lock.read()?, [7, 2], "overtaken");
    reader.join()??;
    Ok(writer.join()??)
}

fn a_killed_waiter_holds_no_other_up() -> Outcome {
    let lock = RwLock::new([1, 2])?;
    let guard = lock.read()?;
    let wait = |lock: Lock, stage: Stage| -> Result<()> {
        stage.send(())?;
        write(lock, stage)
    };
    let (writer, _stage) = started(wait, &lock)?;
    wait_for_state(writer.pid(), 'S');
    let (reader, stage) = started(
        |lock: Lock, stage: Stage| -> Result<()> {
            stage.send(())?;
            let _guard = lock.read()?;
            Ok(stage.send(())?)
        },
        &lock,
    )?;
    wait_for_state(reader.pid(), 'S');
    killed(writer);
    reached(&stage)?;
    reader.join()??;
    drop(guard);
    assert!(!lock.is_poisoned());
    Ok(())
}

fn timed_calls_end_on_time() -> Outcome {
    let lock = RwLock::new([1, 2])?;
    let (_writer, _stage) = started(write, &lock)?;
    let time = Duration::from_millis(30);
    assert!(takes_at_least(time, || lock.read_timeout(time).unwrap_err()).error().is_timeout());
    assert!(takes_at_least(time, || lock.write_timeout(time).unwrap_err()).error().is_timeout());
    Ok(())
}

fn a_thread_that_would_wait_for_itself_is_told() -> Outcome {
    let lock = RwLock::new([1, 2])?;
    let deadlock = Some(nix::errno::Errno::EDEADLK as i32);
    let reading = lock.read()?;
    assert_eq!(lock.write().unwrap_err().error().os_error(), deadlock);
    let (writer, stage) = started(
        |lock: Lock, stage: Stage| -> Result<()> {
            stage.send(())?;
            write(lock, stage)
        },
        &lock,
    )?;
    wait_for_state(writer.pid(), 'S');
    assert!(lock.read().is_ok(), "behind a writer that waits for this thread");
    drop(reading);
    reached(&stage)?;
    drop(stage);
    writer.join()??;
    let _writing = lock.write()?;
    assert_eq!(lock.read().unwrap_err().error().os_error(), deadlock);
    Ok(())
}

fn a_thread_that_reads_too_often_is_told() -> Outcome {
    let lock = RwLock::new([1, 2])?;
    let mut guards = Vec::new();
    let error = loop {
        match lock.read() {
            Ok(guard) => guards.push(guard),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, LockError::Failed(_)) && guards.len() >= 1000, "{error} after {}", guards.len());
    drop(guards);
    assert_eq!(*ends_soon(|| lock.write())?, [1, 2]);
    Ok(())
}

fn any_bytes_in_its_memory_are_a_lock() -> Outcome {
    corrupt(&RwLock::new([1, 2])?, |lock: Lock| {
        let time = Duration::from_millis(1);
        if let Ok(mut guard) = lock.write_timeout(time).or_else(LockError::into_guard) {
            guard[1] = guard[1].wrapping_add(1);
        }
        drop(lock.read_timeout(time));
        lock.clear_poison();
    })
}

//! `Mutex`: exclusion, poison, killed holders and waiters, and slices.

use std::mem;
use std::thread;
use std::time::Duration;

use bytemuck_derive::{Pod, Zeroable};
use multiproc::sync::{LockError, Mutex};
use multiproc::{ErrorKind, Process, Result, TaskError};

use super::{Stage, corrupt, ends_soon, killed, started, takes_at_least};
use crate::support::{Outcome, alone, descriptors, trials, wait_for_state};

trials![
    one_thread_at_a_time_holds_it,
    a_killed_holder_poisons_the_lock_for_the_next,
    a_holder_killed_while_others_wait_leaves_it_to_them,
    a_killed_holder_leaves_the_old_value,
    a_killed_holder_of_a_slice_leaves_what_it_has_set,
    a_holder_that_exits_poisons_it,
    a_holder_that_panics_poisons_it,
    a_thread_that_ends_while_it_holds_it_poisons_it,
    cleared_poison_is_gone_for_all,
    a_waiter_that_is_killed_harms_no_other,
    a_timed_lock_ends_on_time,
    a_thread_that_takes_it_twice_is_told,
    a_slice_is_changed_element_by_element,
    it_travels_through_a_pipe_and_back,
    a_task_can_return_that_a_lock_is_poisoned,
    values_of_any_size_arrive_whole,
    any_bytes_in_its_memory_are_a_mutex,
    a_copy_of_the_process_neither_writes_nor_releases,
    nothing_is_left_of_it,
];

fn one_thread_at_a_time_holds_it() -> Outcome {
    let count = Mutex::new(0_u64)?;
    let add = |count: Mutex<u64>| -> Result<()> {
        for _ in 0..5_000 {
            *count.lock()? += 1;
        }
        Ok(())
    };
    let children: Vec<_> = (0..4).map(|_| Process::spawn(add, (count.clone(),))).collect::<Result<_>>()?;
    children.into_iter().try_for_each(|child| child.join()?)?;
    assert_eq!(*count.lock()?, 20_000);
    Ok(())
}

/// Changes the value, says so, and holds the mutex until the stage is gone.
fn hold(mutex: Mutex<u64>, stage: Stage) -> Result<()> {
    let mut value = mutex.lock()?;
    *value = 99;
    stage.send(())?;
    let _ = stage.recv();
    Ok(())
}

fn a_killed_holder_poisons_the_lock_for_the_next() -> Outcome {
    let mutex = Mutex::new(5)?;
    let (child, _stage) = started(hold, &mutex)?;
    let name = child.name().to_owned();
    let pid = killed(child);
    let Err(LockError::Poisoned(poisoned)) = ends_soon(|| mutex.lock()) else { panic!("not told") };
    let error = poisoned.error().clone();
    assert!(error.is_poisoned());
    assert_eq!((error.pid(), error.signal()), (Some(pid), Some(9)));
    let expected = format!(
        "the mutex is poisoned: process {name:?} ({pid}) was killed by SIGKILL while it held the mutex"
    );
    assert_eq!(error.to_string(), expected);
    assert_eq!(*poisoned.into_guard(), 5);
    assert!(mutex.is_poisoned());
    Ok(())
}

fn a_holder_killed_while_others_wait_leaves_it_to_them() -> Outcome {
    let mutex = Mutex::new(5)?;
    let (holder, _stage) = started(hold, &mutex)?;
    let wait = |mutex: Mutex<u64>, stage: Stage| {
        let _ = stage.send(());
        mutex.lock().map(|guard| *guard).map_err(|error| error.error().pid())
    };
    let waiters = (0..3).map(|_| started(wait, &mutex)).collect::<Result<Vec<_>>>()?;
    let pid = killed(holder);
    for (waiter, _stage) in waiters {
        assert_eq!(ends_soon(|| waiter.join())?, Err(Some(pid)));
    }
    Ok(())
}

fn a_killed_holder_leaves_the_old_value() -> Outcome {
    let mutex = Mutex::new(5)?;
    let (child, _stage) = started(hold, &mutex)?;
    killed(child);
    assert_eq!(*mutex.try_lock().or_else(LockError::into_guard)?, 5);
    let (child, stage) = started(|mutex: Mutex<u64>, stage: Stage| hold_poisoned(&mutex, &stage), &mutex)?;
    stage.send(())?;
    child.join()??;
    assert_eq!(*mutex.lock().or_else(LockError::into_guard)?, 7);
    Ok(())
}

fn hold_poisoned(mutex: &Mutex<u64>, stage: &Stage) -> Result<()> {
    *mutex.lock().or_else(LockError::into_guard)? = 7;
    stage.send(())?;
    stage.recv()
}

/// An element is written when it is set, and a value when its guard is dropped.
fn a_killed_holder_of_a_slice_leaves_what_it_has_set() -> Outcome {
    let mutex = Mutex::from_slice(&[1_u64, 2, 3])?;
    let hold = |mutex: Mutex<[u64]>, stage: Stage| -> Result<()> {
        let mut elements = mutex.lock()?;
        elements.set(1, 20);
        stage.send(())?;
        let _ = stage.recv();
        elements.set(2, 30);
        Ok(())
    };
    let (child, _stage) = started(hold, &mutex)?;
    let pid = killed(child);
    let Err(LockError::Poisoned(poisoned)) = ends_soon(|| mutex.lock()) else { panic!("not told") };
    assert_eq!((poisoned.error().pid(), poisoned.error().signal()), (Some(pid), Some(9)));
    assert_eq!(poisoned.into_guard().to_vec(), [1, 20, 3]);
    assert!(mutex.is_poisoned());
    Ok(())
}

fn a_holder_that_exits_poisons_it() -> Outcome {
    let mutex = Mutex::new(())?;
    let exit = |mutex: Mutex<()>| -> () {
        let _guard = mutex.lock();
        std::process::exit(3);
    };
    let child = Process::spawn(exit, (mutex.clone(),))?;
    let pid = child.pid();
    assert_eq!(child.join().unwrap_err().exit_code(), Some(3));
    let error = mutex.lock().unwrap_err().error().clone();
    assert_eq!((error.pid(), error.exit_code()), (Some(pid), Some(3)));
    Ok(())
}

fn a_holder_that_panics_poisons_it() -> Outcome {
    let mutex = Mutex::new(1_u8)?;
    let panic = |mutex: Mutex<u8>| -> () {
        let mut guard = mutex.lock().unwrap();
        *guard = 2;
        panic!("on purpose");
    };
    let child = Process::spawn(panic, (mutex.clone(),))?;
    let pid = child.pid();
    assert!(child.join().unwrap_err().is_panic());
    let error = mutex.lock().unwrap_err();
    assert!(error.to_string().contains("panicked while it held the mutex"), "{error}");
    assert_eq!(error.error().pid(), Some(pid));
    assert_eq!(*error.into_guard()?, 1);
    Ok(())
}

/// Its process lives, and is not said to have died.
fn a_thread_that_ends_while_it_holds_it_poisons_it() -> Outcome {
    let mutex = Mutex::new(5)?;
    let leak = |mutex: Mutex<u64>, stage: Stage| {
        thread::spawn(move || mem::forget(mutex.lock())).join().unwrap();
        let _ = stage.send(());
        let _ = stage.recv();
    };
    let (child, stage) = started(leak, &mutex)?;
    let error = ends_soon(|| mutex.lock()).unwrap_err();
    let expected =
        format!("the mutex is poisoned: a thread of process {} ended while it held the mutex", child.pid());
    assert_eq!((error.to_string(), error.error().pid()), (expected, Some(child.pid())));
    drop((error, stage));
    child.join()?;
    Ok(())
}

fn cleared_poison_is_gone_for_all() -> Outcome {
    let mutex = Mutex::new(5)?;
    let (child, _stage) = started(hold, &mutex)?;
    killed(child);
    *mutex.lock().or_else(LockError::into_guard)? = 6;
    assert!(mutex.lock().is_err());
    Process::spawn(|mutex: Mutex<u64>| mutex.clear_poison(), (mutex.clone(),))?.join()?;
    assert_eq!(*mutex.lock()?, 6);
    Ok(())
}

fn a_waiter_that_is_killed_harms_no_other() -> Outcome {
    let mutex = Mutex::new(5)?;
    let (holder, stage) = started(hold, &mutex)?;
    let wait = |mutex: Mutex<u64>, stage: Stage| -> Result<u64> {
        stage.send(())?;
        Ok(*mutex.lock()?)
    };
    let mut waiters = (0..3).map(|_| started(wait, &mutex)).collect::<Result<Vec<_>>>()?;
    for (waiter, _) in &waiters {
        wait_for_state(waiter.pid(), 'S');
    }
    killed(waiters.remove(0).0);
    drop(stage);
    holder.join()??;
    for (waiter, _) in waiters {
        assert_eq!(ends_soon(|| waiter.join())??, 99);
    }
    assert!(!mutex.is_poisoned());
    Ok(())
}

fn a_timed_lock_ends_on_time() -> Outcome {
    let mutex = Mutex::new(5)?;
    let (_child, _stage) = started(hold, &mutex)?;
    let time = Duration::from_millis(30);
    let error = takes_at_least(time, || mutex.lock_timeout(time).unwrap_err());
    assert_eq!(error.to_string(), "timed out waiting to take a mutex");
    let taken = mutex.try_lock().unwrap_err().into_error();
    assert_eq!((taken.kind(), taken.to_string().as_str()), (ErrorKind::Timeout, "the mutex is taken"));
    Ok(())
}

fn a_thread_that_takes_it_twice_is_told() -> Outcome {
    let mutex = Mutex::new(0_u32)?;
    let _guard = mutex.lock()?;
    assert_eq!(mutex.lock().unwrap_err().error().os_error(), Some(nix::errno::Errno::EDEADLK as i32));
    Ok(())
}

fn a_slice_is_changed_element_by_element() -> Outcome {
    let mutex = Mutex::from_slice(&[[1_u8, 2, 3], [4, 5, 6], [7, 8, 9]])?;
    let change = |mutex: Mutex<[[u8; 3]]>| -> Result<()> {
        let mut elements = mutex.lock()?;
        elements.set(1, [40, 50, 60]);
        assert_eq!((elements.get(2), elements.get(3)), (Some([7, 8, 9]), None));
        Ok(())
    };
    Process::spawn(change, (mutex.clone(),))?.join()??;
    let mut elements = mutex.lock()?;
    assert_eq!(elements.to_vec(), [[1, 2, 3], [40, 50, 60], [7, 8, 9]]);
    elements.copy_from_slice(1, &[[0; 3]; 2]);
    assert!(elements.iter().eq([[1, 2, 3], [0; 3], [0; 3]]));
    let set = std::panic::AssertUnwindSafe(|| elements.set(3, [0; 3]));
    assert!(std::panic::catch_unwind(set).is_err());
    assert!(Mutex::<[u64]>::zeroed(0)?.lock()?.is_empty());
    assert!(Mutex::<[u64]>::zeroed(usize::MAX).is_err());
    Ok(())
}

fn it_travels_through_a_pipe_and_back() -> Outcome {
    type Handle = Mutex<[u32]>;
    let (ours, theirs) = multiproc::pipe::<Handle, Handle>()?;
    let child = Process::spawn(
        |pipe: multiproc::Connection<Handle, Handle>| -> Result<()> {
            let mutex = pipe.recv()?;
            mutex.lock()?.set(0, 8);
            Ok(pipe.send(mutex)?)
        },
        (theirs,),
    )?;
    ours.send(Mutex::zeroed(2)?)?;
    assert_eq!(ours.recv()?.lock()?.to_vec(), [8, 0]);
    Ok(child.join()??)
}

fn a_task_can_return_that_a_lock_is_poisoned() -> Outcome {
    let mutex = Mutex::new(5)?;
    let (child, _stage) = started(hold, &mutex)?;
    killed(child);
    let task = |mutex: Mutex<u64>| -> Result<u64, TaskError> { Ok(*mutex.lock()?) };
    let error = Process::spawn(task, (mutex,))?.join()?.unwrap_err();
    assert!(error.to_string().contains("the mutex is poisoned"), "{error}");
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
struct Large {
    numbers: [u64; 512],
    tail: [u8; 8],
}

fn values_of_any_size_arrive_whole() -> Outcome {
    let large = |number| Large { numbers: [number; 512], tail: [3; 8] };
    let mutex = Mutex::new(large(1))?;
    let odd = Mutex::new([1_u8; 13])?;
    let change = |mutex: Mutex<Large>, odd: Mutex<[u8; 13]>| -> Result<()> {
        mutex.lock()?.numbers = [2; 512];
        odd.lock()?[12] = 9;
        Ok(())
    };
    Process::spawn(change, (mutex.clone(), odd.clone()))?.join()??;
    assert_eq!(*mutex.lock()?, large(2));
    assert_eq!(*odd.lock()?, [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 9]);
    Ok(())
}

fn any_bytes_in_its_memory_are_a_mutex() -> Outcome {
    corrupt(&Mutex::new(1_u64)?, |mutex: Mutex<u64>| {
        let guard = mutex.lock_timeout(Duration::from_millis(1)).or_else(LockError::into_guard);
        if let Ok(mut guard) = guard {
            *guard = guard.wrapping_add(1);
        }
        mutex.clear_poison();
    })?;
    corrupt(&Mutex::from_slice(&[1_u16; 100])?, |mutex: Mutex<[u16]>| {
        let guard = mutex.lock_timeout(Duration::from_millis(1)).or_else(LockError::into_guard);
        if let Ok(mut guard) = guard {
            guard.set(99, guard.to_vec()[0]);
        }
    })
}

fn a_copy_of_the_process_neither_writes_nor_releases() -> Outcome {
    alone(|| {
        let mutex = Mutex::new(1_u64)?;
        let mut guard = mutex.lock()?;
        if !tests::fork_and_wait() {
            *guard = 2;
            drop(guard);
            tests::exit_at_once();
        }
        let other = mutex.clone();
        let is_surely_connected = thread::spawn(move || other.try_lock().is_err());
        assert!(is_surely_connected.join().unwrap());
        drop(guard);
        assert_eq!(*mutex.lock()?, 1);
        Ok(())
    })
}

fn nothing_is_left_of_it() -> Outcome {
    alone(|| {
        let before = descriptors();
        for _ in 0..100 {
            let mutex = Mutex::new(1_u64)?;
            drop(mutex.clone());
            *mutex.lock()? = 2;
        }
        assert_eq!(descriptors(), before);
        assert!(tests::corrupter::mappings().is_empty(), "memory is still mapped");
        Ok(())
    })
}

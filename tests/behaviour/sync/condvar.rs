//! `Condvar`: notifications, killed waiters and notifiers, and overwritten memory.

use std::time::Duration;

use multiproc::sync::{Atomic, Condvar, Mutex};
use multiproc::{Process, Result};
use std::sync::atomic::Ordering::SeqCst;

use super::{Stage, corrupt, ends_soon, killed, started, takes_at_least};
use crate::support::{Outcome, eventually, trials, wait_for_state};

trials![
    as_many_wake_up_as_are_notified,
    waiting_for_a_condition_ends_when_it_holds,
    a_wait_without_a_notification_ends_on_time,
    a_notification_of_a_killed_waiter_goes_to_another,
    a_killed_notifier_keeps_no_waiter_from_a_later_notification,
    a_waiter_is_told_that_the_mutex_is_poisoned,
    a_notification_before_the_wait_wakes_no_one,
    any_bytes_in_its_memory_are_a_condition_variable,
];

/// The mutex guards the number of threads that wait; woken is the number of those that do not any more.
type Handles = (Mutex<u32>, Condvar, Atomic<u32>);

fn handles() -> Result<Handles> {
    Ok((Mutex::new(0)?, Condvar::new()?, Atomic::new(0)?))
}

fn wait((mutex, condvar, woken): Handles, stage: Stage) -> Result<()> {
    let mut guard = mutex.lock()?;
    *guard += 1;
    stage.send(())?;
    drop(condvar.wait(guard)?);
    woken.fetch_add(1, SeqCst);
    Ok(())
}

/// Starts threads that wait; each has released the mutex when this returns.
fn waiting(count: u32, handles: &Handles) -> Result<Vec<(Process<Result<()>>, Stage)>> {
    let children: Vec<_> = (0..count).map(|_| started(wait, handles)).collect::<Result<_>>()?;
    drop(handles.0.lock()?);
    Ok(children)
}

fn as_many_wake_up_as_are_notified() -> Outcome {
    let handles = handles()?;
    let children = waiting(6, &handles)?;
    let (_, condvar, woken) = &handles;
    for (step, expected) in [(1, 1), (2, 3), (0, 3)] {
        condvar.notify(step);
        eventually("they wake up", || woken.load(SeqCst) == expected);
    }
    let waiting = || children.iter().map(|(child, _)| child).filter(|child| child.is_alive());
    eventually("the others end", || waiting().count() == 3);
    waiting().for_each(|child| wait_for_state(child.pid(), 'S'));
    assert_eq!(woken.load(SeqCst), 3);
    condvar.notify_all();
    children.into_iter().try_for_each(|(child, _)| child.join()?)?;
    assert_eq!(woken.load(SeqCst), 6);
    Ok(())
}

fn waiting_for_a_condition_ends_when_it_holds() -> Outcome {
    let handles = handles()?;
    let wait = |(mutex, condvar, _): Handles, stage: Stage| -> Result<u32> {
        let guard = mutex.lock()?;
        stage.send(())?;
        Ok(*condvar.wait_while(guard, |number| *number < 3)?)
    };
    let (child, _) = started(wait, &handles)?;
    for _ in 0..3 {
        *handles.0.lock()? += 1;
        handles.1.notify_one();
    }
    assert_eq!(child.join()??, 3);
    let guard = handles.0.lock()?;
    let (guard, is_over) =
        handles.1.wait_timeout_while(guard, Duration::from_secs(50), |number| *number != 3)?;
    assert!(!is_over && *guard == 3);
    Ok(())
}

fn a_wait_without_a_notification_ends_on_time() -> Outcome {
    let (mutex, condvar, _) = handles()?;
    let time = Duration::from_millis(30);
    let (guard, is_over) = {
        let guard = mutex.lock()?;
        takes_at_least(time, || condvar.wait_timeout(guard, time))?
    };
    assert!(is_over);
    let (_guard, is_over) = takes_at_least(time, || condvar.wait_timeout_while(guard, time, |_| true))?;
    assert!(is_over);
    Ok(())
}

fn a_notification_of_a_killed_waiter_goes_to_another() -> Outcome {
    let handles = handles()?;
    let mut children = waiting(3, &handles)?;
    for (child, _) in &children {
        wait_for_state(child.pid(), 'S');
    }
    // The first two will be notified, and cannot take the mutex before they are killed.
    let guard = handles.0.lock()?;
    killed(children.remove(0).0);
    handles.1.notify(2);
    killed(children.remove(0).0);
    drop(guard);
    ends_soon(|| children.remove(0).0.join())??;
    assert_eq!(handles.2.load(SeqCst), 1);
    Ok(())
}

fn a_killed_notifier_keeps_no_waiter_from_a_later_notification() -> Outcome {
    let notify = |(_, condvar, _): Handles, stage: Stage| -> Result<()> {
        stage.send(())?;
        loop {
            condvar.notify_one();
            condvar.notify_all();
        }
    };
    let wait = |(mutex, condvar, _): Handles, stage: Stage| -> Result<u32> {
        let guard = mutex.lock()?;
        stage.send(())?;
        Ok(*condvar.wait_while(guard, |number| *number == 0)?)
    };
    for _ in 0..20 {
        let handles = handles()?;
        let (waiter, _) = started(wait, &handles)?;
        let (notifier, _) = started(notify, &handles)?;
        killed(notifier); // in the middle of a notification
        *handles.0.lock()? = 7;
        handles.1.notify_one();
        assert_eq!(ends_soon(|| waiter.join())??, 7);
    }
    Ok(())
}

fn a_waiter_is_told_that_the_mutex_is_poisoned() -> Outcome {
    let handles = handles()?;
    let mut children = waiting(1, &handles)?;
    let panic = |(mutex, condvar, _): Handles| {
        let _guard = mutex.lock()?;
        condvar.notify_all();
        panic!("on purpose");
        #[allow(unreachable_code)]
        Ok::<(), multiproc::Error>(())
    };
    assert!(Process::spawn(panic, (handles,))?.join().unwrap_err().is_panic());
    assert!(children.remove(0).0.join()?.unwrap_err().is_poisoned());
    Ok(())
}

fn a_notification_before_the_wait_wakes_no_one() -> Outcome {
    let (mutex, condvar, _) = handles()?;
    condvar.notify_one();
    condvar.notify_all();
    assert!(condvar.wait_timeout(mutex.lock()?, Duration::from_millis(1))?.1);
    Ok(())
}

fn any_bytes_in_its_memory_are_a_condition_variable() -> Outcome {
    corrupt(&Condvar::new()?, |condvar: Condvar| {
        let mutex = Mutex::new(1_u8).unwrap();
        let _ = condvar.wait_timeout(mutex.lock().unwrap(), Duration::from_millis(1));
        condvar.notify_all();
    })
}

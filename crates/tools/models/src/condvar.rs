//! Models of a condition variable: each notification wakes a thread, though threads give up or are killed.

use std::time::Duration;

use loom::thread;

use super::condvar::Condvar;
use super::models::spawn;
use super::mutex::Mutex;
use super::poison::LockError;
use crate::model;
use crate::sys::Mutation::{AcquireToRelaxed, NoDeath, NoFence, NoWake, ReleaseToRelaxed};
use crate::sys::failpoint::{Failpoint, spawn_killed};

/// A number of tokens, and the condition variable that says that there are more.
type Tokens = (Mutex<u64>, Condvar);

fn no_tokens() -> Tokens {
    (Mutex::new(0).unwrap(), Condvar::new().unwrap())
}

fn add((count, changed): &Tokens) {
    *count.lock().or_else(LockError::into_guard).unwrap() += 1;
    changed.notify_one();
}

/// Waits for a token. A thread that was killed may have poisoned the mutex.
fn take((count, changed): &Tokens) {
    let mut count = count.lock().or_else(LockError::into_guard).unwrap();
    while *count == 0 {
        count = changed.wait(count).or_else(LockError::into_guard).unwrap();
    }
    *count -= 1;
}

model!(
    a_notification_between_the_unlock_and_the_sleep_is_not_lost, notified, 3,
    detects [ReleaseToRelaxed, AcquireToRelaxed, NoWake, NoFence]
);

fn notified() {
    let tokens = no_tokens();
    let waiter = spawn(&tokens, take);
    add(&tokens);
    waiter.join().unwrap();
}

model!(
    a_notification_of_all_wakes_all, all_notified, 2,
    detects [ReleaseToRelaxed, AcquireToRelaxed, NoWake, NoFence]
);

fn all_notified() {
    let tokens = no_tokens();
    let waiters = [(); 2].map(|()| spawn(&tokens, take));
    *tokens.0.lock().unwrap() = 2;
    tokens.1.notify_all();
    for waiter in waiters {
        waiter.join().unwrap();
    }
}

model!(
    each_notification_wakes_one, one_each, 1,
    detects [ReleaseToRelaxed, AcquireToRelaxed, NoWake, NoFence]
);

/// Two threads wait, each once. So if one had both notifications, the other one would stay asleep.
fn one_each() {
    let tokens = no_tokens();
    let wait = |(count, changed): &Tokens| {
        let mut count = count.lock().unwrap();
        *count += 1;
        drop(changed.wait(count).unwrap());
    };
    let waiters = [(); 2].map(|()| spawn(&tokens, wait));
    while *tokens.0.lock().unwrap() < 2 {
        thread::yield_now();
    }
    for _ in 0..2 {
        tokens.1.notify_one();
    }
    for waiter in waiters {
        waiter.join().unwrap();
    }
}

model!(
    a_waiter_that_gives_up_takes_no_notification_away, gives_up, 3,
    detects [ReleaseToRelaxed, AcquireToRelaxed, NoWake, NoFence]
);

/// One thread waits for a token and another one waits for a moment only. If that one has the notification, it
/// knows so and passes the notification on.
fn gives_up() {
    let tokens = no_tokens();
    let hasty = spawn(&tokens, |tokens: &Tokens| {
        let (count, changed) = tokens;
        let (guard, has_timed_out) = changed.wait_timeout(count.lock().unwrap(), Duration::ZERO).unwrap();
        drop(guard);
        if !has_timed_out {
            changed.notify_one();
        }
    });
    let waiter = spawn(&tokens, take);
    add(&tokens);
    for thread in [hasty, waiter] {
        thread.join().unwrap();
    }
}

model!(a_waiter_killed_before_it_sleeps_takes_no_notification_away, killed_before_sleep, 1, detects[NoDeath]);
model!(a_waiter_killed_after_its_notification_takes_none_away, killed_after_sleep, 2, detects[NoDeath]);
model!(a_waiter_killed_with_the_mutex_takes_no_notification_away, killed_with_mutex, 1, detects[NoDeath]);

fn killed_before_sleep() {
    killed_waiter(Failpoint::SyncSleeps);
}

fn killed_after_sleep() {
    killed_waiter(Failpoint::WaiterWoken);
}

fn killed_with_mutex() {
    killed_waiter(Failpoint::WaiterAdded);
}

/// The token that one thread adds is not there yet, there, or taken.
const NONE: u64 = 0;
const THERE: u64 = 1;
const TAKEN: u64 = 2;

/// Two threads wait, of which one is killed; a third one adds a token, which the other one gets.
fn killed_waiter(point: Failpoint) {
    let tokens = no_tokens();
    let killed = spawn_killed(&tokens, point, |(count, changed)| {
        let mut count = count.lock().or_else(LockError::into_guard).unwrap();
        if *count == NONE {
            count = changed.wait(count).or_else(LockError::into_guard).unwrap();
        }
        if *count == THERE {
            changed.notify_one(); // it was notified before it could be killed
        }
    });
    let waiter = spawn(&tokens, |(count, changed): &Tokens| {
        let mut count = count.lock().or_else(LockError::into_guard).unwrap();
        while *count != THERE {
            count = changed.wait(count).or_else(LockError::into_guard).unwrap();
        }
        *count = TAKEN;
        changed.notify_all();
    });
    let adder = spawn(&tokens, add);
    if let Some(dead) = killed.join().unwrap() {
        dead.end();
    }
    for thread in [waiter, adder] {
        thread.join().unwrap();
    }
}

//! Models of waiting: no wake-up is lost, also when a notifier is killed half-way.

use std::os::fd::AsFd;

use loom::cell::Cell;
use loom::sync::Arc;
use loom::thread;

use crate::channel::wakeup_flag::WakeupFlag;
use crate::ipc::event_count::{EventCount, Sleeper};
use crate::model;
use crate::sys::Mutation::{AcquireToRelaxed, NoFence, NoWake, ReleaseToRelaxed};
use crate::sys::atomic::{AtomicU32, Relaxed};
use crate::sys::eventfd;
use crate::sys::failpoint::{Failpoint, die_at};
use crate::sys::futex;
use crate::sys::mapping::SharedMapping;
use crate::sys::mutex::Mutex;
use crate::sys::poll::Deadline;

model!(a_notification_wakes_a_waiter, event, 3, detects [NoWake, NoFence]);

/// One thread counts, another waits for each number.
fn event() {
    let words = Arc::new([AtomicU32::new(0), AtomicU32::new(0)]);
    let counter = {
        let words = Arc::clone(&words);
        thread::spawn(move || {
            for number in 1..=2 {
                words[0].store(number, Relaxed);
                EventCount(&words[1]).notify_all();
            }
        })
    };
    let [count, event] = &*words;
    for number in 1..=2 {
        while count.load(Relaxed) < number {
            let ticket = EventCount(event).prepare_wait();
            if count.load(Relaxed) < number {
                EventCount(event).wait(ticket, None);
            }
        }
    }
    counter.join().unwrap();
}

model!(a_notifier_killed_before_it_wakes_loses_no_wake_up, killed_before, 3, detects [NoWake, NoFence]);
model!(a_notifier_killed_after_it_has_woken_loses_no_wake_up, killed_after, 3, detects [NoWake, NoFence]);

fn killed_before() {
    killed_at(Failpoint::EventCountChanged);
}

fn killed_after() {
    killed_at(Failpoint::AllWoken);
}

/// One thread is killed while it notifies. A second one updates the condition of the third, and notifies as
/// well.
fn killed_at(point: Failpoint) {
    let words = Arc::new([AtomicU32::new(0), AtomicU32::new(0)]);
    let killed = {
        let words = Arc::clone(&words);
        thread::spawn(move || {
            die_at(point);
            EventCount(&words[1]).notify_all();
        })
    };
    let changer = change(&words);
    wait_for_change(&words);
    killed.join().unwrap();
    changer.join().unwrap();
}

model!(a_notification_wakes_all_waiters, two_wait, 3, detects [NoWake, NoFence]);

fn two_wait() {
    let words = Arc::new([AtomicU32::new(0), AtomicU32::new(0)]);
    let changer = change(&words);
    let other = {
        let words = Arc::clone(&words);
        thread::spawn(move || wait_for_change(&words))
    };
    wait_for_change(&words);
    other.join().unwrap();
    changer.join().unwrap();
}

fn change(words: &Arc<[AtomicU32; 2]>) -> thread::JoinHandle<()> {
    let words = Arc::clone(words);
    thread::spawn(move || {
        words[0].store(1, Relaxed);
        EventCount(&words[1]).notify_all();
    })
}

fn wait_for_change([number, event]: &[AtomicU32; 2]) {
    while number.load(Relaxed) == 0 {
        let ticket = EventCount(event).prepare_wait();
        if number.load(Relaxed) == 0 {
            EventCount(event).wait(ticket, None);
        }
    }
}

model!(a_sleeper_wakes_though_its_word_is_overwritten, overwritten, 3, detects [NoWake, NoFence]);

/// Another process overwrites the word with the value that the sleeper has set; a thread of the sleeper's own
/// process wakes it.
fn overwritten() {
    const WAITING: u32 = 1;
    let shared = Arc::new((AtomicU32::new(0), AtomicU32::new(0), Sleeper::new()));
    let overwriter = {
        let shared = Arc::clone(&shared);
        thread::spawn(move || shared.1.store(WAITING, Relaxed))
    };
    let waker = {
        let shared = Arc::clone(&shared);
        thread::spawn(move || {
            shared.0.store(1, Relaxed);
            shared.2.wake(&EventCount(&shared.1));
        })
    };
    let (change, word, sleeper) = &*shared;
    loop {
        let seen = sleeper.wakes();
        let ticket = EventCount(word).prepare_wait();
        if change.load(Relaxed) != 0 {
            break;
        }
        sleeper.wait(&EventCount(word), ticket, seen, None);
    }
    overwriter.join().unwrap();
    waker.join().unwrap();
}

model!(a_sleeper_sees_each_change_of_its_waker, wakes_twice, 3, detects [NoWake, NoFence]);

/// The second time, the sleeper may be woken and not have run, be awake, or be asleep again.
fn wakes_twice() {
    let shared = Arc::new((AtomicU32::new(0), AtomicU32::new(0), Sleeper::new()));
    let waker = {
        let shared = Arc::clone(&shared);
        thread::spawn(move || {
            for change in 1..=2 {
                shared.0.store(change, Relaxed);
                shared.2.wake(&EventCount(&shared.1));
            }
        })
    };
    let (change, word, sleeper) = &*shared;
    loop {
        let seen = sleeper.wakes();
        let ticket = EventCount(word).prepare_wait();
        if change.load(Relaxed) == 2 {
            break;
        }
        sleeper.wait(&EventCount(word), ticket, seen, None);
    }
    waker.join().unwrap();
}

model!(a_flagged_eventfd_wakes_a_waiter, flagged_eventfd, 3, detects [NoWake, NoFence]);

/// As [`event`], where the waiter polls an eventfd.
fn flagged_eventfd() {
    let shared = Arc::new((AtomicU32::new(0), AtomicU32::new(0), eventfd::create().unwrap()));
    let counter = {
        let shared = Arc::clone(&shared);
        thread::spawn(move || {
            let (count, flag, event) = &*shared;
            for number in 1..=2 {
                count.store(number, Relaxed);
                if let Some(ticket) = WakeupFlag(flag).should_notify() {
                    eventfd::notify(event.as_fd());
                    WakeupFlag(flag).clear(ticket);
                }
            }
        })
    };
    let (count, flag, event) = &*shared;
    for number in 1..=2 {
        while count.load(Relaxed) < number {
            let ticket = WakeupFlag(flag).set();
            if count.load(Relaxed) < number {
                eventfd::poll(event.as_fd());
                eventfd::clear(event.as_fd());
            }
            WakeupFlag(flag).clear(ticket);
        }
    }
    counter.join().unwrap();
}

model!(
    a_mutex_is_held_by_one_thread_at_a_time, exclusion, 3,
    detects [ReleaseToRelaxed, AcquireToRelaxed, NoWake]
);

/// Three threads lock a mutex and update the value that it guards.
fn exclusion() {
    let shared = Arc::new((SharedMapping::new(), Cell::new(0_u32)));
    let add_one = |shared: &(SharedMapping, Cell<u32>)| {
        let guard = Mutex::at(&shared.0, 0, 0).lock(Deadline::Never).unwrap();
        shared.1.set(shared.1.get() + 1);
        drop(guard);
    };
    let others = [0; 2].map(|_| {
        let shared = Arc::clone(&shared);
        thread::spawn(move || add_one(&shared))
    });
    add_one(&shared);
    for other in others {
        other.join().unwrap();
    }
    assert_eq!(shared.1.get(), 3);
}

model!(a_waiter_that_gives_up_passes_its_wake_up_on, gives_up, 1, detects[NoWake]);

/// Two threads sleep on a mutex, which is released and taken again at once. The thread that the release wakes
/// may give up then; the other one is for the next release to wake.
fn gives_up() {
    let shared = Arc::new(SharedMapping::new());
    let guard = Mutex::at(&shared, 0, 0).try_lock();
    let waiters = [Deadline::AfterSleep, Deadline::Never].map(|deadline| {
        let shared = Arc::clone(&shared);
        thread::spawn(move || drop(Mutex::at(&shared, 0, 0).lock_reporting_death(deadline, |_| {}).unwrap()))
    });
    while futex::sleepers() < waiters.len() {
        thread::yield_now();
    }
    drop(guard);
    let again = Mutex::at(&shared, 0, 0).try_lock();
    thread::yield_now();
    drop(again);
    for waiter in waiters {
        waiter.join().unwrap();
    }
}

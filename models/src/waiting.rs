//! No wake-up is lost: who waits is woken when what he waits for has come.

use loom::sync::Arc;
use loom::thread;

use crate::alarm::Alarm;
use crate::bell::Bell;
use crate::model;
use crate::sys::Lack::{Fence, Waking};
use crate::sys::Rung;
use crate::sys::atomic::{AtomicU32, Relaxed};

model!(a_bell_wakes_who_waits, bell, 3, finds [Waking, Fence]);

/// One counts, another waits for each of the numbers.
fn bell() {
    let words = Arc::new([AtomicU32::new(0), AtomicU32::new(0)]);
    let counter = {
        let words = Arc::clone(&words);
        thread::spawn(move || {
            for number in 1..=2 {
                words[0].store(number, Relaxed);
                Bell(&words[1]).ring();
            }
        })
    };
    let [count, bell] = &*words;
    for number in 1..=2 {
        while count.load(Relaxed) < number {
            let armed = Bell(bell).arm();
            if count.load(Relaxed) < number {
                Bell(bell).wait(armed, None);
            }
        }
    }
    counter.join().unwrap();
}

model!(a_bell_whose_ringer_was_killed_wakes_who_waits, orphaned_bell, 3, finds [Waking, Fence]);

/// Two count. The first is killed while he rings: after the first step, before he has woken anybody.
fn orphaned_bell() {
    let words = Arc::new([AtomicU32::new(0), AtomicU32::new(0)]);
    let counters = [true, false].map(|is_killed| {
        let words = Arc::clone(&words);
        thread::spawn(move || {
            let [count, bell] = &*words;
            count.fetch_add(1, Relaxed);
            if is_killed {
                Bell(bell).change();
            } else {
                Bell(bell).ring();
            }
        })
    });
    let [count, bell] = &*words;
    while count.load(Relaxed) < 1 {
        let armed = Bell(bell).arm();
        if count.load(Relaxed) < 1 {
            Bell(bell).wait(armed, None);
        }
    }
    for counter in counters {
        counter.join().unwrap();
    }
}

model!(an_alarm_wakes_who_waits, alarm, 3, finds [Waking, Fence]);

/// As above, with a descriptor to wait for.
fn alarm() {
    let shared = Arc::new((AtomicU32::new(0), AtomicU32::new(0), Rung::new()));
    let counter = {
        let shared = Arc::clone(&shared);
        thread::spawn(move || {
            let (count, alarm, bell) = &*shared;
            for number in 1..=2 {
                count.store(number, Relaxed);
                if let Some(armed) = Alarm(alarm).after_change() {
                    bell.ring();
                    Alarm(alarm).disarm(armed);
                }
            }
        })
    };
    let (count, alarm, bell) = &*shared;
    for number in 1..=2 {
        while count.load(Relaxed) < number {
            let armed = Alarm(alarm).arm();
            if count.load(Relaxed) < number {
                bell.poll_and_clear();
            }
            Alarm(alarm).disarm(armed);
        }
    }
    counter.join().unwrap();
}

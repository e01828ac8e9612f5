//! The mutex in shared memory: exclusion, dead holders, lost wake-ups, and overwritten words.

use std::num::NonZeroUsize;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::*;
use crate::sys::atomic::SeqCst;

fn memory() -> SharedMapping {
    SharedMapping::create(NonZeroUsize::new(4096).unwrap()).unwrap().0
}

fn mutex(memory: &SharedMapping) -> Mutex<'_> {
    Mutex::at(memory, 64, namespace())
}

fn lock(memory: &SharedMapping, deadline: Deadline) -> Option<MutexGuard<'_>> {
    mutex(memory).lock(deadline).unwrap()
}

#[test]
fn one_thread_holds_it_and_others_wait_until_their_time_is_over() {
    let memory = memory();
    let guard = mutex(&memory).try_lock().unwrap();
    thread::scope(|scope| {
        let other = scope.spawn(|| {
            let time = Duration::from_millis(20);
            let start = Instant::now();
            assert!(mutex(&memory).try_lock().is_none());
            assert!(lock(&memory, Deadline::after(time)).is_none());
            assert!(start.elapsed() >= time);
        });
        other.join().unwrap();
    });
    drop(guard);
    assert!(lock(&memory, Deadline::Never).is_some());
}

#[test]
fn threads_exclude_each_other() {
    let memory = memory();
    let count = |_| {
        for _ in 0..20_000 {
            let _guard = lock(&memory, Deadline::Never).unwrap();
            let number = memory.word32(128).load(Relaxed);
            memory.word32(128).store(number + 1, Relaxed); // two steps
        }
    };
    thread::scope(|scope| {
        [0; 4].map(|number| scope.spawn(move || count(number))).map(|it| it.join().unwrap())
    });
    assert_eq!(memory.word32(128).load(Relaxed), 80_000);
}

#[test]
fn a_thread_that_takes_it_twice_is_told() {
    let memory = memory();
    let _guard = mutex(&memory).try_lock().unwrap();
    assert!(mutex(&memory).lock(Deadline::Never).is_err());
}

/// A release has woken one waiter, and that was killed before it took the mutex.
#[test]
fn a_waiter_that_is_not_woken_tries_again() {
    let memory = memory();
    let word = memory.word64(64);
    let guard = mutex(&memory).try_lock().unwrap();
    let seen = word.fetch_or(WAITERS, SeqCst) | WAITERS;
    thread::scope(|scope| {
        let (tell, told) = mpsc::channel();
        let next_sleeps = || {
            let stat = format!("/proc/self/task/{}/stat", told.recv().unwrap());
            while !std::fs::read_to_string(&stat).unwrap().contains(") S ") {
                thread::yield_now();
            }
        };
        let first = tell.clone();
        scope.spawn(move || {
            first.send(nix::unistd::gettid()).unwrap();
            futex::wait_low_half(word, seen, None); // and does not take it
        });
        next_sleeps();
        let memory = &memory;
        scope.spawn(move || {
            tell.send(nix::unistd::gettid()).unwrap();
            assert!(lock(memory, Deadline::Never).is_some());
        });
        next_sleeps();
        drop(guard); // wakes the first
        drop(mutex(memory).try_lock());
    });
}

#[test]
fn a_mutex_whose_holder_has_ended_goes_to_the_next() {
    let memory = memory();
    thread::scope(|scope| {
        let forget = || std::mem::forget(mutex(&memory).try_lock().unwrap());
        scope.spawn(forget).join().unwrap();
    });
    assert!(mutex(&memory).try_lock().is_none());
    for _ in 0..2 {
        assert!(lock(&memory, Deadline::Never).is_some());
    }
}

#[test]
fn in_another_namespace_a_holder_counts_as_living() {
    let memory = memory();
    memory.word64(64).store(1 << 21, Relaxed);
    let elsewhere = Mutex::at(&memory, 64, namespace() + 1);
    assert!(elsewhere.lock(Deadline::after(Duration::from_millis(20))).unwrap().is_none());
    assert!(lock(&memory, Deadline::now()).is_some());
}

/// Whatever a process writes there, others take the mutex or get an error in time.
#[test]
fn any_word_is_a_mutex() {
    let memory = memory();
    let own = ThreadId::current().bits();
    let numbers = [0, 1, 2, 0xff, 0xffff, 0xffff_ffff, 1 << 31, u64::MAX, own ^ 1 << 33, own << 1];
    let numbers = numbers.into_iter().chain([own | u64::from(u32::MAX) << 32, own & 0xffff_ffff]);
    for word in numbers.flat_map(|word| [word, word | WAITERS, word << 32]) {
        memory.word64(64).store(word, Relaxed);
        assert!(lock(&memory, Deadline::Never).is_some(), "{word:x}");
    }
    memory.word64(64).store(own | WAITERS, Relaxed);
    assert!(mutex(&memory).lock(Deadline::Never).is_err());
}

#[test]
fn a_release_leaves_an_overwritten_word() {
    let memory = memory();
    for word in [0, 7, u64::MAX] {
        let guard = lock(&memory, Deadline::Never).unwrap();
        memory.word64(64).store(word, Relaxed);
        drop(guard);
        assert_eq!(memory.word64(64).load(Relaxed), word);
    }
}

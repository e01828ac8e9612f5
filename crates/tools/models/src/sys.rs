//! Stand-ins for `multiproc::sys`: atomics, futexes, eventfds and memory under loom's control.

use std::cell::Cell;

/// A mutation of the code under test, which the models must detect.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Mutation {
    /// Release stores are relaxed: they publish the word alone, and not what was written before it.
    ReleaseToRelaxed,
    /// Acquire loads are relaxed: they see the word alone, and not what was written before it.
    AcquireToRelaxed,
    /// Fences are left out: the notifier's, between its update and its check for waiters, and the waiter's,
    /// between announcing itself and its last check of the condition.
    NoFence,
    /// Wake-ups are left out.
    NoWake,
}

thread_local! {
    /// Loom runs all threads of a model on one thread of the test.
    static MUTATION: Cell<Option<Mutation>> = const { Cell::new(None) };
}

/// Sets the mutation for the models of this test.
pub(crate) fn set_mutation(mutation: Option<Mutation>) {
    MUTATION.set(mutation);
}

impl Mutation {
    fn is_active(self) -> bool {
        MUTATION.get() == Some(self)
    }
}

#[allow(dead_code)]
#[path = "../../../multiproc/src/sys/failpoint.rs"]
mod points;

/// A thread can be killed at a failpoint, as a process can: none of its later actions takes effect.
pub(crate) mod failpoint {
    use std::cell::Cell;

    pub(crate) use super::points::Failpoint;

    #[derive(Clone, Copy, PartialEq)]
    enum ThreadState {
        Lives,
        Dies(Failpoint),
        IsDead,
    }

    loom::thread_local! {
        static STATE: Cell<ThreadState> = Cell::new(ThreadState::Lives);
    }

    thread_local! {
        /// Whether this model kills a thread. Without it, `at` would use loom's thread-locals outside of a
        /// model.
        static HAS_KILLS: Cell<bool> = const { Cell::new(false) };
    }

    /// Kills this thread when it reaches the point.
    pub(crate) fn die_at(point: Failpoint) {
        HAS_KILLS.set(true);
        STATE.with(|state| state.set(ThreadState::Dies(point)));
    }

    pub(crate) fn hit(point: Failpoint) {
        if !HAS_KILLS.get() {
            return;
        }
        STATE.with(|state| {
            if state.get() == ThreadState::Dies(point) {
                state.set(ThreadState::IsDead);
            }
        });
    }

    pub(crate) fn is_dead() -> bool {
        HAS_KILLS.get() && STATE.with(Cell::get) == ThreadState::IsDead
    }
}

pub(crate) mod atomic {
    pub(crate) use loom::sync::atomic::Ordering::{self, AcqRel, Acquire, Relaxed, Release, SeqCst};

    use super::Mutation;

    fn store_order(order: Ordering) -> Ordering {
        if order == Release && Mutation::ReleaseToRelaxed.is_active() { Relaxed } else { order }
    }

    fn load_order(order: Ordering) -> Ordering {
        if order == Acquire && Mutation::AcquireToRelaxed.is_active() { Relaxed } else { order }
    }

    /// Under [`Mutation::NoFence`], only the memory orders of the operations around it remain.
    pub(crate) fn fence(order: Ordering) {
        if !Mutation::NoFence.is_active() {
            loom::sync::atomic::fence(order);
        }
    }

    macro_rules! atomic {
        ($name:ident, $number:ty) => {
            #[derive(Debug)]
            pub(crate) struct $name(loom::sync::atomic::$name);

            #[allow(dead_code)]
            impl $name {
                pub(crate) fn new(value: $number) -> Self {
                    Self(loom::sync::atomic::$name::new(value))
                }

                pub(crate) fn load(&self, order: Ordering) -> $number {
                    self.0.load(load_order(order))
                }

                pub(crate) fn store(&self, value: $number, order: Ordering) {
                    if super::failpoint::is_dead() {
                        return;
                    }
                    self.0.store(value, store_order(order));
                }

                pub(crate) fn fetch_or(&self, value: $number, order: Ordering) -> $number {
                    self.0.fetch_or(value, order)
                }

                pub(crate) fn fetch_add(&self, value: $number, order: Ordering) -> $number {
                    if super::failpoint::is_dead() {
                        return value;
                    }
                    self.0.fetch_add(value, order)
                }

                pub(crate) fn fetch_update(
                    &self,
                    success: Ordering,
                    failure: Ordering,
                    change: impl FnMut($number) -> Option<$number>,
                ) -> Result<$number, $number> {
                    self.0.fetch_update(load_order(store_order(success)), failure, change)
                }

                pub(crate) fn compare_exchange(
                    &self,
                    current: $number,
                    new: $number,
                    success: Ordering,
                    failure: Ordering,
                ) -> Result<$number, $number> {
                    if super::failpoint::is_dead() {
                        return Ok(current);
                    }
                    self.0.compare_exchange(current, new, load_order(store_order(success)), failure)
                }

                pub(crate) fn swap(&self, value: $number, order: Ordering) -> $number {
                    self.0.swap(value, order)
                }
            }
        };
    }

    atomic!(AtomicU32, u32);
    atomic!(AtomicU64, u64);
}

/// The kernel's guarantee: comparing the word and going to sleep are one atomic step with regard to wake-ups.
pub(crate) mod futex {
    use std::time::Duration;

    use loom::sync::{Condvar, Mutex};

    use super::Mutation;
    use super::atomic::{AtomicU32, AtomicU64, SeqCst};

    loom::lazy_static! {
        static ref SLEEPERS: (Mutex<usize>, Condvar) = (Mutex::new(0), Condvar::new());
    }

    pub(crate) fn wait(word: &AtomicU32, expected: u32, _time: Option<Duration>) {
        wait_while(|| word.load(SeqCst) == expected);
    }

    /// The kernel compares the low half alone.
    #[allow(clippy::cast_possible_truncation)]
    pub(crate) fn wait_low_half(word: &AtomicU64, expected: u64, _time: Option<Duration>) {
        wait_while(|| word.load(SeqCst) as u32 == expected as u32);
    }

    pub(crate) fn wake_all(_word: &AtomicU32) -> usize {
        wake()
    }

    /// Wakes more threads than the kernel would; each of them re-checks its condition.
    pub(crate) fn wake_one_at_low_half(_word: &AtomicU64) {
        wake();
    }

    fn wait_while(is_as_expected: impl Fn() -> bool) {
        let mut sleepers = SLEEPERS.0.lock().unwrap();
        if is_as_expected() {
            *sleepers += 1;
            drop(SLEEPERS.1.wait(sleepers).unwrap());
        }
    }

    fn wake() -> usize {
        let mut sleepers = SLEEPERS.0.lock().unwrap();
        let woken = *sleepers;
        if !Mutation::NoWake.is_active() && !super::failpoint::is_dead() {
            *sleepers = 0;
            SLEEPERS.1.notify_all();
        }
        woken
    }

    pub(crate) fn pause() {
        loom::thread::yield_now();
    }
}

#[allow(dead_code)]
#[path = "../../../multiproc/src/sys/mutex.rs"]
pub(crate) mod mutex;

/// Threads of a model do not end while they hold a mutex.
pub(crate) mod thread_id {
    pub(crate) fn namespace() -> u64 {
        0
    }

    #[derive(Clone, Copy, PartialEq, Eq)]
    pub(crate) struct ThreadId(u64);

    loom::lazy_static! {
        static ref LAST: loom::sync::atomic::AtomicU32 = loom::sync::atomic::AtomicU32::new(0);
    }

    loom::thread_local! {
        static CURRENT: u32 = LAST.fetch_add(1, loom::sync::atomic::Ordering::Relaxed) + 1;
    }

    impl ThreadId {
        pub(crate) fn current() -> Self {
            CURRENT.with(|&number| Self(number.into()))
        }

        pub(crate) fn from_bits(bits: u64) -> Self {
            Self(bits)
        }

        pub(crate) fn bits(self) -> u64 {
            self.0
        }

        #[allow(clippy::unused_self)] // as the library has it
        pub(crate) fn has_ended(self) -> bool {
            false
        }
    }
}

pub(crate) mod cpus {
    /// A model does not spin: loom already lets each load return every value that it may return.
    pub(crate) fn is_smp() -> bool {
        false
    }

    pub(crate) fn should_spin(_in_vain: u32) -> bool {
        false
    }

    pub(crate) fn spin(
        _: std::time::Duration,
        _: u32,
        _: std::time::Duration,
        _: impl FnMut() -> bool,
    ) -> bool {
        false
    }
}

/// An eventfd: `poll` waits until it is readable, and it stays readable until it is cleared.
#[derive(Debug)]
pub(crate) struct EventFd {
    readable: loom::sync::Mutex<bool>,
    change: loom::sync::Condvar,
}

impl EventFd {
    pub(crate) fn new() -> Self {
        Self { readable: loom::sync::Mutex::new(false), change: loom::sync::Condvar::new() }
    }

    pub(crate) fn notify(&self) {
        if !Mutation::NoWake.is_active() {
            *self.readable.lock().unwrap() = true;
            self.change.notify_all();
        }
    }

    pub(crate) fn poll(&self) {
        let mut readable = self.readable.lock().unwrap();
        while !*readable {
            readable = self.change.wait(readable).unwrap();
        }
    }

    pub(crate) fn clear(&self) {
        *self.readable.lock().unwrap() = false;
    }

    pub(crate) fn poll_and_clear(&self) {
        self.poll();
        self.clear();
    }
}

pub(crate) mod eventfd {
    use super::EventFd;

    pub(crate) fn notify(event: &EventFd) {
        event.notify();
    }

    pub(crate) fn clear(event: &EventFd) {
        event.clear();
    }
}

pub(crate) mod poll {
    use std::time::Duration;

    use super::EventFd;
    use crate::error::Result;

    /// No time passes in a model.
    #[derive(Clone, Copy)]
    pub(crate) enum Deadline {
        Never,
        Over,
    }

    impl Deadline {
        pub(crate) fn now() -> Self {
            Self::Over
        }

        pub(crate) fn after(_time: Duration) -> Self {
            Self::Over
        }

        pub(crate) fn left(self) -> Option<Duration> {
            self.is_over().then_some(Duration::ZERO)
        }

        pub(crate) fn or_within(self, _time: Duration) -> Self {
            self
        }

        pub(crate) fn has_slack(self) -> bool {
            !self.is_over()
        }

        pub(crate) fn is_over(self) -> bool {
            matches!(self, Self::Over)
        }
    }

    #[derive(Clone, Copy, Debug, Default)]
    pub(crate) struct PollEvents {
        pub(crate) readable: bool,
        pub(crate) hung_up: bool,
    }

    /// The other end stays open while the model runs.
    #[allow(clippy::unnecessary_wraps)] // as the library has it
    pub(crate) fn poll_event_or_hangup(
        event: &EventFd,
        _socket: &EventFd,
        time: Option<Duration>,
    ) -> Result<PollEvents> {
        if time.is_none() {
            event.poll();
        }
        Ok(PollEvents { readable: time.is_none(), hung_up: false })
    }
}

/// Frames in a model have no ancillary packets.
pub(crate) mod socket {
    use super::EventFd;

    pub(crate) fn is_surely_connected(_socket: &EventFd) -> bool {
        true
    }

    pub(crate) fn waiting_packet(_socket: &EventFd) -> Option<Vec<u8>> {
        None
    }

    pub(crate) fn discard(_socket: &EventFd) {}
}

pub(crate) mod mapping {
    use loom::sync::Arc;

    use super::atomic::{AtomicU32, AtomicU64};

    /// The words of two [areas](crate::channel::endpoint::AREAS) and no others: each adds to the states that
    /// loom explores.
    #[derive(Clone, Debug)]
    pub(crate) struct SharedMapping(Arc<(Vec<AtomicU32>, Vec<AtomicU64>)>);

    const AREA: usize = crate::channel::endpoint::AREAS / 2;
    const WORDS32: [usize; 4] = [64, 68, 72, 136];
    const WORDS64: [usize; 4] = [0, 48, 56, 128];

    impl SharedMapping {
        pub(crate) fn new() -> Self {
            let zeros = 0..2 * WORDS32.len();
            let words = zeros.clone().map(|_| AtomicU32::new(0)).collect();
            Self(Arc::new((words, zeros.map(|_| AtomicU64::new(0)).collect())))
        }

        pub(crate) fn word32(&self, offset: usize) -> &AtomicU32 {
            &self.0.0[index(offset, &WORDS32)]
        }

        pub(crate) fn word64(&self, offset: usize) -> &AtomicU64 {
            &self.0.1[index(offset, &WORDS64)]
        }
    }

    fn index(offset: usize, words: &[usize]) -> usize {
        let within = words.iter().position(|&word| word == offset % AREA);
        offset / AREA * words.len() + within.expect("a word that this model does not have")
    }
}

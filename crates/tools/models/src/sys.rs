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
    /// Threads that were killed count as living.
    NoDeath,
    /// A compare-and-exchange changes nothing, and says that it did.
    NoExchange,
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
        match order {
            Release if Mutation::ReleaseToRelaxed.is_active() => Relaxed,
            AcqRel if Mutation::ReleaseToRelaxed.is_active() => Acquire,
            order => order,
        }
    }

    fn load_order(order: Ordering) -> Ordering {
        match order {
            Acquire if Mutation::AcquireToRelaxed.is_active() => Relaxed,
            AcqRel if Mutation::AcquireToRelaxed.is_active() => Release,
            order => order,
        }
    }

    /// Under [`Mutation::NoFence`], only the memory orders of the operations around it remain.
    pub(crate) fn fence(order: Ordering) {
        if !Mutation::NoFence.is_active() {
            loom::sync::atomic::fence(order);
        }
    }

    /// Loom has no asymmetric barrier: both of its sides are full fences here.
    pub(crate) fn light_fence() {
        fence(SeqCst);
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

                pub(crate) fn fetch_and(&self, value: $number, order: Ordering) -> $number {
                    self.0.fetch_and(value, store_order(order))
                }

                pub(crate) fn fetch_or(&self, value: $number, order: Ordering) -> $number {
                    self.0.fetch_or(value, order)
                }

                pub(crate) fn fetch_add(&self, value: $number, order: Ordering) -> $number {
                    if super::failpoint::is_dead() {
                        return value;
                    }
                    self.0.fetch_add(value, store_order(order))
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
                    if super::failpoint::is_dead() || Mutation::NoExchange.is_active() {
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
    use std::ptr;
    use std::time::Duration;

    use loom::sync::{Condvar, Mutex};

    use super::Mutation;
    use super::atomic::{AtomicU32, AtomicU64, SeqCst};

    /// Which words threads wait for, in the order in which they fell asleep.
    #[derive(Default)]
    struct Sleepers {
        last: u32,
        queue: Vec<(u32, usize)>,
    }

    loom::lazy_static! {
        static ref SLEEPERS: (Mutex<Sleepers>, Condvar) = (Mutex::new(Sleepers::default()), Condvar::new());
    }

    pub(crate) fn wait(word: &AtomicU32, expected: u32, _time: Option<Duration>) {
        wait_while(ptr::from_ref(word).addr(), || word.load(SeqCst) == expected);
    }

    /// The kernel compares the low half alone.
    #[allow(clippy::cast_possible_truncation)]
    pub(crate) fn wait_low_half(word: &AtomicU64, expected: u64, _time: Option<Duration>) {
        wait_while(ptr::from_ref(word).addr(), || word.load(SeqCst) as u32 == expected as u32);
    }

    pub(crate) fn wake_all(word: &AtomicU32) -> usize {
        wake(ptr::from_ref(word).addr(), usize::MAX)
    }

    pub(crate) fn wake_one_at_low_half(word: &AtomicU64) {
        wake(ptr::from_ref(word).addr(), 1);
    }

    fn wait_while(word: usize, is_as_expected: impl Fn() -> bool) {
        let mut sleepers = SLEEPERS.0.lock().unwrap();
        if is_as_expected() {
            sleepers.last += 1;
            let own = (sleepers.last, word);
            sleepers.queue.push(own);
            while sleepers.queue.contains(&own) {
                sleepers = SLEEPERS.1.wait(sleepers).unwrap();
            }
        }
        drop(sleepers);
        super::poll::slept();
    }

    fn wake(word: usize, most: usize) -> usize {
        let mut sleepers = SLEEPERS.0.lock().unwrap();
        let asleep = |(_, its_word): &(u32, usize)| *its_word == word;
        let woken = sleepers.queue.iter().copied().filter(asleep).take(most).collect::<Vec<_>>();
        if !Mutation::NoWake.is_active() && !super::failpoint::is_dead() {
            sleepers.queue.retain(|sleeper| !woken.contains(sleeper));
            SLEEPERS.1.notify_all();
        }
        woken.len()
    }

    /// How many threads sleep.
    pub(crate) fn sleepers() -> usize {
        SLEEPERS.0.lock().unwrap().queue.len()
    }

    pub(crate) fn pause() {
        loom::thread::yield_now();
    }
}

#[allow(dead_code)]
#[path = "../../../multiproc/src/sys/mutex.rs"]
pub(crate) mod mutex;

/// Threads of a model do not end while they hold a mutex. One that was killed has ended when the model says so.
pub(crate) mod thread_id {
    pub(crate) fn namespace() -> u64 {
        0
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct ThreadId(u64);

    loom::lazy_static! {
        static ref LAST: loom::sync::atomic::AtomicU32 = loom::sync::atomic::AtomicU32::new(0);
    }

    loom::lazy_static! {
        /// A bit for each thread.
        static ref ENDED: loom::sync::atomic::AtomicU32 = loom::sync::atomic::AtomicU32::new(0);
    }

    loom::thread_local! {
        static CURRENT: u32 = LAST.fetch_add(1, loom::sync::atomic::Ordering::Relaxed) + 1;
    }

    impl ThreadId {
        pub(crate) fn current() -> Self {
            CURRENT.with(|&number| Self(number.into()))
        }

        /// Each thread is a process.
        pub(crate) fn current_and_process() -> (Self, Self) {
            (Self::current(), Self::current())
        }

        pub(crate) fn number(self) -> u32 {
            u32::try_from(self.0).unwrap()
        }

        pub(crate) fn from_bits(bits: u64) -> Self {
            Self(bits)
        }

        pub(crate) fn bits(self) -> u64 {
            self.0
        }

        /// Says that a thread which was killed has ended.
        pub(crate) fn end(self) {
            ENDED.fetch_or(1 << self.0, loom::sync::atomic::Ordering::SeqCst);
        }

        pub(crate) fn has_ended(self) -> bool {
            let ended = ENDED.load(loom::sync::atomic::Ordering::SeqCst);
            ended & 1 << self.0 != 0 && !super::Mutation::NoDeath.is_active()
        }
    }
}

pub(crate) mod liveness_checks {
    use std::time::Duration;

    use super::poll::Deadline;

    /// No check is due in a model, so a wake-up that is lost is a deadlock.
    pub(crate) struct Checks;

    #[allow(clippy::unused_self)] // as the library has it
    impl Checks {
        pub(crate) fn begin() -> Self {
            Self
        }

        pub(crate) fn are_due(&self) -> bool {
            false
        }

        pub(crate) fn done(&mut self) {}

        pub(crate) fn time(&self, _deadline: Deadline) -> Duration {
            Duration::MAX
        }
    }
}

pub(crate) mod cpus {
    pub(crate) const YIELD_AFTER: std::time::Duration = std::time::Duration::ZERO;

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
    use std::cell::Cell;
    use std::time::Duration;

    use super::EventFd;
    use crate::error::Result;

    loom::thread_local! {
        static HAS_SLEPT: Cell<bool> = Cell::new(false);
    }

    /// This thread has slept on a futex.
    pub(super) fn slept() {
        HAS_SLEPT.with(|slept| slept.set(true));
    }

    /// No time passes in a model.
    #[derive(Clone, Copy)]
    pub(crate) enum Deadline {
        Never,
        Over,
        /// Over as soon as this thread has slept.
        AfterSleep,
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
            match self {
                Self::Never => false,
                Self::Over => true,
                Self::AfterSleep => HAS_SLEPT.with(Cell::get),
            }
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

    /// The outcome of sending.
    #[derive(Clone, Copy, Debug, PartialEq)]
    pub(crate) enum Sent {
        Done,
        TimedOut,
        Disconnected,
    }

    pub(crate) fn is_surely_connected(_socket: &EventFd) -> bool {
        true
    }

    pub(crate) fn waiting_packet(_socket: &EventFd) -> Option<Vec<u8>> {
        None
    }

    pub(crate) fn discard(_socket: &EventFd) {}
}

/// Memory of a model needs no pages.
pub(crate) mod memfd {
    use super::mapping::SharedMapping;
    use crate::error::Result;

    #[allow(clippy::unnecessary_wraps)] // as the library has it
    pub(crate) fn allocate(_memory: &SharedMapping, _offset: usize, _length: usize) -> Result<()> {
        Ok(())
    }

    pub(crate) fn release(_memory: &SharedMapping, _offset: usize, _length: usize) {}
}

pub(crate) mod shared_words {
    /// No model has any.
    pub(crate) trait SharedAtomic {}
}

pub(crate) mod mapping;

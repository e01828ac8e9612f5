//! What stands in for `multiproc`'s floor of the system.

use std::cell::Cell;

/// What can be taken away from the code, to see whether a model misses it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Lack {
    /// A store lets others see the word alone, and not what was written before it.
    Publishing,
    /// A load sees the word alone, and not what was written before it.
    Seeing,
    /// There is no fence between a change and the look at who waits, nor between arming and the last look.
    Fence,
    /// Who would wake others does not.
    Waking,
}

thread_local! {
    /// All threads of a model run on one thread.
    static LACK: Cell<Option<Lack>> = const { Cell::new(None) };
}

/// From now on, for the models of this test.
pub(crate) fn lack(lack: Option<Lack>) {
    LACK.set(lack);
}

impl Lack {
    fn is_there(self) -> bool {
        LACK.get() == Some(self)
    }
}

#[allow(dead_code)]
#[path = "../../../multiproc/src/sys/failpoint.rs"]
mod points;

/// A thread can be killed at a named point, as a process can: nobody sees anything of what it would do after.
pub(crate) mod failpoint {
    use std::cell::Cell;

    pub(crate) use super::points::Failpoint;

    #[derive(Clone, Copy, PartialEq)]
    enum Fate {
        Lives,
        Dies(Failpoint),
        IsDead,
    }

    loom::thread_local! {
        static FATE: Cell<Fate> = Cell::new(Fate::Lives);
    }

    thread_local! {
        /// Whether any thread of this model can be killed. They all run on one; and tests that are no models have no fates.
        static ARE_MORTAL: Cell<bool> = const { Cell::new(false) };
    }

    /// This thread is killed when it comes to this point, if it does.
    pub(crate) fn die_at(point: Failpoint) {
        ARE_MORTAL.set(true);
        FATE.with(|fate| fate.set(Fate::Dies(point)));
    }

    pub(crate) fn hit(point: Failpoint) {
        if !ARE_MORTAL.get() {
            return;
        }
        FATE.with(|fate| {
            if fate.get() == Fate::Dies(point) {
                fate.set(Fate::IsDead);
            }
        });
    }

    pub(crate) fn is_dead() -> bool {
        ARE_MORTAL.get() && FATE.with(Cell::get) == Fate::IsDead
    }
}

pub(crate) mod atomic {
    pub(crate) use loom::sync::atomic::Ordering::{self, AcqRel, Acquire, Relaxed, Release, SeqCst};

    use super::Lack;

    fn store_order(order: Ordering) -> Ordering {
        if order == Release && Lack::Publishing.is_there() { Relaxed } else { order }
    }

    fn load_order(order: Ordering) -> Ordering {
        if order == Acquire && Lack::Seeing.is_there() { Relaxed } else { order }
    }

    /// Without it, what is ordered is no more than what the operations beside it order themselves.
    pub(crate) fn fence(order: Ordering) {
        if !Lack::Fence.is_there() {
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

/// The kernel's promise: who finds the word as expected sleeps before any later waking, and is woken by it.
pub(crate) mod futex {
    use std::time::Duration;

    use loom::sync::{Condvar, Mutex};

    use super::Lack;
    use super::atomic::{AtomicU32, AtomicU64, SeqCst};

    loom::lazy_static! {
        static ref SLEEPERS: (Mutex<usize>, Condvar) = (Mutex::new(0), Condvar::new());
    }

    pub(crate) fn wait(word: &AtomicU32, expected: u32, _time: Option<Duration>) {
        wait_while(|| word.load(SeqCst) == expected);
    }

    /// The kernel looks at the low half alone.
    #[allow(clippy::cast_possible_truncation)]
    pub(crate) fn wait_low_half(word: &AtomicU64, expected: u64, _time: Option<Duration>) {
        wait_while(|| word.load(SeqCst) as u32 == expected as u32);
    }

    pub(crate) fn wake_all(_word: &AtomicU32) -> usize {
        wake()
    }

    /// Wakes more threads than the kernel would, all of which look again.
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
        if !Lack::Waking.is_there() && !super::failpoint::is_dead() {
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
    /// A model has no use for loads again and again: each load may give whatever it can ever give.
    pub(crate) fn others_run() -> bool {
        false
    }

    pub(crate) fn pays_to_look(_in_vain: u32) -> bool {
        false
    }
}

/// A descriptor that can be polled until it is rung, and stays readable until it is cleared.
#[derive(Debug)]
pub(crate) struct Rung {
    rung: loom::sync::Mutex<bool>,
    change: loom::sync::Condvar,
}

impl Rung {
    pub(crate) fn new() -> Self {
        Self { rung: loom::sync::Mutex::new(false), change: loom::sync::Condvar::new() }
    }

    pub(crate) fn ring(&self) {
        if !Lack::Waking.is_there() {
            *self.rung.lock().unwrap() = true;
            self.change.notify_all();
        }
    }

    pub(crate) fn poll(&self) {
        let mut rung = self.rung.lock().unwrap();
        while !*rung {
            rung = self.change.wait(rung).unwrap();
        }
    }

    pub(crate) fn clear(&self) {
        *self.rung.lock().unwrap() = false;
    }

    pub(crate) fn poll_and_clear(&self) {
        self.poll();
        self.clear();
    }
}

pub(crate) mod eventfd {
    use super::Rung;

    pub(crate) fn ring(bell: &Rung) {
        bell.ring();
    }

    pub(crate) fn clear(bell: &Rung) {
        bell.clear();
    }
}

pub(crate) mod poll {
    use std::time::Duration;

    use super::Rung;
    use crate::error::Result;

    /// In a model no time passes.
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

        pub(crate) fn is_far(self) -> bool {
            !self.is_over()
        }

        pub(crate) fn is_over(self) -> bool {
            matches!(self, Self::Over)
        }
    }

    #[derive(Clone, Copy, Debug, Default)]
    pub(crate) struct News {
        pub(crate) rung: bool,
        pub(crate) hung_up: bool,
    }

    /// The other end is held as long as the model runs.
    #[allow(clippy::unnecessary_wraps)] // as the library has it
    pub(crate) fn bell_or_end(bell: &Rung, _socket: &Rung, time: Option<Duration>) -> Result<News> {
        if time.is_none() {
            bell.poll();
        }
        Ok(News { rung: time.is_none(), hung_up: false })
    }
}

/// Frames of a model have no packets beside them.
pub(crate) mod socket {
    use super::Rung;

    pub(crate) fn is_held(_socket: &Rung) -> bool {
        true
    }

    pub(crate) fn waiting_packet(_socket: &Rung) -> Option<Vec<u8>> {
        None
    }

    pub(crate) fn discard(_socket: &Rung) {}
}

pub(crate) mod mapping {
    use loom::sync::Arc;

    use super::atomic::{AtomicU32, AtomicU64};

    /// The words of two [areas](crate::channel::endpoint::AREAS), and no more: each costs the model something.
    #[derive(Clone, Debug)]
    pub(crate) struct Shared(Arc<(Vec<AtomicU32>, Vec<AtomicU64>)>);

    const AREA: usize = crate::channel::endpoint::AREAS / 2;
    const WORDS32: [usize; 4] = [64, 68, 72, 136];
    const WORDS64: [usize; 4] = [0, 48, 56, 128];

    impl Shared {
        pub(crate) fn new() -> Self {
            let zeros = 0..2 * WORDS32.len();
            let words = zeros.clone().map(|_| AtomicU32::new(0)).collect();
            Self(Arc::new((words, zeros.map(|_| AtomicU64::new(0)).collect())))
        }

        pub(crate) fn word32(&self, offset: usize) -> &AtomicU32 {
            &self.0.0[place(offset, &WORDS32)]
        }

        pub(crate) fn word64(&self, offset: usize) -> &AtomicU64 {
            &self.0.1[place(offset, &WORDS64)]
        }
    }

    fn place(offset: usize, words: &[usize]) -> usize {
        let within = words.iter().position(|&word| word == offset % AREA);
        offset / AREA * words.len() + within.expect("a word that this model does not have")
    }
}

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
#[path = "../../crates/multiproc/src/sys/fault.rs"]
mod points;

/// A thread can be killed at a named point, as a process can: nobody sees anything of what it would do after.
pub(crate) mod fault {
    use std::cell::Cell;

    pub(crate) use super::points::Point;

    #[derive(Clone, Copy, PartialEq)]
    enum Fate {
        Lives,
        Dies(Point),
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
    pub(crate) fn die_at(point: Point) {
        ARE_MORTAL.set(true);
        FATE.with(|fate| fate.set(Fate::Dies(point)));
    }

    pub(crate) fn at(point: Point) {
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
                    self.0.store(value, store_order(order));
                }

                pub(crate) fn fetch_or(&self, value: $number, order: Ordering) -> $number {
                    self.0.fetch_or(value, order)
                }

                pub(crate) fn fetch_add(&self, value: $number, order: Ordering) -> $number {
                    if super::fault::is_dead() {
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
                    if super::fault::is_dead() {
                        return Ok(current);
                    }
                    self.0.compare_exchange(current, new, load_order(store_order(success)), failure)
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
    use super::atomic::{AtomicU32, SeqCst};

    loom::lazy_static! {
        static ref SLEEPERS: (Mutex<usize>, Condvar) = (Mutex::new(0), Condvar::new());
    }

    pub(crate) fn wait(word: &AtomicU32, expected: u32, _time: Option<Duration>) {
        let mut sleepers = SLEEPERS.0.lock().unwrap();
        if word.load(SeqCst) == expected {
            *sleepers += 1;
            drop(SLEEPERS.1.wait(sleepers).unwrap());
        }
    }

    pub(crate) fn wake_all(_word: &AtomicU32) -> usize {
        let mut sleepers = SLEEPERS.0.lock().unwrap();
        let woken = *sleepers;
        if !Lack::Waking.is_there() && !super::fault::is_dead() {
            *sleepers = 0;
            SLEEPERS.1.notify_all();
        }
        woken
    }

    pub(crate) fn pause() {
        loom::thread::yield_now();
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

    pub(crate) fn poll_and_clear(&self) {
        let mut rung = self.rung.lock().unwrap();
        while !*rung {
            rung = self.change.wait(rung).unwrap();
        }
        *rung = false;
    }
}

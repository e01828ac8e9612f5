//! Atomic words and fences of loom, of which a mutation can weaken the order.

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
    ($name:ident($number:ty)) => {
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

            atomic!(fetch_add, $number);
            atomic!(fetch_and, $number);
            atomic!(fetch_max, $number);
            atomic!(fetch_or, $number);
            atomic!(swap, $number);

            pub(crate) fn fetch_update(
                &self,
                success: Ordering,
                failure: Ordering,
                change: impl FnMut($number) -> Option<$number>,
            ) -> Result<$number, $number> {
                if super::failpoint::is_dead() {
                    return Ok(0);
                }
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
        }
    };
    ($operation:ident, $number:ty) => {
        pub(crate) fn $operation(&self, value: $number, order: Ordering) -> $number {
            if super::failpoint::is_dead() {
                return value;
            }
            self.0.$operation(value, load_order(store_order(order)))
        }
    };
}

atomic!(AtomicU32(u32));
atomic!(AtomicU64(u64));

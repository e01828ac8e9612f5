//! Atomic words and fences of loom, of which a mutation can weaken the order.

pub(crate) use loom::sync::atomic::Ordering::{self, AcqRel, Acquire, Relaxed, Release, SeqCst};

use super::Mutation;

/// The order that a mutation leaves of one, for words of this many bits.
fn weakened(order: Ordering, bits: u32) -> Ordering {
    let is_active = |any: Mutation, narrow: Mutation| any.is_active() || bits == 32 && narrow.is_active();
    let releases = !is_active(Mutation::ReleaseToRelaxed, Mutation::Release32ToRelaxed);
    let acquires = !is_active(Mutation::AcquireToRelaxed, Mutation::Acquire32ToRelaxed);
    match order {
        Release if !releases => Relaxed,
        Acquire if !acquires => Relaxed,
        AcqRel if !releases && acquires => Acquire,
        AcqRel if !acquires => Release,
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
                self.0.load(weakened(order, <$number>::BITS))
            }

            pub(crate) fn store(&self, value: $number, order: Ordering) {
                if super::failpoint::is_dead() {
                    return;
                }
                self.0.store(value, weakened(order, <$number>::BITS));
            }

            atomic!(fetch_add, $number);
            atomic!(fetch_and, $number);
            atomic!(fetch_max, $number);
            atomic!(fetch_or, $number);
            atomic!(fetch_sub, $number);
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
                self.0.fetch_update(weakened(success, <$number>::BITS), failure, change)
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
                self.0.compare_exchange(current, new, weakened(success, <$number>::BITS), failure)
            }
        }
    };
    ($operation:ident, $number:ty) => {
        pub(crate) fn $operation(&self, value: $number, order: Ordering) -> $number {
            if super::failpoint::is_dead() {
                return value;
            }
            self.0.$operation(value, weakened(order, <$number>::BITS))
        }
    };
}

atomic!(AtomicU32(u32));
atomic!(AtomicU64(u64));

//! Threads of a model do not end while they hold a mutex. One that was killed has ended when the model says so.

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

    pub(crate) fn current_and_process_in(_namespace: u64) -> (Self, Self) {
        Self::current_and_process()
    }

    /// All are of one namespace.
    pub(crate) fn is_of(_namespace: u64) -> bool {
        true
    }

    pub(crate) fn foreign(self) -> Self {
        self
    }

    pub(crate) fn is_current(self) -> bool {
        self == Self::current()
    }

    pub(crate) fn is_current_process(self) -> bool {
        self.is_current()
    }

    pub(crate) fn number(self) -> u32 {
        u32::try_from(self.0).unwrap()
    }

    pub(crate) fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Each thread is a process.
    pub(crate) fn of_number(number: u32) -> Self {
        Self(number.into())
    }

    pub(crate) fn bits(self) -> u64 {
        self.0
    }

    /// Says that a thread which was killed has ended. Threads that sleep until a check is due wake up.
    pub(crate) fn end(self) {
        ENDED.fetch_or(1 << self.0, loom::sync::atomic::Ordering::SeqCst);
        super::futex::end_timed_sleeps();
        super::descriptors::wake_all();
    }

    pub(crate) fn has_ended(self) -> bool {
        ended() & 1 << self.0 != 0 && !super::Mutation::NoDeath.is_active()
    }
}

/// A bit for each thread that has ended.
pub(super) fn ended() -> u32 {
    ENDED.load(loom::sync::atomic::Ordering::SeqCst)
}

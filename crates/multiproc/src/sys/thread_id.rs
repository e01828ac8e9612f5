//! The identity of a thread across processes: its number (`gettid(2)`) and its start time.
//!
//! The kernel reuses the numbers of ended threads. The start time tells the two apart.
//!
//! Both mean something in one PID namespace alone. A thread of another one has an identity there that never ends.

use std::cell::Cell;

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::sys::stat::stat;
use nix::unistd::{Pid, gettid};

use super::fork_detect::OriginalProcess;
use super::process_local::ProcessLocal;

/// The number in the low half; in the high half the start time in clock ticks since boot, and the [`salt`]. Or what
/// [`foreign`](ThreadId::foreign) says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ThreadId(u64);

/// The start time of a thread if /proc does not tell it.
const UNKNOWN: u32 = 0;

/// A checksum of the thread number (Knuth's multiplicative hash), which is added to the start time. A random or
/// slightly damaged word then hardly ever names a living thread, not even where /proc tells no start time, or where
/// threads have started within the same clock tick.
fn salt(number: u32) -> u32 {
    number.wrapping_mul(2_654_435_761)
}

/// The start time of a thread that has started with the kernel. (Nor 1, which a stray number may be.)
const AT_BOOT: u32 = u32::MAX - 1;

/// The flag of the kernel's own threads in /proc (`PF_KTHREAD` of its `sched.h`).
const OF_KERNEL: u32 = 0x0020_0000;

/// The kernel gives threads only lower numbers (`PID_MAX_LIMIT`).
const END_OF_NUMBERS: u32 = 1 << 22;

/// What is added to the number of a thread for other namespaces: bits above those of a number, but not bit 31.
const FOREIGN: u32 = 0x155 * END_OF_NUMBERS;

thread_local! {
    /// The process in which the others were looked up, this thread and this process. In a forked copy, a thread
    /// has another number.
    static CURRENT: Cell<Option<(OriginalProcess, ThreadId, ThreadId)>> = const { Cell::new(None) };

    /// Their [`namespace`]. By itself, since one more field above would keep the compiler from putting the guard of a
    /// mutex in line.
    static CURRENT_NAMESPACE: Cell<u64> = const { Cell::new(0) };
}

/// The identity of this process, which is the same for all its threads, whether or not each could read /proc.
static PROCESS: ProcessLocal<ThreadId> =
    ProcessLocal::new(|_| ThreadId::look_up_own(std::process::id(), "self"));

/// A number for the PID and time namespaces of this process, in which thread numbers and start times have a
/// meaning; 0 if /proc tells neither. A process stays in its own, and a forked copy may be in others.
pub(crate) fn namespace() -> u64 {
    static NAMESPACE: ProcessLocal<u64> = ProcessLocal::new(|_| {
        let inode = |name| stat(name).map_or(0, |file| file.st_ino);
        inode("/proc/self/ns/pid") ^ inode("/proc/self/ns/time").rotate_left(32)
    });
    *NAMESPACE.get()
}

impl ThreadId {
    /// The identity of the calling thread. The first call of a thread reads a file of /proc.
    #[inline]
    pub(crate) fn current() -> Self {
        Self::current_and_process().0
    }

    /// The identities of the calling thread and of its process, which is that of the first thread.
    #[inline]
    pub(crate) fn current_and_process() -> (Self, Self) {
        match CURRENT.get() {
            Some((original, thread, process)) if original.is_current() => (thread, process),
            _ => Self::look_up(),
        }
    }

    /// As [`current_and_process`](Self::current_and_process), to be written where processes of this [`namespace`] read
    /// it.
    pub(crate) fn current_and_process_in(namespace: u64) -> (Self, Self) {
        let (thread, process) = Self::current_and_process();
        if Self::is_of(namespace) { (thread, process) } else { (thread.foreign(), process.foreign()) }
    }

    /// Whether the calling thread, which knows its identity, is of this [`namespace`].
    #[inline]
    pub(crate) fn is_of(namespace: u64) -> bool {
        CURRENT_NAMESPACE.get() == namespace
    }

    /// Whether this is the calling thread, in whatever namespace its identity is read.
    #[inline]
    pub(crate) fn is_current(self) -> bool {
        Self::current().is_read_as(self)
    }

    /// As [`is_current`](Self::is_current), for the process.
    #[inline]
    pub(crate) fn is_current_process(self) -> bool {
        Self::current_and_process().1.is_read_as(self)
    }

    #[inline]
    fn is_read_as(self, other: Self) -> bool {
        self == other || self.foreign() == other
    }

    fn new(number: u32, start: u32) -> Self {
        Self(u64::from(number) | u64::from(start.wrapping_add(salt(number))) << 32)
    }

    #[cold]
    fn look_up() -> (Self, Self) {
        let thread = Self::look_up_own(gettid().as_raw().cast_unsigned(), "thread-self");
        let process = *PROCESS.get();
        CURRENT_NAMESPACE.set(namespace());
        CURRENT.set(Some((OriginalProcess::current(), thread, process)));
        (thread, process)
    }

    /// The calling thread or process, which has this number, and this name in /proc.
    fn look_up_own(number: u32, name: &str) -> Self {
        // A file system that shows the threads of another PID namespace gives it another number.
        let start = Stat::of(name).filter(|stat| stat.number == number).map(|stat| stat.start);
        Self::new(number, start.unwrap_or(UNKNOWN))
    }

    /// Whatever thread or process has this number.
    pub(crate) fn of_number(number: u32) -> Self {
        Self::new(number, UNKNOWN)
    }

    /// This thread of this process, for other namespaces, in which its number and start time mean nothing.
    #[cold]
    pub(crate) fn foreign(self) -> Self {
        self.foreign_from(namespace())
    }

    /// An identity that never ends. In its high half, 16 bits tell the namespace, and 16 more that it is no stray
    /// number.
    fn foreign_from(self, namespace: u64) -> Self {
        let hash = namespace.wrapping_mul(0x9e37_79b9_7f4a_7c15); // multiplicative, as the salt
        Self::with_tag(FOREIGN + self.number(), (hash >> 48) as u32)
    }

    fn with_tag(low: u32, tag: u32) -> Self {
        Self(u64::from(low) | u64::from(tag << 16 | salt(low ^ tag) >> 16) << 32)
    }

    fn is_foreign(self) -> bool {
        let low = self.number();
        low & !(END_OF_NUMBERS - 1) == FOREIGN && self == Self::with_tag(low, (self.0 >> 48) as u32)
    }

    /// The identity from [`bits`](Self::bits), or from whatever else a process has written.
    pub(crate) fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Bit 31 is 0, and not all bits are.
    pub(crate) fn bits(self) -> u64 {
        self.0
    }

    /// Whether this thread has certainly ended, or never existed. Costs some microseconds.
    ///
    /// Without /proc, an ended thread counts as living until its process is reaped and its number is free.
    pub(crate) fn has_ended(self) -> bool {
        let number = self.number();
        if number == 0 || number >= END_OF_NUMBERS {
            return !self.is_foreign();
        }
        let can_compare = Self::current().knows_start();
        match Stat::of(&number.to_string()).filter(|_| can_compare) {
            Some(stat) => stat.has_ended || (self.knows_start() && stat.start != self.start()),
            None => kill(Pid::from_raw(number.cast_signed()), None) == Err(Errno::ESRCH),
        }
    }

    /// `gettid` of the thread; of a process, its id. An identity for other namespaces has a number that no thread has.
    #[allow(clippy::cast_possible_truncation)] // its two halves
    pub(crate) fn number(self) -> u32 {
        self.0 as u32
    }

    fn knows_start(self) -> bool {
        self.start() != UNKNOWN
    }

    fn start(self) -> u32 {
        ((self.0 >> 32) as u32).wrapping_sub(salt(self.number()))
    }
}

/// The fields of a thread in /proc.
struct Stat {
    number: u32,
    has_ended: bool,
    start: u32,
}

impl Stat {
    fn of(thread: &str) -> Option<Self> {
        let text = std::fs::read(format!("/proc/{thread}/stat")).ok()?;
        Self::parse(&String::from_utf8_lossy(&text))
    }

    /// By `proc_pid_stat(5)`: number, name in parentheses (any bytes), state; field 9 has flags, 20 the number of
    /// the process's threads, 22 the start time. A process whose first thread has exited (a zombie) has not
    /// ended while it has others.
    ///
    /// Threads that start with the kernel have low numbers and never end. A stray number in a word must not name
    /// one: the kernel's own count as ended, and the start time 0 is written as another.
    #[allow(clippy::cast_possible_truncation)] // the low half of the start time covers 497 days
    fn parse(text: &str) -> Option<Self> {
        let number = text.split(' ').next()?.parse().ok()?;
        let mut fields = text.rsplit_once(") ")?.1.split(' ');
        let has_exited = matches!(fields.next()?, "Z" | "X");
        let is_of_kernel = fields.nth(5)?.parse::<u32>().ok()? & OF_KERNEL != 0;
        let threads: u32 = fields.nth(10)?.parse().ok()?;
        let start: u64 = fields.nth(1)?.parse().ok()?;
        let has_ended = is_of_kernel || has_exited && threads <= 1;
        Some(Self { number, has_ended, start: if start == 0 { AT_BOOT } else { start as u32 } })
    }
}

#[cfg(test)]
mod tests;

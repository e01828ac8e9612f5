//! The identity of a thread that other processes can check: its number (`gettid`) and the time when it was started.
//!
//! The kernel gives the number of a thread that has ended to another one. The start time tells the two apart.

use std::cell::Cell;
use std::sync::LazyLock;

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::sys::stat::stat;
use nix::unistd::{Pid, gettid};

use super::fork_detect::ForkDetector;

/// In the low half the number, in the high half the start time in clock ticks since boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ThreadId(u64);

/// The start time where /proc does not tell it. (Not 0, since that is what a stray number in a word has there.)
const UNKNOWN: u32 = u32::MAX;

/// The kernel gives no thread a number from here on (`PID_MAX_LIMIT`).
const END_OF_NUMBERS: u32 = 1 << 22;

thread_local! {
    /// The generation of the process in which the others were looked up, this thread and this process.
    static CURRENT: Cell<(u32, ThreadId, ThreadId)> = const { Cell::new((0, ThreadId(0), ThreadId(0))) };
}

/// Tells a forked copy of the process from the original: in the copy, a thread has another number.
static PROCESS: LazyLock<Option<ForkDetector>> = LazyLock::new(|| ForkDetector::new().ok());

/// The namespaces of this process in which the numbers of threads, and their start times, mean something: one number
/// for both, 0 where /proc tells neither. Costs some microseconds.
pub(crate) fn namespace() -> u64 {
    let inode = |name| stat(name).map_or(0, |file| file.st_ino);
    inode("/proc/self/ns/pid") ^ inode("/proc/self/ns/time").rotate_left(32)
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
        let generation = PROCESS.as_ref().map_or(0, ForkDetector::generation);
        match CURRENT.get() {
            (known, thread, process) if known == generation && generation != 0 => (thread, process),
            _ => Self::look_up(generation),
        }
    }

    #[cold]
    fn look_up(generation: u32) -> (Self, Self) {
        // A file system that shows the threads of another PID namespace gives this thread another number.
        let id = |number: u32, name| {
            let stat = Stat::of(name).filter(|stat| stat.number == number);
            Self(u64::from(number) | u64::from(stat.map_or(UNKNOWN, |stat| stat.start)) << 32)
        };
        let thread = id(gettid().as_raw().cast_unsigned(), "thread-self");
        let process = id(std::process::id(), "self");
        CURRENT.set((generation, thread, process));
        (thread, process)
    }

    /// The identity that [`bits`](Self::bits) gave, or that anything else has written.
    pub(crate) fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Bit 31 of them is 0, and not all are.
    pub(crate) fn bits(self) -> u64 {
        self.0
    }

    /// Whether this thread has surely ended, or never existed. Costs some microseconds.
    ///
    /// Where /proc cannot be read, a thread that has ended counts as living until its process is reaped, and for as long
    /// as another thread has its number.
    pub(crate) fn has_ended(self) -> bool {
        let number = self.number();
        if number == 0 || number >= END_OF_NUMBERS {
            return true;
        }
        let can_compare = Self::current().start() != UNKNOWN;
        match Stat::of(&number.to_string()).filter(|_| can_compare) {
            Some(stat) => stat.has_ended || (self.start() != UNKNOWN && stat.start != self.start()),
            None => kill(Pid::from_raw(number.cast_signed()), None) == Err(Errno::ESRCH),
        }
    }

    /// `gettid` of the thread; of a process, its id.
    #[allow(clippy::cast_possible_truncation)] // its two halves
    pub(crate) fn number(self) -> u32 {
        self.0 as u32
    }

    fn start(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// What /proc says about a thread.
struct Stat {
    number: u32,
    has_ended: bool,
    start: u32,
}

impl Stat {
    fn of(who: &str) -> Option<Self> {
        let text = std::fs::read(format!("/proc/{who}/stat")).ok()?;
        Self::parse(&String::from_utf8_lossy(&text))
    }

    /// By `proc_pid_stat(5)`: the number, the name in parentheses (which may hold any byte), the state, and as the 22nd
    /// field the start time.
    #[allow(clippy::cast_possible_truncation)] // the low half of the start time covers 497 days
    fn parse(text: &str) -> Option<Self> {
        let number = text.split(' ').next()?.parse().ok()?;
        let mut fields = text.rsplit_once(") ")?.1.split(' ');
        let has_ended = matches!(fields.next()?, "Z" | "X");
        let start: u64 = fields.nth(18)?.parse().ok()?;
        Some(Self { number, has_ended, start: start as u32 })
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    #[test]
    fn a_thread_lives_until_it_ends() {
        let (tell, told) = mpsc::channel();
        let (end, ends) = mpsc::channel::<()>();
        let thread = thread::spawn(move || {
            tell.send(ThreadId::current()).unwrap();
            let _ = ends.recv();
        });
        let id = told.recv().unwrap();
        assert!(!id.has_ended() && !ThreadId::current().has_ended() && id != ThreadId::current());
        drop(end);
        thread.join().unwrap();
        while !id.has_ended() {
            thread::yield_now(); // `join` may return a moment before the kernel has taken the thread down
        }
    }

    /// What stands in memory that others write can be anything.
    #[test]
    fn a_number_with_another_start_time_and_no_number_at_all_have_ended() {
        let own = ThreadId::current();
        for (bits, ended) in [
            (own.bits(), false),
            (own.bits() | u64::from(UNKNOWN) << 32, false),
            (1, true),
            (own.bits() ^ 1 << 40, true),
            (0, true),
            (u64::MAX, true),
            (1 << 22, true),
        ] {
            assert_eq!(ThreadId::from_bits(bits).has_ended(), ended, "{bits:x}");
        }
    }

    /// A process that was killed keeps its number until it is reaped.
    #[test]
    fn a_process_that_is_not_reaped_has_ended() {
        let mut child = Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().unwrap();
        let id = ThreadId::from_bits(u64::from(child.id()) | u64::from(UNKNOWN) << 32);
        assert!(!id.has_ended());
        child.kill().unwrap();
        while !id.has_ended() {
            thread::yield_now();
        }
        child.wait().unwrap();
    }

    #[test]
    fn a_name_can_hold_anything() {
        let stat = Stat::parse("7 (a) Z (b) R 1 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4242 9 9").unwrap();
        assert_eq!((stat.number, stat.has_ended, stat.start), (7, false, 4242));
        for text in ["", "7", "7 (a) Z", "7 (a) Z 1 2 3", "x (a) Z 1 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 1 9"]
        {
            assert!(Stat::parse(text).is_none(), "{text}");
        }
    }
}

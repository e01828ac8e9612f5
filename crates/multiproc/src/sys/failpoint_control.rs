//! The action of each failpoint, in memory that all processes of a program share.
//!
//! The fault suite [creates](Controller::create) the memory and passes its [path](Controller::path) in the
//! program's environment. One fault is armed at a time. The process that it hits records pid and time.

use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::OnceLock;
use std::time::Duration;

use nix::sys::mman::MapFlags;
use nix::sys::signal::{Signal, kill};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Pid, getpid};

use super::failpoint::{Failpoint, HOOKS, Hooks};
use crate::error::Result;
use crate::sys::atomic::{AtomicU32, AtomicU64, SeqCst};
use crate::sys::mapping::SharedMapping;

/// The environment variable that names the path of the memory.
pub const ENV_VAR: &str = "MULTIPROC_FAULTS";

/// The action on the process at the failpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Action {
    /// It sends itself SIGKILL.
    Kill = 1,
    /// It sends itself SIGSTOP.
    Stop = 2,
    /// Its system call there fails.
    Refuse = 3,
}

/// Which processes a fault can hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Target {
    /// Any process but the root.
    Descendant = 0,
    /// The root: the process that has called [`Controller::be_root`].
    Root = 1,
    /// Any process.
    Anyone = 2,
}

/// The shared memory.
#[derive(Debug)]
pub struct Controller {
    memory: SharedMapping,
    /// Kept open for [`path`](Self::path).
    fd: Option<OwnedFd>,
}

/// Which process a fault has hit, and when.
#[derive(Clone, Copy, Debug)]
pub struct Hit {
    /// Its process id.
    pub pid: u32,
    /// The time since boot.
    pub at: Duration,
}

const SIZE: NonZeroUsize = NonZeroUsize::new(4096).unwrap();
const ARMED: usize = 0;
const COUNTDOWN: usize = 4;
const ACTION: usize = 8;
const TARGET: usize = 12;
const ROOT: usize = 16;
const HIT_PID: usize = 20;
const HIT_TIME: usize = 24;
const RESUMED: usize = 32;
const HITS: usize = 64;

/// In place of an armed failpoint: [hits](Controller::hits) are counted.
const COUNTING: u32 = u32::MAX;

impl Controller {
    /// Creates the memory.
    ///
    /// # Errors
    /// If the kernel refuses it.
    pub fn create() -> Result<Self> {
        let (memory, fd) = SharedMapping::create(SIZE)?;
        Ok(Self { memory, fd: Some(fd) })
    }

    /// The memory whose path is in [`ENV_VAR`], if there is one.
    pub fn of_environment() -> Option<&'static Self> {
        static CONTROL: OnceLock<Option<Controller>> = OnceLock::new();
        CONTROL
            .get_or_init(|| {
                let path = std::env::var_os(ENV_VAR)?;
                let file = std::fs::File::options().read(true).write(true).open(path).ok()?;
                let memory = SharedMapping::map_file(file.as_fd(), SIZE, MapFlags::empty()).ok()?;
                Some(Self { memory, fd: None })
            })
            .as_ref()
    }

    /// The path of the memory, valid while this process lives and keeps it.
    pub fn path(&self) -> Option<String> {
        let fd = self.fd.as_ref()?;
        Some(format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd()))
    }

    /// Makes this process the root.
    pub fn be_root(&self) {
        self.word(ROOT).store(std::process::id(), SeqCst);
    }

    /// Arms `action`, once, for the `nth` time, counted from 1, that a target process passes `point`.
    pub fn arm(&self, point: Failpoint, nth: u32, action: Action, target: Target) {
        self.word(ARMED).store(0, SeqCst);
        self.word(HIT_PID).store(0, SeqCst);
        self.word(RESUMED).store(0, SeqCst);
        self.word(COUNTDOWN).store(nth, SeqCst);
        self.word(ACTION).store(action as u32, SeqCst);
        self.word(TARGET).store(target as u32, SeqCst);
        self.word(ARMED).store(point as u32 + 1, SeqCst);
    }

    /// Disarms the fault. Returns which process it has hit.
    pub fn disarm(&self) -> Option<Hit> {
        self.word(ARMED).store(0, SeqCst);
        self.hit_process()
    }

    /// Which process the fault that was armed last has hit.
    pub fn hit_process(&self) -> Option<Hit> {
        match self.word(HIT_PID).load(SeqCst) {
            0 => None,
            pid => Some(Hit { pid, at: Duration::from_nanos(self.hit_time().load(SeqCst)) }),
        }
    }

    /// Whether the stopped process has continued.
    pub fn resumed(&self) -> bool {
        self.word(RESUMED).load(SeqCst) != 0
    }

    /// Resets the counts of [`hits`](Self::hits), and counts target processes from now on.
    pub fn count(&self, target: Target) {
        self.word(ARMED).store(0, SeqCst);
        self.word(TARGET).store(target as u32, SeqCst);
        for &point in Failpoint::ALL {
            self.hits_of(point).store(0, SeqCst);
        }
        self.word(ARMED).store(COUNTING, SeqCst);
    }

    /// How often target processes have passed this failpoint.
    pub fn hits(&self, point: Failpoint) -> u32 {
        self.hits_of(point).load(SeqCst)
    }

    fn applies(&self, point: Failpoint) -> Option<u32> {
        let armed = self.word(ARMED).load(SeqCst);
        if armed != COUNTING && armed != point as u32 + 1 || !self.is_target() {
            return None;
        }
        if armed == COUNTING {
            self.hits_of(point).fetch_add(1, SeqCst);
            return None;
        }
        if self.word(COUNTDOWN).fetch_sub(1, SeqCst) != 1 {
            return None;
        }
        self.word(ARMED).store(0, SeqCst);
        let action = self.word(ACTION).load(SeqCst);
        self.hit_time().store(u64::try_from(now().as_nanos()).unwrap_or(u64::MAX), SeqCst);
        self.word(HIT_PID).store(std::process::id(), SeqCst);
        Some(action)
    }

    /// Asks the kernel for the pid, which takes longer than all else of a failpoint, only where it matters.
    fn is_target(&self) -> bool {
        let target = self.word(TARGET).load(SeqCst);
        let is_root = || self.word(ROOT).load(SeqCst) == getpid().as_raw().cast_unsigned();
        target == Target::Anyone as u32 || (target == Target::Root as u32) == is_root()
    }

    fn word(&self, offset: usize) -> &AtomicU32 {
        self.memory.word32(offset)
    }

    fn hit_time(&self) -> &AtomicU64 {
        self.memory.word64(HIT_TIME)
    }

    fn hits_of(&self, point: Failpoint) -> &AtomicU32 {
        self.word(HITS + 4 * point as usize)
    }
}

/// The time since boot, which is the same in all processes.
pub fn now() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

/// Has this process's failpoints follow the memory whose path is in [`ENV_VAR`].
pub(crate) fn install() {
    let _ = HOOKS.set(Hooks { hit, should_fail }); // a second `init` finds them installed
}

fn hit(point: Failpoint) {
    let Some(control) = Controller::of_environment() else { return };
    let Some(action) = control.applies(point) else { return };
    if action == Action::Kill as u32 {
        signal_self(Signal::SIGKILL);
    } else if action == Action::Stop as u32 {
        signal_self(Signal::SIGSTOP);
        control.word(RESUMED).store(1, SeqCst);
    }
}

fn should_fail(point: Failpoint) -> bool {
    let action = Controller::of_environment().and_then(|control| control.applies(point));
    if action == Some(Action::Kill as u32) {
        signal_self(Signal::SIGKILL);
    }
    action == Some(Action::Refuse as u32)
}

fn signal_self(signal: Signal) {
    let _ = kill(Pid::this(), signal);
}

//! What is to happen at which point, as all processes of a program see it.
//!
//! A suite [creates](Controller::create) the memory and names its [path](Controller::path) in the environment of the program,
//! from where all processes of that program take it. One fault is armed at a time; the process that it strikes notes its own
//! number and the time.

use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::OnceLock;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Pid, getpid};

use super::failpoint::{Failpoint, HOOKS, Hooks};
use crate::error::Result;
use crate::sys::atomic::{AtomicU32, AtomicU64, SeqCst};
use crate::sys::mapping::SharedMapping;

/// The environment variable that names the path of the memory.
pub const ENV_VAR: &str = "MULTIPROC_FAULTS";

/// What is to happen to the process that comes to the point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Action {
    /// It kills itself.
    Kill = 1,
    /// It stops itself.
    Stop = 2,
    /// The system refuses what is asked of it there.
    Refuse = 3,
}

/// To whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Target {
    /// Any process but the root.
    Descendant = 0,
    /// The root: the process that has called [`Controller::be_root`].
    Root = 1,
    /// Whichever it is.
    Anyone = 2,
}

/// The memory.
#[derive(Debug)]
pub struct Controller {
    memory: SharedMapping,
    /// Kept open, so that the path leads there.
    fd: Option<OwnedFd>,
}

/// Which process a fault has struck, and when: the time since the machine was started.
#[derive(Clone, Copy, Debug)]
pub struct Hit {
    /// Its process id.
    pub pid: u32,
    /// When.
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

impl Controller {
    /// Creates the memory.
    ///
    /// # Errors
    /// Where the system has none.
    pub fn create() -> Result<Self> {
        let (memory, fd) = SharedMapping::create(SIZE)?;
        Ok(Self { memory, fd: Some(fd) })
    }

    /// The memory that the environment names, if it does.
    pub fn of_environment() -> Option<&'static Self> {
        static CONTROL: OnceLock<Option<Controller>> = OnceLock::new();
        CONTROL
            .get_or_init(|| {
                let path = std::env::var_os(ENV_VAR)?;
                let file = std::fs::File::options().read(true).write(true).open(path).ok()?;
                let memory = SharedMapping::map_file(file.as_fd(), SIZE).ok()?;
                Some(Self { memory, fd: None })
            })
            .as_ref()
    }

    /// Where it is to be found, as long as this process lives and keeps it.
    pub fn path(&self) -> Option<String> {
        let fd = self.fd.as_ref()?;
        Some(format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd()))
    }

    /// From now on, this process is the root.
    pub fn be_root(&self) {
        self.word(ROOT).store(std::process::id(), SeqCst);
    }

    /// At the `nth` time, counted from 1, that a victim comes to this point, this is to happen, once.
    pub fn arm(&self, point: Failpoint, nth: u32, act: Action, victim: Target) {
        self.word(ARMED).store(0, SeqCst);
        self.word(HIT_PID).store(0, SeqCst);
        self.word(RESUMED).store(0, SeqCst);
        self.word(COUNTDOWN).store(nth, SeqCst);
        self.word(ACTION).store(act as u32, SeqCst);
        self.word(TARGET).store(victim as u32, SeqCst);
        self.word(ARMED).store(point as u32 + 1, SeqCst);
    }

    /// Nothing is to happen any more. Gives what has.
    pub fn disarm(&self) -> Option<Hit> {
        self.word(ARMED).store(0, SeqCst);
        self.hit_process()
    }

    /// Whom the fault that was armed last has struck.
    pub fn hit_process(&self) -> Option<Hit> {
        match self.word(HIT_PID).load(SeqCst) {
            0 => None,
            pid => Some(Hit { pid, at: Duration::from_nanos(self.struck_at().load(SeqCst)) }),
        }
    }

    /// Whether the one that was stopped has gone on.
    pub fn resumed(&self) -> bool {
        self.word(RESUMED).load(SeqCst) != 0
    }

    /// From now on, [`hits`](Self::hits) counts anew, for these.
    pub fn count(&self, victim: Target) {
        self.word(ARMED).store(0, SeqCst);
        self.word(TARGET).store(victim as u32, SeqCst);
        for &point in Failpoint::ALL {
            self.hits_of(point).store(0, SeqCst);
        }
    }

    /// How often a victim has come to this point.
    pub fn hits(&self, point: Failpoint) -> u32 {
        self.hits_of(point).load(SeqCst)
    }

    fn applies(&self, point: Failpoint) -> Option<u32> {
        let is_root = self.word(ROOT).load(SeqCst) == getpid().as_raw().cast_unsigned();
        let victim = self.word(TARGET).load(SeqCst);
        if victim != Target::Anyone as u32 && (victim == Target::Root as u32) != is_root {
            return None;
        }
        self.hits_of(point).fetch_add(1, SeqCst);
        if self.word(ARMED).load(SeqCst) != point as u32 + 1 || self.word(COUNTDOWN).fetch_sub(1, SeqCst) != 1
        {
            return None;
        }
        self.word(ARMED).store(0, SeqCst);
        let act = self.word(ACTION).load(SeqCst);
        self.struck_at().store(u64::try_from(now().as_nanos()).unwrap_or(u64::MAX), SeqCst);
        self.word(HIT_PID).store(std::process::id(), SeqCst);
        Some(act)
    }

    fn word(&self, offset: usize) -> &AtomicU32 {
        self.memory.word32(offset)
    }

    fn struck_at(&self) -> &AtomicU64 {
        self.memory.word64(HIT_TIME)
    }

    fn hits_of(&self, point: Failpoint) -> &AtomicU32 {
        self.word(HITS + 4 * point as usize)
    }
}

/// The time since the machine was started, which is the same in all processes.
pub fn now() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

/// From now on, failpoints of this process do what the memory that the environment names says.
pub(crate) fn install() {
    let _ = HOOKS.set(Hooks { hit, should_fail }); // a second `init` finds them installed
}

fn hit(point: Failpoint) {
    let Some(control) = Controller::of_environment() else { return };
    let Some(act) = control.applies(point) else { return };
    if act == Action::Kill as u32 {
        signal_self(Signal::SIGKILL);
    } else if act == Action::Stop as u32 {
        signal_self(Signal::SIGSTOP);
        control.word(RESUMED).store(1, SeqCst);
    }
}

fn should_fail(point: Failpoint) -> bool {
    let act = Controller::of_environment().and_then(|control| control.applies(point));
    if act == Some(Action::Kill as u32) {
        signal_self(Signal::SIGKILL);
    }
    act == Some(Action::Refuse as u32)
}

fn signal_self(signal: Signal) {
    let _ = kill(Pid::this(), signal);
}

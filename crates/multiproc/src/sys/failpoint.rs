//! Places where a process can be killed, stopped, or refused what it asks the system for, on purpose.
//!
//! They do nothing, and cost nothing, unless the library is built with `--cfg multiproc_faults`: then a suite says at which
//! of them what is to happen, in memory that all processes of a program share (`sys::fault_control`).

// See `ring`.
#![allow(clippy::inline_always)]
#![allow(unreachable_pub, reason = "what is public here is so for the suite only")]

#[cfg(multiproc_faults)]
use std::sync::OnceLock;

macro_rules! points {
    ($($(#[$doc:meta])* $point:ident = $name:literal,)*) => {
        /// A step of a protocol, named after what has just happened, or is just about to.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[cfg_attr(not(multiproc_faults), allow(dead_code))]
        pub enum Failpoint {
            $($(#[$doc])* $point,)*
        }

        #[cfg(multiproc_faults)]
        impl Failpoint {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$point),*];

            /// What it is called on the command line and in tables.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$point => $name,)*
                }
            }
        }
    };
}

points! {
    /// The parent has written the bootstrap message to a child.
    BootstrapWritten = "spawn:bootstrap-written",
    /// The parent has ordered a preforked child from the zygote.
    ForkRequested = "spawn:fork-requested",
    /// The parent has sent a preforked child its bootstrap message, and does not watch it yet.
    BootstrapSent = "spawn:bootstrap-sent",
    /// The zygote has begun, and has not said so.
    ZygoteStarted = "zygote:started",
    /// The zygote has an order, and has not forked.
    RequestReceived = "zygote:request-received",
    /// The zygote has forked, and has not said so.
    Forked = "zygote:forked",
    /// The zygote has said so.
    ForkReported = "zygote:fork-reported",
    /// The child has just begun.
    ChildStarted = "child:started",
    /// It is a preforked child, and is to wait for its bootstrap message.
    PreforkedIdle = "preforked:idle",
    /// The preforked child has its bootstrap message, and has not opened it.
    BootstrapReceived = "preforked:bootstrap-received",
    /// The child has read its bootstrap message, and is to call its function.
    BootstrapDecoded = "child:bootstrap-decoded",
    /// Its function has returned, and nobody has been told.
    Returned = "child:returned",
    /// Its outcome is sent, and it is to end.
    ResultReported = "child:result-sent",
    /// The arguments of a child's function are decoded, or of a large item's, and it is to be called.
    TaskDecoded = "task:decoded",
    /// It has returned, and its result is not encoded.
    TaskRan = "task:ran",
    /// The worker is to run its initializer.
    Initializing = "worker:initializing",
    /// The worker is up, and has not said so.
    WorkerStarted = "worker:started",
    /// It has said so.
    WorkerReady = "worker:ready",
    /// The worker has begun an item, and not looked at it.
    ItemBegun = "worker:item-begun",
    /// It has the message of a large item.
    ItemReceived = "worker:item-received",
    /// It has decoded the item, and is to run it.
    ItemDecoded = "worker:item-decoded",
    /// The item has run, and its result is not encoded.
    ItemRan = "worker:item-ran",
    /// The result is encoded.
    ResultEncoded = "worker:result-encoded",
    /// A large result is spilled, and its message not sent.
    ResultSpilled = "worker:result-spilled",
    /// The message of a large result is sent, and nothing in the ring refers to it.
    ResultSent = "worker:result-sent",
    /// The result is in the ring, and the item not finished.
    ResultWritten = "worker:result-written",
    /// The item is finished, and the result not published.
    ItemFinished = "worker:item-finished",
    /// Results are published, and nobody has been woken.
    ResultsPublished = "worker:results-published",
    /// The worker is to fall asleep, its event count armed.
    WorkerSleeps = "worker:sleeps",
    /// The worker was told that there will be no more items.
    ShutdownRequested = "worker:shutdown-requested",
    /// The pool has written items that it has not handed in.
    ItemsWritten = "pool:items-written",
    /// The pool has handed items in, and not woken the worker.
    ItemsSubmitted = "pool:items-submitted",
    /// The pool has taken items back that the worker has not begun.
    ItemsRevoked = "pool:items-revoked",
    /// The pool has copied results, and not said so.
    ResultsCopied = "pool:results-copied",
    /// The pool is to bury a worker.
    Reaping = "pool:reaping",
    /// The head of a frame is in a ring, and its bytes are not.
    MidFrame = "ring:mid-frame",
    /// A lock in shared memory was taken.
    LockTaken = "lock:taken",
    /// A message's ancillary packet is sent, and its frame not published.
    AncillarySent = "channel:ancillary-sent",
    /// Messages are in the ring, or were taken out, and that is not published.
    Publishing = "channel:publishing",
    /// It is published, and who waits for it has not been woken.
    Published = "channel:published",
    /// The other side has been woken; the lock is still held.
    PeerNotified = "channel:peer-notified",
    /// A message is taken, and its ancillary packet not thrown away.
    AncillaryLeft = "channel:ancillary-left",
    /// One who waits is to fall asleep, its wakeup flag armed.
    ChannelSleeps = "channel:sleeps",
    /// A event count's number has changed, and those who wait for that are not woken.
    EventCountChanged = "event-count:changed",
    /// They are woken, and the event count still says that somebody waits.
    AllWoken = "event-count:all-woken",
    /// A thread is to fall asleep until a lock, an event or the like changes.
    SyncSleeps = "sync:sleeps",
    /// An event is set, and its waiters are not notified.
    EventSet = "sync:event-set",
    /// Permits of a semaphore or a `RwLock` are given to a waiter, which is not notified.
    PermitsGiven = "sync:permits-given",
    /// A thread has its permits.
    PermitsTaken = "sync:permits-taken",
    /// Permits are given back, and the waiters are not notified.
    PermitsReleased = "sync:permits-released",
    /// A waiter of a condition variable is marked as notified, and not woken.
    WaiterNotified = "sync:waiter-notified",
    /// All parties have come to a barrier, and are not notified.
    BarrierPassed = "sync:barrier-passed",
    /// A slice is filled, and not sealed.
    Filled = "shared-slice:filled",
    /// A slice is sealed, and not mapped.
    Sealed = "shared-slice:sealed",
    /// The system is asked for anonymous memory.
    CreateMemory = "system:memfd",
    /// The system is asked to map memory.
    MapMemory = "system:mmap",
    /// The system is asked for a pair of sockets.
    CreateSockets = "system:socketpair",
    /// The system is asked for a descriptor to wait for.
    CreateEvent = "system:eventfd",
    /// The system is asked to send a packet.
    SendPacket = "system:sendmsg",
    /// The system is asked to execute the program again.
    Execute = "system:exec",
    /// The zygote asks the system for a copy of itself.
    Fork = "system:clone",
}

/// What happens at a failpoint: [`init`](crate::init) installs the functions of `failpoint_control`.
#[cfg(multiproc_faults)]
pub(crate) struct Hooks {
    pub(crate) hit: fn(Failpoint),
    pub(crate) should_fail: fn(Failpoint) -> bool,
}

#[cfg(multiproc_faults)]
pub(crate) static HOOKS: OnceLock<Hooks> = OnceLock::new();

/// A process may be killed here, or stopped.
#[inline(always)]
pub(crate) fn hit(point: Failpoint) {
    #[cfg(multiproc_faults)]
    if let Some(hooks) = HOOKS.get() {
        (hooks.hit)(point);
    }
    #[cfg(not(multiproc_faults))]
    let _ = point;
}

/// Whether the system is to refuse what it is asked for here.
#[inline(always)]
pub(crate) fn should_fail(point: Failpoint) -> bool {
    #[cfg(multiproc_faults)]
    return HOOKS.get().is_some_and(|hooks| (hooks.should_fail)(point));
    #[cfg(not(multiproc_faults))]
    {
        let _ = point;
        false
    }
}

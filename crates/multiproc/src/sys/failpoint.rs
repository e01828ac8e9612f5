//! Failpoints (FreeBSD's fail(9)): steps at which a process can be killed or stopped, or a call refused.
//!
//! They do nothing, and cost nothing, unless the library is built with `--cfg multiproc_faults`. Then the
//! fault suite arms one at a time, in memory that all processes of a program share
//! (`sys::failpoint_control`).

#![allow(clippy::inline_always)] // so that they cost nothing
#![allow(unreachable_pub, reason = "public for the fault suite only")]

#[cfg(multiproc_faults)]
use std::sync::OnceLock;

macro_rules! points {
    ($($(#[$doc:meta])* $point:ident = $name:literal,)*) => {
        /// A step of a protocol, named after what has just happened or is about to happen.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs, reason = "the names say it, where no comment does")]
        #[cfg_attr(not(multiproc_faults), allow(dead_code))]
        pub enum Failpoint {
            $($(#[$doc])* $point,)*
        }

        #[cfg(multiproc_faults)]
        impl Failpoint {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$point),*];

            /// Its name on the command line and in tables.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$point => $name,)*
                }
            }
        }
    };
}

points! {
    BootstrapWritten = "spawn:bootstrap-written",
    ForkRequested = "spawn:fork-requested",
    /// The parent has sent a pre-forked child its bootstrap message, and does not watch it yet.
    BootstrapSent = "spawn:bootstrap-sent",
    /// The zygote has begun, and not reported that.
    ZygoteStarted = "zygote:started",
    /// The zygote has a request, and has not forked.
    RequestReceived = "zygote:request-received",
    /// The zygote has forked, and not reported that.
    Forked = "zygote:forked",
    ForkReported = "zygote:fork-reported",
    ChildStarted = "child:started",
    PreforkedIdle = "preforked:idle",
    BootstrapReceived = "preforked:bootstrap-received",
    /// The child has decoded its bootstrap message, and is about to call its function.
    BootstrapDecoded = "child:bootstrap-decoded",
    /// The child's function has returned, and its result is not sent.
    Returned = "child:returned",
    /// The child's result is sent, and it is about to exit.
    ResultReported = "child:result-sent",
    TaskDecoded = "task:decoded",
    TaskRan = "task:ran",
    Initializing = "worker:initializing",
    /// The worker has started, and not reported that.
    WorkerStarted = "worker:started",
    WorkerReady = "worker:ready",
    /// The worker has claimed an item, and not read it.
    ItemBegun = "worker:item-begun",
    ItemReceived = "worker:item-received",
    /// The worker has received a memory, and not begun an item that names it.
    MemoryReceived = "worker:memory-received",
    ItemDecoded = "worker:item-decoded",
    ItemRan = "worker:item-ran",
    ResultEncoded = "worker:result-encoded",
    /// A large result is spilled, and its message not sent.
    ResultSpilled = "worker:result-spilled",
    /// The message of a large result is sent, and nothing in the ring refers to it.
    ResultSent = "worker:result-sent",
    /// The result is in the ring, and the item not completed.
    ResultWritten = "worker:result-written",
    /// The item is completed, and its result not visible.
    ItemCompleted = "worker:item-completed",
    /// Results are visible, and no waiter is woken.
    ResultsVisible = "worker:results-visible",
    WorkerSleeps = "worker:sleeps",
    ShutdownRequested = "worker:shutdown-requested",
    /// The pool has sent a worker a memory, and no item that names it.
    MemorySent = "pool:memory-sent",
    /// The pool has written items, and not submitted them.
    ItemsWritten = "pool:items-written",
    /// The pool has submitted items, and not woken the worker.
    ItemsSubmitted = "pool:items-submitted",
    /// The pool has revoked items that the worker has not begun.
    ItemsRevoked = "pool:items-revoked",
    /// The pool has copied results, and not released their place in the ring.
    ResultsCopied = "pool:results-copied",
    Reaping = "pool:reaping",
    /// The header of a frame is in a ring, and its bytes are not.
    MidFrame = "ring:mid-frame",
    LockTaken = "lock:taken",
    /// A thread is to fall asleep until the holder of a lock releases it.
    LockSleeps = "lock:sleeps",
    /// A lock for which threads sleep is released, and none of them is woken.
    LockReleased = "lock:released",
    /// A message's ancillary packet is sent, and its frame not published.
    AncillarySent = "channel:ancillary-sent",
    /// Messages were written to the ring or read from it, and that is not published.
    Publishing = "channel:publishing",
    /// That is published, and no waiter is woken.
    Published = "channel:published",
    /// The other side is woken; the mutex is still held.
    PeerNotified = "channel:peer-notified",
    /// A message is received, and its ancillary packet not discarded.
    AncillaryLeft = "channel:ancillary-left",
    ChannelSleeps = "channel:sleeps",
    /// A channel is marked as closed, and its sockets are not shut down.
    ChannelClosing = "channel:closing",
    /// Memory ahead of what is in an unbounded queue is allocated, and senders do not know of it.
    MemoryAllocated = "unbounded:allocated",
    /// Memory of what was received is given back, and senders do not know of it.
    MemoryReleased = "unbounded:released",
    /// A thread is to fall asleep until one of several things is ready.
    WaitAnySleeps = "wait-any:sleeps",
    /// An event count has changed, and its waiters are not woken.
    EventCountChanged = "event-count:changed",
    /// Its waiters are woken, and the event count still says that threads wait.
    AllWoken = "event-count:all-woken",
    /// A thread is to fall asleep until a lock, an event or the like changes.
    SyncSleeps = "sync:sleeps",
    /// An event is set, and its waiters are not notified.
    EventSet = "sync:event-set",
    /// Permits of a semaphore or a `RwLock` are granted to a waiter, which is not notified.
    PermitsGranted = "sync:permits-granted",
    /// A thread has its permits.
    PermitsTaken = "sync:permits-taken",
    /// Permits are given back, and the waiters are not notified.
    PermitsReleased = "sync:permits-released",
    /// A waiter of a condition variable is marked as notified, and not woken.
    WaiterNotified = "sync:waiter-notified",
    /// A waiter of a condition variable is in its table, and still holds the mutex.
    WaiterAdded = "sync:waiter-added",
    /// A waiter of a condition variable waits no longer, and has not taken the mutex again.
    WaiterWoken = "sync:waiter-woken",
    /// A party is in the table of a barrier, which it has not opened, and still holds the lock.
    BarrierArrived = "sync:barrier-arrived",
    /// All parties have arrived at a barrier, and are not notified.
    BarrierPassed = "sync:barrier-passed",
    /// The reason for which a barrier is about to be broken is written.
    BarrierBreaking = "sync:barrier-breaking",
    /// A barrier is broken, and is about to be usable again.
    BarrierResetting = "sync:barrier-resetting",
    /// A guard has written the mutex's value back, and still holds the mutex.
    WrittenBack = "sync:written-back",
    /// A cell's value is written, and does not count as written.
    CellFilled = "sync:cell-filled",
    /// An item is in a joinable queue, and no waiter is notified.
    DeliveryQueued = "joinable:queued",
    /// An item has its receiver, and does not say yet that it is taken.
    DeliveryHandedOver = "joinable:handed-over",
    /// A receiver has an item, which is not acknowledged.
    DeliveryTaken = "joinable:taken",
    /// A large item is acknowledged, and its memory not released.
    DeliveryAcknowledged = "joinable:acknowledged",
    /// An item is gone, and no waiter is notified.
    DeliveryFreed = "joinable:freed",
    /// A thread is about to queue an item again, or to count it as lost.
    DeliveryGivenUp = "joinable:given-up",
    /// An item is counted as lost, and still there.
    LossCounted = "joinable:loss-counted",
    /// An item that was given up is queued again, or gone, and no waiter is notified.
    DeliveryReturned = "joinable:returned",
    /// A server has noted which call it is about to take.
    CallNoted = "server:call-noted",
    /// It has taken the call, and not run it.
    CallTaken = "server:call-taken",
    /// It has run the call, and not replied.
    CallRan = "server:call-ran",
    /// It has replied, and the call is still noted.
    ReplySent = "server:reply-sent",
    /// It has a caller's channel for replies, and has sent none of those that wait for it.
    CallerConnected = "server:caller-connected",
    /// A caller has sent its channel for replies.
    ConnectSent = "server:connect-sent",
    /// A caller has sent its call.
    CallSent = "server:call-sent",
    /// The spawning process knows how the server ended, and has not written it down.
    ServerReaped = "server:reaped",
    /// A handle has taken its chunk of an array, and not mapped it.
    ChunkTaken = "shared-array:taken",
    /// A chunk that is about to be sent is released, and its handle not encoded.
    ChunkReleased = "shared-array:released",
    /// A chunk is unmapped, and its liveness socket is open.
    ChunkUnmapped = "shared-array:unmapped",
    Filled = "shared-slice:filled",
    Sealed = "shared-slice:sealed",
    // The system calls of these can be refused, too.
    CreateMemory = "syscall:memfd",
    MapMemory = "syscall:mmap",
    CreateSockets = "syscall:socketpair",
    CreateEvent = "syscall:eventfd",
    SendPacket = "syscall:sendmsg",
    Execute = "syscall:exec",
    Fork = "syscall:clone",
}

/// The actions at failpoints: [`init`](crate::init()) installs the functions of `failpoint_control`.
#[cfg(multiproc_faults)]
pub(crate) struct Hooks {
    pub(crate) hit: fn(Failpoint),
    pub(crate) should_fail: fn(Failpoint) -> bool,
}

#[cfg(multiproc_faults)]
pub(crate) static HOOKS: OnceLock<Hooks> = OnceLock::new();

/// Passes a failpoint, where the process may be killed or stopped.
#[inline(always)]
pub(crate) fn hit(point: Failpoint) {
    #[cfg(multiproc_faults)]
    if let Some(hooks) = HOOKS.get() {
        (hooks.hit)(point);
    }
    #[cfg(not(multiproc_faults))]
    let _ = point;
}

/// Passes a failpoint; returns whether to act as if the kernel had refused the next system call.
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

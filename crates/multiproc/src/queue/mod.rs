//! Queues: items from any number of processes to any number of processes.
//!
//! [`bounded`] makes a queue and returns its two ends. Both can be cloned, and passed to a child as
//! arguments. **The ends are the protocol**: passing an end to a child closes this process's copy. When the
//! last [`Sender`] is dropped, or the process that holds it exits or is killed, the receivers take the items
//! that are left and then meet the end. No sentinel is needed.
//!
//! ```
//! use multiproc::{Error, Process, queue};
//!
//! fn consume(receiver: queue::Receiver<String>) -> Result<Vec<String>, Error> {
//!     receiver.into_iter().collect()
//! }
//!
//! fn main() -> Result<(), Error> {
//!     multiproc::init();
//!     let (sender, receiver) = queue::bounded::<String>(16)?;
//!     let consumer = Process::spawn(consume, (receiver,))?;
//!     sender.send("ticket1".to_owned())?;
//!     sender.send("ticket2".to_owned())?;
//!     drop(sender);
//!     assert_eq!(consumer.join()??, ["ticket1", "ticket2"]);
//!     Ok(())
//! }
//! ```
//!
//! [`unbounded`] makes a queue that can be filled before anything reads from it; [`joinable`] one whose items are
//! acknowledged, so that a sender can wait until all is done. The rest of this page is about `bounded` and
//! `unbounded` queues.
//!
//! Each item goes to exactly one receiver, and the items of one sender arrive in its order. A process killed
//! at any instruction leaves an item in the queue whole or not at all; an item that a killed receiver had not
//! finished taking goes to another receiver. A receiver that is *stopped* (SIGSTOP) while it takes or waits
//! delays the other receivers until it continues; their timed calls still return on time. The same holds for
//! senders.
//!
//! An item may be any value that [serde](https://serde.rs) can write and read (but see
//! [Limits](crate#limits)), also one with a descriptor in it: a [`SharedSlice`](crate::SharedSlice), an
//! [`Fd`](crate::Fd), an end of a queue or pipe. It is closed if the item is never received. An end of the
//! queue that lies in that queue itself keeps it open until it is received.
//!
//! Items of a bounded queue travel through 4 MiB of shared memory; a queue that is usually empty uses half of it.
//! An item larger than 32 KiB that finds no room there, and any item larger than 2 MiB, is spilled to anonymous
//! memory of its own, so a large item does not block its sender: a child may send 20 MB and exit before any
//! receiver reads.

mod delivery;
mod joinable_ends;
mod receiver;
mod sender;
mod transfer;

use std::marker::PhantomData;
use std::num::NonZeroUsize;

use crate::channel::errors::ErrorTerms;
use crate::channel::sockets;
use crate::error::{Error, Result};
use crate::ipc::wire::SharedMemory;

pub use self::delivery::Delivery;
pub use self::joinable_ends::{JoinableIntoIter, JoinableReceiver, JoinableSender, Unfinished, joinable};
pub use self::receiver::{IntoIter, Receiver};
pub use self::sender::Sender;
pub use crate::channel::errors::SendError;

/// Makes a queue that holds at most `capacity` items at a time.
///
/// A sender blocks while the queue is full. That back-pressure keeps a fast producer from filling memory with
/// items that a slow consumer has not taken yet.
///
/// Items up to 32 KiB also wait while the queue's memory is full, whatever the capacity: it always has room
/// for 2 MiB of them (usually 4 MiB), each counted with 8 bytes more and rounded up to a multiple of 8.
/// Larger items are spilled to memory of their own instead. They, and items that hold descriptors, also wait for the
/// kernel's limits on descriptors in flight (`RLIMIT_NOFILE`) and on unreceived packets (a few hundred).
///
/// # Errors
/// When `capacity` is 0, or when the kernel refuses a descriptor or memory.
pub fn bounded<T>(capacity: u32) -> Result<(Sender<T>, Receiver<T>)> {
    if capacity == 0 {
        return Err(Error::invalid("queue capacity must be at least 1"));
    }
    create(capacity)
}

/// Makes a queue in which items never wait for room: it can be filled before anything reads from it.
///
/// Its items lie in shared memory, not in their sender: once [`send`](Sender::send) has returned, the item
/// arrives even if its sender exits or is killed. The queue has memory for the items in it, and gives it back
/// in steps of 4 MiB as they are received. It holds up to 2 GiB of items, each counted with 8 bytes more; when
/// it is full, or the kernel has no memory, sending is an error, and does not wait either. The same holds for
/// items with descriptors, of which the kernel limits how many are sent and not received (`RLIMIT_NOFILE`, and
/// a few hundred packets).
///
/// [`bounded`] is faster, since its memory stays in the processor's cache; and it keeps a fast producer from
/// filling memory.
///
/// ```
/// use multiproc::{Process, Result, queue};
///
/// fn main() -> Result<()> {
///     multiproc::init();
///     let (sender, receiver) = queue::unbounded()?;
///     for number in 0..100_000_u64 {
///         sender.send(number)?;
///     }
///     drop(sender);
///     let sum = |receiver: queue::Receiver<u64>| receiver.into_iter().sum::<Result<u64>>();
///     assert_eq!(Process::spawn(sum, (receiver,))?.join()??, 4_999_950_000);
///     Ok(())
/// }
/// ```
///
/// # Errors
/// When the kernel refuses a descriptor, or 2 GiB of address space or of file size (`RLIMIT_FSIZE`).
pub fn unbounded<T>() -> Result<(Sender<T>, Receiver<T>)> {
    create(0)
}

fn create<T>(capacity: u32) -> Result<(Sender<T>, Receiver<T>)> {
    let layout = transfer::layout(capacity);
    let size = NonZeroUsize::new(layout.end()).unwrap_or(NonZeroUsize::MIN);
    let (from, to) = sockets()?;
    let (sender, receiver) = layout.create(&SharedMemory::create(size)?, from, to)?;
    Ok((Sender { core: sender, item: PhantomData }, Receiver { core: receiver, item: PhantomData }))
}

const TERMS: ErrorTerms = ErrorTerms {
    channel: "queue",
    item: "an item",
    sender: "sender of the queue",
    receiver: "receiver of the queue",
};

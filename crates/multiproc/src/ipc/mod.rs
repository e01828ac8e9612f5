//! Bytes between two processes: a ring in shared memory, packets over a socket, an event count to sleep on, and
//! how long a shortage of descriptors is waited for.

pub(crate) mod event_count;
pub(crate) mod fd_shortage;
pub(crate) mod frame;
#[cfg(any(feature = "log", feature = "trace"))]
pub(crate) mod link;
pub(crate) mod memfd_cache;
pub(crate) mod packet;
pub(crate) mod panic;
pub(crate) mod ring;
pub(crate) mod scratch;
pub(crate) mod wire;

#[cfg(test)]
mod ring_fuzz;

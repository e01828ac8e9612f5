//! Large data that many processes read and nobody copies.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::marker::PhantomData;
use std::num::NonZeroUsize;
use std::ops::Deref;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use nix::errno::Errno;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, Result};
use crate::ipc::wire::SharedFd;
use crate::sys::sealed::{Identity, Sealed, identify};

pub use bytemuck::Pod;

/// A slice of plain data in shared memory that nobody can change: filled once, then read by any number of processes,
/// none of which copies it.
///
/// ```
/// use multiproc::{SharedSlice, Pool};
///
/// fn sum_part(numbers: SharedSlice<u64>, part: usize) -> u64 {
///     numbers[part * 250_000..][..250_000].iter().sum()
/// }
///
/// fn main() -> multiproc::Result<()> {
///     multiproc::init();
///     let numbers = SharedSlice::build(1_000_000, |slots| {
///         for (slot, number) in slots.iter_mut().zip(1..) {
///             *slot = number;
///         }
///     })?;
///     let pool = Pool::new(2)?;
///     let sums = pool.starmap(sum_part, (0..4).map(|part| (numbers.clone(), part)))?;
///     assert_eq!(sums.iter().sum::<u64>(), 500_000_500_000);
///     Ok(())
/// }
/// ```
///
/// # What can be in it
///
/// Elements are [`Pod`], plain old data: numbers, arrays of them, and structs of them without padding. For a struct of
/// your own, depend on the crate [bytemuck](https://docs.rs/bytemuck) with its feature `derive`:
///
/// ```
/// use bytemuck::{Pod, Zeroable};
/// use multiproc::SharedSlice;
///
/// #[derive(Clone, Copy, Pod, Zeroable)]
/// #[repr(C)]
/// struct Star {
///     position: [f32; 3],
///     brightness: f32,
/// }
///
/// fn main() -> multiproc::Result<()> {
///     multiproc::init();
///     let sun = Star { position: [0.0; 3], brightness: -26.7 };
///     let stars = SharedSlice::from_slice(&[sun])?;
///     assert_eq!(stars.len(), 1);
///     Ok(())
/// }
/// ```
///
/// An element of no size, or one that must be aligned to more than a page's 4096 bytes, does not build.
///
/// # Who may write
///
/// Nobody. The kernel seals the memory once it is filled, before any process can read it, and refuses from then on
/// whatever would change or shorten it, to the process that made it, too. One that receives it looks for the seals before it reads.
///
/// # Where it travels
///
/// As an argument of a process or task, and through a pipe; not inside a queue's items or a result. What travels is a
/// descriptor. A process holds one descriptor and one mapping for each piece of data, however often it receives it and
/// however many clones it has. The memory is given back when the last process has let go of it, or has been killed.
///
/// # What it costs
///
/// To make one costs up to about a millisecond a megabyte, mostly the kernel's work to find the pages. To read it for
/// the first time in a process costs some tens of microseconds a megabyte more than reading memory does; only the part
/// that is read costs anything. To receive it again costs what any small message with a descriptor does, because **a
/// process keeps the last 8 that it has received, up to 64 MiB together**, also when nothing in it uses them any more.
/// That memory stays in use until the process has received others, or has ended. One that is larger is mapped anew by
/// each task; a worker that holds a clone, in a `static` that the pool's initializer fills, for example, keeps that
/// one, too.
#[derive(Clone)]
pub struct SharedSlice<T> {
    /// `None` where it is empty: no memory is of no size.
    memory: Option<Arc<Memory>>,
    element: PhantomData<T>,
}

impl<T: Pod> SharedSlice<T> {
    /// Copies a slice, once. Blocks for the copying only.
    ///
    /// # Errors
    /// When the system refuses the memory (also for a limit on the size of files, `RLIMIT_FSIZE`, or of this process)
    /// or a descriptor.
    pub fn from_slice(elements: &[T]) -> Result<Self> {
        const { Self::CHECKED };
        let bytes: &[u8] = bytemuck::cast_slice(elements);
        if bytes.is_empty() {
            return Ok(Self::empty());
        }
        Self::made(Sealed::copy(bytes)?)
    }

    /// Has `fill` write `length` elements where they will stay; they are zeroed before. Blocks as long as `fill` runs; and for
    /// up to 10 s more while a copy of this process that somebody has forked meanwhile still has that memory.
    ///
    /// ```
    /// use multiproc::SharedSlice;
    ///
    /// fn main() -> multiproc::Result<()> {
    ///     multiproc::init();
    ///     let squares = SharedSlice::build(10, |slots: &mut [u32]| {
    ///         for (slot, number) in slots.iter_mut().zip(0..) {
    ///             *slot = number * number;
    ///         }
    ///     })?;
    ///     assert_eq!(squares[9], 81);
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// Those of [`from_slice`](Self::from_slice). All of the memory is asked for before `fill` runs. Also when `fill`
    /// forks and the copy of this process stays: it could still write.
    ///
    /// # Panics
    /// When `fill` does; then nothing is left of it.
    pub fn build(length: usize, fill: impl FnOnce(&mut [T])) -> Result<Self> {
        const { Self::CHECKED };
        let size = length.checked_mul(size_of::<T>()).ok_or_else(|| {
            let operation = format!("find memory for {length} elements of {} bytes", size_of::<T>());
            Error::system(&operation, Errno::ENOMEM)
        })?;
        let Some(size) = NonZeroUsize::new(size) else {
            fill(&mut []);
            return Ok(Self::empty());
        };
        Self::made(Sealed::build(size, |bytes| fill(bytemuck::cast_slice_mut(bytes)))?)
    }

    /// Memory begins with a page, and its size is a number of elements.
    ///
    /// ```
    /// assert!(multiproc::SharedSlice::from_slice(&[0_u8]).is_ok());
    /// ```
    ///
    /// ```compile_fail
    /// assert!(multiproc::SharedSlice::from_slice(&[()]).is_ok());
    /// ```
    const CHECKED: () = {
        assert!(size_of::<T>() > 0, "elements of no size have nothing that could be frozen");
        assert!(align_of::<T>() <= 4096, "memory is not aligned to more than a page");
    };

    fn empty() -> Self {
        Self { memory: None, element: PhantomData }
    }

    fn made((sealed, fd): (Sealed, OwnedFd)) -> Result<Self> {
        let (identity, _) = identify(fd.as_fd())?;
        let memory = Arc::new(Memory { handle: fd.into(), sealed });
        MappingCache::lock().add(identity, &memory);
        Ok(Self { memory: Some(memory), element: PhantomData })
    }

    fn received(sent: Header) -> Result<Self> {
        const { Self::CHECKED };
        let refused = |why: String| Err(Error::decode("a `SharedSlice`", why));
        if sent.element != size_of::<T>() {
            return refused(format!("elements of {} bytes announced, not {}", sent.element, size_of::<T>()));
        }
        let Some((handle, length)) = sent.memory else { return Ok(Self::empty()) };
        if !length.get().is_multiple_of(size_of::<T>()) {
            return refused(format!("{length} bytes announced, no number of elements of {}", sent.element));
        }
        Ok(Self { memory: Some(MappingCache::lock().receive(handle, length)?), element: PhantomData })
    }
}

impl<T: Pod> Deref for SharedSlice<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.memory.as_ref().map_or(&[], |memory| bytemuck::cast_slice(memory.sealed.bytes()))
    }
}

impl<T: Pod> AsRef<[T]> for SharedSlice<T> {
    fn as_ref(&self) -> &[T] {
        self
    }
}

impl<T: Pod> fmt::Debug for SharedSlice<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedSlice").field("len", &self.len()).finish_non_exhaustive()
    }
}

/// What travels.
#[derive(Serialize, Deserialize)]
struct Header {
    /// An element's size in bytes. Both sides run the same build, so that this checks only that they mean the same.
    element: usize,
    /// The memory, unless it is empty, and its size in bytes.
    memory: Option<(SharedFd, NonZeroUsize)>,
}

impl<T: Pod> Serialize for SharedSlice<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let memory = self.memory.as_ref().and_then(|memory| Some((memory.handle.clone(), memory.length()?)));
        Header { element: size_of::<T>(), memory }.serialize(serializer)
    }
}

impl<'de, T: Pod> Deserialize<'de> for SharedSlice<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let sent = Header::deserialize(deserializer)?;
        Self::received(sent).map_err(D::Error::custom)
    }
}

/// A piece of sealed memory as this process holds it, once for all that share it.
#[derive(Debug)]
struct Memory {
    handle: SharedFd,
    sealed: Sealed,
}

impl Memory {
    fn length(&self) -> Option<NonZeroUsize> {
        NonZeroUsize::new(self.sealed.bytes().len())
    }
}

/// How many pieces of memory a process keeps that it has received, and how many bytes of them.
const MAX_MAPPINGS: usize = 8;
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// What this process has mapped, so that it maps nothing twice.
///
/// A copy of this process that somebody forks has all of it, too: the mappings, the descriptors and these notes, which
/// are as true there as they are here.
struct MappingCache {
    mapped: BTreeMap<Identity, Weak<Memory>>,
    /// So many entries may there be before those are thrown out that nobody holds any more.
    bound: usize,
    /// Received last, the latest at the end, so that the next task finds it mapped.
    kept: VecDeque<Arc<Memory>>,
}

static CACHE: Mutex<MappingCache> = Mutex::new(MappingCache::new());

impl MappingCache {
    const fn new() -> Self {
        Self { mapped: BTreeMap::new(), bound: 2 * MAX_MAPPINGS, kept: VecDeque::new() }
    }

    fn lock() -> MutexGuard<'static, Self> {
        CACHE.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The memory that came with a message, mapped if it is not yet.
    fn receive(&mut self, handle: SharedFd, length: NonZeroUsize) -> Result<Arc<Memory>> {
        let (identity, _) = identify(handle.as_fd())?;
        // While it is mapped, no other memory can have its identity; and it cannot have lost its seals.
        let mapped = self.mapped.get(&identity).and_then(Weak::upgrade);
        let memory = match mapped.filter(|memory| memory.length() == Some(length)) {
            Some(memory) => memory,
            None => self.map(identity, handle, length)?,
        };
        self.keep(&memory);
        Ok(memory)
    }

    fn map(&mut self, identity: Identity, handle: SharedFd, length: NonZeroUsize) -> Result<Arc<Memory>> {
        let sealed = Sealed::open(handle.as_fd(), length)?;
        let memory = Arc::new(Memory { handle, sealed });
        self.add(identity, &memory);
        Ok(memory)
    }

    fn add(&mut self, identity: Identity, memory: &Arc<Memory>) {
        if self.mapped.len() >= self.bound {
            self.mapped.retain(|_, memory| memory.strong_count() > 0);
            self.bound = 2 * self.mapped.len().max(MAX_MAPPINGS); // so that this is rare, however many there are
        }
        self.mapped.insert(identity, Arc::downgrade(memory));
    }

    fn keep(&mut self, memory: &Arc<Memory>) {
        let size = |memory: &Arc<Memory>| memory.sealed.bytes().len();
        if size(memory) > MAX_BYTES {
            return; // it would displace all others, and then itself
        }
        self.kept.retain(|kept| !Arc::ptr_eq(kept, memory));
        self.kept.push_back(Arc::clone(memory));
        while self.kept.len() > MAX_MAPPINGS || self.kept.iter().map(size).sum::<usize>() > MAX_BYTES {
            self.kept.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::ipc::wire::{decode, encode_with_descriptors};
    use crate::sys::mapping::memfd_write;
    use crate::testing::{any_bytes, any_word, cases, descriptors};

    /// Has `value` travel, and be decoded as something else.
    fn travelled<T: Pod>(value: &impl crate::ipc::wire::Travels) -> Result<SharedSlice<T>> {
        let mut bytes = Vec::new();
        let handles = encode_with_descriptors(value, &mut bytes, "it")?;
        let copies = handles.iter().map(|handle| handle.as_fd().try_clone_to_owned().unwrap());
        decode(&bytes, copies.collect(), "it")
    }

    fn sealed(size: usize) -> (SharedFd, NonZeroUsize) {
        let (sealed, fd) = Sealed::copy(&vec![1; size]).unwrap();
        (fd.into(), NonZeroUsize::new(sealed.bytes().len()).unwrap())
    }

    #[test]
    fn what_was_put_in_is_what_is_there() {
        let numbers: Vec<[u16; 3]> = (0..10_000).map(|number| [number, number / 2, 7]).collect();
        let copied = SharedSlice::from_slice(&numbers).unwrap();
        assert!(copied[..] == numbers);
        let built = SharedSlice::build(numbers.len(), |slots: &mut [[u16; 3]]| {
            assert!(slots.iter().all(|slot| *slot == [0; 3]), "they are zeroed");
            slots.copy_from_slice(&numbers);
        });
        assert!(built.unwrap()[..] == numbers);
        assert!(travelled::<[u16; 3]>(&copied).unwrap()[..] == numbers);
    }

    #[test]
    fn an_empty_one_needs_no_memory() {
        let mut filled = false;
        let built = SharedSlice::<f64>::build(0, |slots| filled = slots.is_empty()).unwrap();
        let copied = SharedSlice::<f64>::from_slice(&[]).unwrap();
        assert!(filled && built.is_empty() && copied.is_empty() && copied.memory.is_none());
        assert!(travelled::<f64>(&copied).unwrap().is_empty());
    }

    #[test]
    fn what_is_received_again_is_mapped_once() {
        let ours = SharedSlice::from_slice(&[1_u32, 2, 3]).unwrap();
        assert_eq!(travelled::<u32>(&ours).unwrap().as_ptr(), ours.as_ptr());
        let (handle, length) = sealed(12);
        let sent = || Header { element: 4, memory: Some((handle.clone(), length)) };
        let (first, second) = (travelled::<u32>(&sent()).unwrap(), travelled::<u32>(&sent()).unwrap());
        assert_eq!(first.as_ptr(), second.as_ptr());
        assert_ne!(first.as_ptr(), ours.as_ptr());
    }

    proptest! {
        #![proptest_config(cases(200))]

        #[test]
        fn any_bytes_and_descriptors_are_data_or_an_error(
            element in prop_oneof![Just(2_u64), any_word()],
            length in prop_oneof![Just(4096_u64), any_word()],
            flag in 0..3_u8,
            choice in vec(any::<u8>(), 0..3),
            bytes in any_bytes(40),
        ) {
            let announced = [&element.to_ne_bytes()[..], &[flag], &[0; 4], &length.to_ne_bytes()].concat();
            for bytes in [&announced, &bytes] {
                if let Ok(data) = decode::<SharedSlice<u16>>(bytes, descriptors(&choice), "it") {
                    prop_assert!(data.len() <= 2048 && data.iter().all(|&number| number == 0x0101));
                }
            }
        }
    }

    #[test]
    fn what_was_announced_must_have_been_sent() {
        let (handle, length) = sealed(4096 + 8);
        let unsealed = (SharedFd::from(memfd_write(&[1; 4096]).unwrap()), NonZeroUsize::new(4096).unwrap());
        let sized = |bytes: usize| Some((handle.clone(), NonZeroUsize::new(bytes).unwrap()));
        assert_eq!(
            travelled::<u64>(&Header { element: 8, memory: Some((handle.clone(), length)) }).unwrap().len(),
            513
        );
        for (element, memory, why) in [
            (4, sized(4096 + 8), "elements of 4 bytes announced, not 8"),
            (8, sized(4096 + 4), "no number of elements of 8"),
            (8, sized(4096), "4096 bytes announced, 4104 sent"),
            (8, sized(4096 * 2), "8192 bytes announced, 4104 sent"),
            (8, Some(unsealed), "it is not sealed"),
        ] {
            let error = travelled::<u64>(&Header { element, memory }).unwrap_err();
            assert!(error.is_codec() && error.to_string().contains(why), "{error}");
        }
    }

    #[test]
    fn a_size_that_cannot_be_had_is_an_error() {
        for length in [1 << 50, usize::MAX / 8, usize::MAX] {
            let error =
                SharedSlice::<u64>::build(length, |_| panic!("there is nothing to fill")).unwrap_err();
            assert_eq!(error.os_error(), Some(Errno::ENOMEM as i32), "{error}");
        }
    }

    #[test]
    fn a_process_keeps_no_more_than_it_says() {
        let mut known = MappingCache::new();
        let mut receive = |size| {
            let (handle, length) = sealed(size);
            known.receive(handle, length).unwrap();
            known.kept.iter().map(|memory| memory.sealed.bytes().len()).collect::<Vec<_>>()
        };
        for _ in 0..MAX_MAPPINGS {
            receive(1);
        }
        assert_eq!(receive(2), [1, 1, 1, 1, 1, 1, 1, 2]);
        assert_eq!(receive(MAX_BYTES + 1), [1, 1, 1, 1, 1, 1, 1, 2]);
        assert_eq!(receive(MAX_BYTES - 3), [1, 2, MAX_BYTES - 3]);
    }

    #[test]
    fn what_is_gone_is_forgotten() {
        let mut known = MappingCache::new();
        let held: Vec<_> = (1..=100).map(sealed).collect();
        let held: Vec<_> =
            held.into_iter().map(|(handle, size)| known.receive(handle, size).unwrap()).collect();
        for size in 1..=1000 {
            let (handle, length) = sealed(size);
            known.receive(handle, length).unwrap();
        }
        assert!(known.mapped.len() < 3 * held.len(), "{} entries", known.mapped.len());
        for memory in &held {
            let again = known.receive(memory.handle.clone(), memory.length().unwrap()).unwrap();
            assert!(Arc::ptr_eq(&again, memory));
        }
    }
}

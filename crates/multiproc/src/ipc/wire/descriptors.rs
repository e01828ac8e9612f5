//! Descriptors inside values, and [attachments](super::attachment). They travel beside the value, which holds
//! indices into their lists.

use std::cell::{Cell, RefCell};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::fstat;

use super::segments::{Arrived, SegmentList, Segments, is_memory};
use super::shared_fd::SharedFd;
use crate::error::Result;
use crate::impl_serde::impl_serde;

/// What an attachment encodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// A descriptor that users may read and write.
    Fd,
    Memory,
    Sync,
    Chunk,
    Sender,
    Receiver,
    Joinable,
    Pipe,
    Server,
}

impl_serde!(
    enum Kind {
        Fd,
        Memory,
        Sync,
        Chunk,
        Sender,
        Receiver,
        Joinable,
        Pipe,
        Server,
    }
);

#[derive(Debug)]
pub(super) struct Attachment {
    pub(super) kind: Kind,
    pub(super) bytes: Vec<u8>,
}

impl_serde!(struct Attachment { kind, bytes });

/// Why a descriptor cannot be encoded.
pub(super) const NO_TRANSPORT: &str = "a descriptor (an `Fd`, an end of a queue or pipe, shared memory) travels \
     as an argument, as a result, and through a pipe or queue; not through a joinable queue";
pub(super) const NOT_ARRIVED: &str = "a descriptor did not arrive with the message";

/// What goes beside the value that is being encoded.
#[derive(Default)]
pub(super) struct Outgoing {
    /// Whether the value's transport carries descriptors.
    is_carried: bool,
    /// Whether only the library's own types are being encoded.
    is_internal: bool,
    /// Whether the value is only [tried](attempt), so that this goes to the incoming side's [`Trial`].
    is_trial: bool,
    beside: Option<Box<Beside<SharedFd, Attachment>>>,
    segments: Option<NamedSegments>,
}

/// The segments that values of a transport name.
struct NamedSegments {
    list: SegmentList,
    /// How many the list had before the value that is being encoded.
    before: usize,
}

/// What has arrived beside the value that is being decoded.
#[derive(Default)]
pub(super) struct Incoming {
    /// Whether only the library's own types are being decoded.
    is_internal: bool,
    beside: Option<Box<Beside<Option<OwnedFd>, Option<Attachment>>>>,
    segments: Segments,
    /// If present, the value is only [tried](attempt).
    trial: Option<Box<Trial>>,
}

/// What a value has beside it in a trial round trip: encoding stores it here, and decoding takes it.
///
/// The value holds a hash of each instead of an index. So two encodings can be compared, although a hash map
/// changes the order of its entries. The hashes change from round to round. So a number that has taken the
/// place of a descriptor is noticed: it stays the same.
#[derive(Default)]
struct Trial {
    round: u8,
    descriptors: Vec<(u32, SharedFd)>,
    attachments: Vec<(u32, Attachment)>,
}

impl Incoming {
    /// Apart from [`provide`], so that it is compiled once and not for each type.
    #[inline]
    fn new(is_internal: bool, arrived: Arrived, attachments: Vec<Attachment>) -> Self {
        let Arrived { descriptors, segments } = arrived;
        let beside = (!descriptors.is_empty() || !attachments.is_empty()).then(|| {
            let descriptors = descriptors.into_iter().map(Some).collect();
            Box::new(Beside { descriptors, attachments: attachments.into_iter().map(Some).collect() })
        });
        Self { is_internal, beside, segments, trial: None }
    }
}

pub(super) struct Beside<D, A> {
    pub(super) descriptors: Vec<D>,
    pub(super) attachments: Vec<A>,
}

thread_local! {
    static OUTGOING: List<Outgoing> = const {
        RefCell::new(ManuallyDrop::new(
            Outgoing { is_carried: false, is_internal: false, is_trial: false, beside: None, segments: None }
        ))
    };
    static INCOMING: List<Incoming> = const {
        RefCell::new(ManuallyDrop::new(
            Incoming { is_internal: false, beside: None, segments: Segments::NONE, trial: None }
        ))
    };
}

/// Not dropped with its thread, which leaves it empty: to register a destructor would take longer than to
/// encode most values.
type List<T> = RefCell<ManuallyDrop<T>>;

/// Replaces a list while a value is encoded or decoded. The outer list returns also when the user's code
/// panics, or encodes another value meanwhile.
struct FdScope<'a, T: Default> {
    list: &'a List<T>,
    outer: T,
}

/// Calls `encode` and returns what the values that it encodes have beside them. `is_internal`: it encodes types
/// of the library alone.
pub(super) fn collect(
    is_internal: bool,
    encode: impl FnOnce() -> Result<()>,
) -> Result<Beside<SharedFd, Attachment>> {
    OUTGOING.with(|list| {
        let scope = FdScope::begin(list, Outgoing { is_carried: true, is_internal, ..Outgoing::default() });
        encode()?;
        Ok(scope.end().beside.map(|beside| *beside).unwrap_or_default())
    })
}

/// As [`collect`], for a value of a chunk, which names segments of the chunk's list. The list stays as it is if
/// encoding fails or panics.
pub(super) fn collect_naming(
    segments: &mut SegmentList,
    encode: impl FnOnce() -> Result<()>,
) -> Result<Beside<SharedFd, Attachment>> {
    OUTGOING.with(|list| {
        let before = segments.len();
        let named = NamedSegments { list: std::mem::take(segments), before };
        let inner = Outgoing { is_carried: true, segments: Some(named), ..Outgoing::default() };
        let scope = FdScope::begin(list, inner);
        let kept = Cell::new(before);
        let give_back = Defer(|| {
            let named = list.borrow_mut().segments.take();
            *segments = named.map(|named| named.list).unwrap_or_default();
            segments.truncate(kept.get());
        });
        encode()?;
        kept.set(usize::MAX);
        drop(give_back);
        Ok(scope.end().beside.map(|beside| *beside).unwrap_or_default())
    })
}

/// Calls `decode`, whose values take from these what they had beside them.
pub(super) fn provide<R>(
    is_internal: bool,
    arrived: Arrived,
    attachments: Vec<Attachment>,
    decode: impl FnOnce() -> R,
) -> R {
    let incoming = Incoming::new(is_internal, arrived, attachments);
    INCOMING.with(|list| {
        let _scope = FdScope::begin(list, incoming);
        decode()
    })
}

/// Calls `f` with empty lists, for a value other than the one that is being encoded or decoded.
pub(super) fn isolate<R>(f: impl FnOnce() -> R) -> R {
    provide(false, Arrived::default(), Vec::new(), || {
        OUTGOING.with(|list| {
            let _scope = FdScope::begin(list, Outgoing { is_carried: true, ..Outgoing::default() });
            f()
        })
    })
}

/// Calls `f`, which encodes values and decodes what it has encoded, with what they have beside them.
pub(super) fn attempt<R>(f: impl FnOnce() -> R) -> R {
    INCOMING.with(|list| {
        let _incoming = FdScope::begin(list, Incoming { trial: Some(Box::default()), ..Incoming::default() });
        OUTGOING.with(|list| {
            let _outgoing =
                FdScope::begin(list, Outgoing { is_carried: true, is_trial: true, ..Outgoing::default() });
            f()
        })
    })
}

/// From here on, other numbers stand in the values that are tried.
pub(super) fn begin_round() {
    with_trial(|trial| trial.round += 1);
}

fn with_trial<R>(f: impl FnOnce(&mut Trial) -> R) -> Option<R> {
    INCOMING.with_borrow_mut(|incoming| incoming.trial.as_deref_mut().map(f))
}

/// Forgets what a value has beside it: its encoding has failed.
pub(super) fn clear_outgoing() {
    OUTGOING.with_borrow_mut(|outgoing| {
        outgoing.beside = None;
        if let Some(NamedSegments { list, before }) = &mut outgoing.segments {
            list.truncate(*before);
        }
    });
}

/// Whether the value that is being encoded has something beside it.
pub(super) fn has_outgoing() -> bool {
    OUTGOING.with_borrow(|outgoing| outgoing.beside.is_some())
}

#[cfg(test)]
pub(super) fn has_incoming() -> bool {
    INCOMING.with_borrow(|incoming| incoming.beside.is_some())
}

pub(super) fn is_encoding_internally() -> bool {
    OUTGOING.with_borrow(|outgoing| outgoing.is_internal)
}

pub(super) fn is_decoding_internally() -> bool {
    INCOMING.with_borrow(|incoming| incoming.is_internal)
}

/// Calls `encode`, which encodes types of the library alone.
pub(super) fn encode_internally<R>(encode: impl FnOnce() -> R) -> R {
    OUTGOING.with(|list| {
        list.borrow_mut().is_internal = true;
        let _end = Defer(|| list.borrow_mut().is_internal = false);
        encode()
    })
}

/// Calls `decode`, which decodes types of the library alone.
pub(super) fn decode_internally<R>(decode: impl FnOnce() -> R) -> R {
    INCOMING.with(|list| {
        list.borrow_mut().is_internal = true;
        let _end = Defer(|| list.borrow_mut().is_internal = false);
        decode()
    })
}

/// Puts an attachment beside the value that is being encoded, and returns its index. `None` if its transport
/// does not carry any.
pub(super) fn attach(attachment: Attachment) -> Option<u32> {
    if is_encoding_on_trial() {
        return with_trial(|trial| {
            let key = trial.key((attachment.kind, &attachment.bytes));
            trial.attachments.push((key, attachment));
            key
        });
    }
    OUTGOING.with_borrow_mut(|outgoing| push(&mut outgoing.beside()?.attachments, attachment))
}

/// Takes an attachment of the value that is being decoded, if it is of this kind.
pub(super) fn detach(index: u32, kind: Kind) -> Option<Attachment> {
    INCOMING.with_borrow_mut(|incoming| {
        if let Some(trial) = &mut incoming.trial {
            return take(&mut trial.attachments, index, |attachment| attachment.kind == kind);
        }
        let index = usize::try_from(index).ok()?;
        incoming.beside.as_mut()?.attachments.get_mut(index)?.take_if(|attachment| attachment.kind == kind)
    })
}

/// Puts a descriptor beside the value that is being encoded; as [`attach`].
pub(super) fn push_descriptor(fd: &SharedFd) -> Option<u32> {
    if is_encoding_on_trial() {
        return with_trial(|trial| {
            let key = trial.key(identity(fd.as_fd()));
            trial.descriptors.push((key, fd.clone()));
            key
        });
    }
    OUTGOING.with_borrow_mut(|outgoing| {
        let named = outgoing.segments.as_mut().and_then(|named| named.list.index_of(fd));
        named.or_else(|| push(&mut outgoing.beside()?.descriptors, fd.clone()))
    })
}

/// Takes a descriptor of the value that is being decoded.
pub(super) fn take_descriptor(index: u32) -> Option<SharedFd> {
    INCOMING.with_borrow_mut(|incoming| {
        if let Some(trial) = &mut incoming.trial {
            return take(&mut trial.descriptors, index, |_| true);
        }
        if is_memory(index) {
            return incoming.segments.get(index);
        }
        let index = usize::try_from(index).ok()?;
        incoming.beside.as_mut()?.descriptors.get_mut(index)?.take().map(SharedFd::from)
    })
}

fn is_encoding_on_trial() -> bool {
    OUTGOING.with_borrow(|outgoing| outgoing.is_trial)
}

/// Takes the first one with this key that fits.
fn take<T>(from: &mut Vec<(u32, T)>, key: u32, fits: impl Fn(&T) -> bool) -> Option<T> {
    let index = from.iter().position(|(other, part)| *other == key && fits(part))?;
    Some(from.remove(index).1)
}

/// What a descriptor and its duplicates have in common, and few others: the device and inode of its file, and
/// how it may be accessed.
fn identity(fd: BorrowedFd<'_>) -> impl Hash {
    let file = fstat(fd).ok().map(|status| (status.st_dev, status.st_ino));
    let access = fcntl(fd, FcntlArg::F_GETFL).ok().map(|flags| flags & OFlag::O_ACCMODE.bits());
    (file, access)
}

fn push<T>(list: &mut Vec<T>, element: T) -> Option<u32> {
    let index = u32::try_from(list.len()).ok()?;
    list.push(element);
    Some(index)
}

impl Trial {
    #[allow(clippy::cast_possible_truncation)] // any part of a hash is one
    fn key(&self, of: impl Hash) -> u32 {
        let mut hasher = DefaultHasher::new();
        (self.round, of).hash(&mut hasher);
        hasher.finish() as u32
    }
}

impl Outgoing {
    fn beside(&mut self) -> Option<&mut Beside<SharedFd, Attachment>> {
        self.is_carried.then(|| &mut **self.beside.get_or_insert_default())
    }
}

impl<D, A> Default for Beside<D, A> {
    fn default() -> Self {
        Self { descriptors: Vec::new(), attachments: Vec::new() }
    }
}

/// Calls a function when it is dropped.
struct Defer<F: FnMut()>(F);

impl<F: FnMut()> Drop for Defer<F> {
    fn drop(&mut self) {
        self.0();
    }
}

impl<'a, T: Default> FdScope<'a, T> {
    fn begin(list: &'a List<T>, inner: T) -> Self {
        Self { list, outer: exchange(list, inner) }
    }

    /// The list's content at the end of the scope.
    fn end(self) -> T {
        exchange(self.list, T::default())
    }
}

impl<T: Default> Drop for FdScope<'_, T> {
    fn drop(&mut self) {
        exchange(self.list, std::mem::take(&mut self.outer));
    }
}

fn exchange<T>(list: &List<T>, other: T) -> T {
    ManuallyDrop::into_inner(list.replace(ManuallyDrop::new(other)))
}

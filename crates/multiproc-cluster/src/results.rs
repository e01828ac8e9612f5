//! `Results`: the items of a call go out in chunks, and their results come in.

use std::any::Any;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use multiproc::pool::encoded::{self, FunctionId};
use multiproc::{Error, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::caller::inbox::{Batch, Content, Inbox};
use crate::caller::{Caller, NewChunk};
use crate::cost::Cost;
use crate::cursor::Cursor;
use crate::options::Options;
use crate::protocol;

/// The order in which results come.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Input,
    Arrival,
}

/// What each item of a call is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Items {
    /// The function's one argument.
    Arguments,
    /// All its arguments.
    Tuples,
}

/// The results of [`imap`](crate::Pool::imap) and [`imap_unordered`](crate::Pool::imap_unordered). `next`
/// blocks until there is one. `I` is the iterator of the input.
///
/// The call takes its input as results are taken: what is out at most keeps all workers busy. Dropping it
/// withdraws the rest.
///
/// As its local counterpart, it knows its length if the input does, so that a progress bar such as that of
/// [`indicatif`](https://docs.rs/indicatif) needs nothing more.
#[must_use = "it takes its input and runs tasks only as its results are asked for"]
pub struct Results<I, R> {
    caller: Arc<Caller>,
    options: Options,
    /// The function; an error until it was returned.
    function: Result<FunctionId, Option<Error>>,
    /// `None` at its end.
    input: Option<I>,
    /// An item that did not fit into the last chunk, encoded.
    held: Option<Vec<u8>>,
    /// How long the input took for its last item.
    input_time: Duration,
    /// The panic of the input, which continues in the caller after the results of the items before. In a mutex, so that
    /// threads may share what has it.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    items: Items,
    order: Order,
    inbox: Arc<Inbox>,
    out: HashSet<u64>,
    /// When the first chunk was sent.
    called: Option<Instant>,
    /// The input index of the next item to send.
    next_item: u64,
    /// The number of results returned.
    returned: u64,
    /// Batches that came before their turn, by their first items.
    early: BTreeMap<u64, Batch>,
    current: Option<Cursor>,
    cost: Cost,
    /// An item that could not be encoded, after those sent: its index and error.
    unsendable: Option<Batch>,
    /// Why the rest of the input was not sent.
    refusal: Option<Error>,
    result: PhantomData<fn() -> R>,
}

/// How long a slow input may delay a chunk that has items.
const MAX_FILL_TIME: Duration = Duration::from_millis(10);
/// An input that takes this long for an item may be blocking on something.
const SLOW_INPUT: Duration = Duration::from_millis(1);

impl<I, R> Results<I, R> {
    pub(crate) fn new(
        caller: Arc<Caller>,
        options: Options,
        function: Result<FunctionId>,
        (input, items): (I, Items),
        order: Order,
    ) -> Self {
        Self {
            caller,
            options,
            input: function.is_ok().then_some(input),
            held: None,
            input_time: Duration::ZERO,
            panic: Mutex::default(),
            function: function.map_err(Some),
            items,
            order,
            inbox: Arc::default(),
            out: HashSet::new(),
            called: None,
            next_item: 0,
            returned: 0,
            early: BTreeMap::new(),
            current: None,
            cost: Cost::default(),
            unsendable: None,
            refusal: None,
            result: PhantomData,
        }
    }

    /// Takes the batches that have arrived.
    fn admit_all(&mut self) {
        while let Some(batch) = self.inbox.try_take() {
            self.admit(batch);
        }
    }

    /// Takes a batch that has arrived.
    fn admit(&mut self, batch: Batch) {
        self.out.remove(&batch.chunk);
        if let Content::Results { work, bytes, .. } = &batch.content {
            self.cost.learn(batch.count, *work, bytes.len());
        }
        self.early.insert(batch.first, batch);
    }

    /// Whether the batch whose turn it is has arrived.
    fn has_next(&mut self) -> bool {
        self.admit_all();
        match self.order {
            Order::Arrival => !self.early.is_empty(),
            Order::Input => self.early.contains_key(&self.returned),
        }
    }

    /// The batch whose turn it is, if it has arrived.
    fn next_batch(&mut self) -> Option<Batch> {
        match self.order {
            Order::Arrival => self.early.pop_first().map(|(_, batch)| batch),
            Order::Input => self.early.remove(&self.returned),
        }
    }
}

impl<T, I, R> Results<I, R>
where
    T: Serialize + DeserializeOwned,
    I: Iterator<Item = T>,
    R: Serialize + DeserializeOwned,
{
    /// All results, or why some items were not sent.
    pub(crate) fn collect_all(mut self) -> Result<Vec<Result<R>>> {
        let all = self.by_ref().collect();
        self.refusal.take().map_or(Ok(all), Err)
    }

    /// As `next`, but waits for at most `time`, besides what the input takes. `None` at the end, too: then
    /// [`size_hint`](Iterator::size_hint) is zero.
    pub fn next_timeout(&mut self, time: Duration) -> Option<Result<R>> {
        self.next_until(Instant::now().checked_add(time))
    }

    fn next_until(&mut self, deadline: Option<Instant>) -> Option<Result<R>> {
        if let Err(error) = &mut self.function {
            return error.take().map(Err);
        }
        loop {
            if let Some(current) = &mut self.current {
                if current.left > 0 {
                    self.returned += 1;
                    return Some(current.next());
                }
                self.current = None;
            }
            self.admit_all();
            self.fill();
            if let Some(batch) = self.next_batch() {
                self.current = Some(Cursor::new(batch, true));
                continue;
            }
            if self.out.is_empty() {
                if let Some(panic) = self.panic.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
                    resume_unwind(panic);
                }
                return None;
            }
            if let Err(error) = self.caller.check_not_forked() {
                return Some(Err(self.end_in_copy(error)));
            }
            let batch = self.inbox.take(deadline)?;
            self.admit(batch);
        }
    }

    /// Nothing comes any more to a forked copy.
    fn end_in_copy(&mut self, error: Error) -> Error {
        (self.function, self.input, self.held) = (Err(None), None, None);
        self.returned = self.next_item;
        error
    }

    /// Sends chunks while there is room for them. Stops to return a result that is there, if sending takes long, or if
    /// the input is slow: it may block.
    fn fill(&mut self) {
        let started = Instant::now();
        while (self.input.is_some() || self.held.is_some())
            && self.out.len() + self.early.len() < self.caller.window()
        {
            if !self.out.is_empty() && started.elapsed() > MAX_FILL_TIME && self.inbox.has_some() {
                return;
            }
            if self.input_time >= SLOW_INPUT && self.has_next() {
                return;
            }
            let room = match self.options.buffer_size {
                Some(size) => (size as u64).saturating_sub(self.next_item - self.returned),
                None => u64::MAX,
            };
            if room == 0 {
                return;
            }
            self.send_chunk(self.chunk_len().min(room));
        }
    }

    /// The number of items of the next chunk. Of a short rest, each worker gets some. Results that are somewhat larger
    /// than those before still fit into a message.
    fn chunk_len(&self) -> u64 {
        let by_cost = self.cost.target_len(self.caller.connection.max_payload() / 4 * 3);
        match self.input.as_ref().map(Iterator::size_hint) {
            Some((least, Some(most))) if least == most => {
                let workers = self.caller.workers().max(1) as u64;
                by_cost.min((least as u64).div_ceil(workers * 2)).max(1)
            }
            _ => by_cost,
        }
    }

    fn send_chunk(&mut self, length: u64) {
        let (mut items, mut count) = (Vec::new(), 0);
        // The input is user code. A panic of it, or of the encoding, is kept for later.
        let taken = catch_unwind(AssertUnwindSafe(|| self.take_items(length, &mut items, &mut count)));
        if let Err(panic) = taken {
            self.input = None;
            self.panic = Mutex::new(Some(panic));
        }
        if count > 0 {
            self.submit(items, count);
        }
        if let Some(batch) = self.unsendable.take() {
            self.next_item += 1;
            self.admit(batch);
        }
    }

    /// Takes at most `length` items, and no more than fit into a message. One that is larger is a chunk by itself.
    fn take_items(&mut self, length: u64, items: &mut Vec<u8>, count: &mut u32) {
        let (started, max) = (Instant::now(), self.caller.connection.max_payload());
        let mut bytes = Vec::new();
        while u64::from(*count) < length && items.len() < max {
            let asked = Instant::now();
            if *count > 0 && asked.duration_since(started) >= MAX_FILL_TIME {
                break;
            }
            let index = self.next_item + u64::from(*count);
            match self.held.take() {
                Some(held) => bytes = held,
                None if self.take_item(asked, index, &mut bytes) => {}
                None => break,
            }
            if *count > 0 && protocol::pushed_len(items, &bytes) > max {
                self.held = Some(bytes);
                break;
            }
            protocol::push(items, &bytes);
            *count += 1;
        }
    }

    /// Takes one item from the input, and encodes it. False at the end, and if it cannot be encoded.
    fn take_item(&mut self, asked: Instant, index: u64, bytes: &mut Vec<u8>) -> bool {
        let Some(input) = &mut self.input else { return false };
        let Some(item) = input.next() else {
            self.input = None;
            return false;
        };
        self.input_time = asked.elapsed();
        bytes.clear();
        let encoded = match self.items {
            Items::Arguments => encoded::encode(&(item,), bytes, "the arguments"),
            Items::Tuples => encoded::encode(&item, bytes, "the arguments"),
        };
        if let Err(error) = encoded {
            let content = Content::Lost(error);
            self.unsendable = Some(Batch { chunk: u64::MAX, first: index, count: 1, content });
            return false;
        }
        true
    }

    fn submit(&mut self, items: Vec<u8>, count: u32) {
        let Ok(function) = self.function else { return };
        let first = self.next_item;
        self.next_item += u64::from(count);
        let submitted = self.caller.submit(NewChunk {
            inbox: Arc::clone(&self.inbox),
            function,
            first: Some(first),
            count,
            items,
            timeout: self.options.timeout,
            grace: self.options.grace,
            retries: self.options.retries,
            on_host_loss: self.options.on_host_loss,
            permit: None, // the window bounds what is out
            called: *self.called.get_or_insert_with(Instant::now),
        });
        match submitted {
            Ok(chunk) => {
                self.out.insert(chunk);
            }
            Err(error) => {
                (self.input, self.held) = (None, None); // the rest would fail as well
                self.refusal = Some(error.clone());
                self.admit(Batch { chunk: u64::MAX, first, count, content: Content::Lost(error) });
            }
        }
    }
}

impl<T, I, R> Iterator for Results<I, R>
where
    T: Serialize + DeserializeOwned,
    I: Iterator<Item = T>,
    R: Serialize + DeserializeOwned,
{
    type Item = Result<R>;

    fn next(&mut self) -> Option<Result<R>> {
        self.next_until(None)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        if matches!(self.function, Err(Some(_))) {
            return (1, Some(1)); // why the call is refused
        }
        let pending = self.next_item - self.returned + u64::from(self.held.is_some());
        let pending = usize::try_from(pending).unwrap_or(usize::MAX);
        let (least, most) = self.input.as_ref().map_or((0, Some(0)), Iterator::size_hint);
        (pending.saturating_add(least), most.and_then(|most| most.checked_add(pending)))
    }
}

/// It ends earlier than its length says if the pool is lost while input is left.
impl<T, I, R> ExactSizeIterator for Results<I, R>
where
    T: Serialize + DeserializeOwned,
    I: ExactSizeIterator<Item = T>,
    R: Serialize + DeserializeOwned,
{
}

impl<I, R> Drop for Results<I, R> {
    fn drop(&mut self) {
        for chunk in self.out.drain() {
            self.caller.withdraw(chunk);
        }
    }
}

impl<I, R> fmt::Debug for Results<I, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Results").field("returned", &self.returned).finish_non_exhaustive()
    }
}

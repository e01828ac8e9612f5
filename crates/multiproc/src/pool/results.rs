//! All results of a call, from the side of the thread that made it: feeds the items in, takes the results out.

use std::any::Any;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::call::{Call, ResultBatch, TARGET_CHUNK_TIME};
use super::chunk::ChunkBuilder;
use super::dispatcher::{Dispatcher, DriverGuard};
use super::reorder::{ReorderBuffer, ResultOrder};
use crate::error::{Error, Result};
use crate::sys::clock;
use crate::sys::poll::Deadline;

/// Results of a call, as they become available. Dropping it withdraws what no worker has begun.
pub(crate) struct Results<'pool, I, R> {
    core: &'pool Dispatcher,
    call: Arc<Call>,
    /// `None` once all of it was taken.
    input: Option<I>,
    /// Why input was left untaken, if it was: the pool takes no more work.
    refusal: Option<Error>,
    /// What the input has panicked with; it goes on to the caller after the items before it.
    panic: Option<Box<dyn Any + Send>>,
    /// How many results may wait for the caller, in chunks a worker; `None` for as many as there are.
    look_ahead: Option<u64>,
    /// How many items make a chunk at the moment.
    size: u64,
    /// How many items fit into a chunk, as far as is known.
    fitting: u64,
    /// How many bytes the last chunk had.
    bytes: usize,
    /// How long the input took for an item when that was last looked at.
    input_time: Duration,
    /// How many items were taken from the input.
    taken: u64,
    /// How many of them have no result yet.
    unresolved: u64,
    ready: ReorderBuffer,
    /// Whether it takes long to decode a result; and at which tick of the clock the pool was looked after, in this run.
    decodes_slowly: bool,
    looked: Option<u64>,
    /// This thread, where it does nothing else until the call is over.
    caller: Option<DriverGuard<'pool>>,
    result: PhantomData<fn() -> R>,
}

/// Before and after one in so many results, the first among them, the clock is looked at; and what takes longer than this
/// (nanoseconds) takes long.
const TIMED_EVERY: u64 = 4;
const SLOW_DECODE: u64 = 10_000_000;
/// An input that takes as long for an item may be one that waits for something.
const SLOW_INPUT: Duration = Duration::from_millis(1);

impl<'pool, Args, I, R> Results<'pool, I, R>
where
    Args: Serialize + DeserializeOwned,
    I: Iterator<Item = Args>,
    R: DeserializeOwned,
{
    /// Begins a call; nothing of the input is taken yet.
    pub(crate) fn begin(
        core: &'pool Dispatcher,
        call: Arc<Call>,
        input: I,
        order: ResultOrder,
        look_ahead: Option<u64>,
    ) -> Result<Self> {
        core.check_open()?;
        Ok(Self {
            core,
            call,
            input: Some(input),
            refusal: None,
            panic: None,
            look_ahead,
            size: 1,
            fitting: u64::MAX,
            bytes: 0,
            input_time: Duration::ZERO,
            taken: 0,
            unresolved: 0,
            ready: ReorderBuffer::new(order),
            decodes_slowly: false,
            looked: None,
            caller: look_ahead.is_none().then(|| core.become_driver()),
            result: PhantomData,
        })
    }

    /// Why not all of the input was taken, if that is so.
    fn take_refusal(&mut self) -> Option<Error> {
        self.refusal.take()
    }

    /// Fills the pool with work, up to what keeps all workers busy and the look-ahead.
    fn feed(&mut self) {
        if !self.has_room() {
            return;
        }
        self.size = match (self.core.chunk_size().map(u64::from), self.look_ahead) {
            (Some(size), Some(_)) => size, // the caller has said how far ahead is a few chunks
            (size, _) => self.call.target_len().max(size.unwrap_or(0)),
        }
        .min(self.fitting);
        while self.input.is_some() && self.has_room() && !self.may_pause() {
            self.feed_chunk();
        }
    }

    /// Whether the caller should have a result before more of the input is taken, which may keep it waiting: there is
    /// one, and no worker lacks work or the input is slow.
    fn may_pause(&mut self) -> bool {
        if self.look_ahead.is_none() {
            return false;
        }
        let is_slow = self.input_time >= SLOW_INPUT;
        let is_given_soon =
            self.ready.begin_run() || (is_slow && self.await_arrival()) || self.call.has_arrived();
        is_given_soon && (is_slow || self.unresolved >= self.core.workers() as u64)
    }

    /// Looks whether a result has arrived. Where the input is slow and cannot say that there is more of it, a quarter of
    /// its time is waited for one: so results come before a line that somebody types, or a message, and an input that is
    /// slow of itself becomes slower by no more than that.
    fn await_arrival(&self) -> bool {
        let is_sure = self.input.as_ref().is_some_and(|input| input.size_hint().0 > 0);
        let time = if is_sure { Duration::ZERO } else { self.input_time / 4 };
        let has_arrived = || self.call.has_arrived();
        self.unresolved > 0 && self.core.become_driver().wait_until(Deadline::after(time), has_arrived)
    }

    fn has_room(&self) -> bool {
        let round = self.size * self.core.workers() as u64;
        let waiting = self.taken - self.ready.given();
        let is_within = self.look_ahead.is_none_or(|rounds| waiting < rounds * round);
        self.unresolved < 2 * round && is_within && self.left_in_buffer() > 0
    }

    /// How many items may be taken by what the caller has asked for.
    fn left_in_buffer(&self) -> u64 {
        let most = self.call.options.buffer_size.filter(|_| self.look_ahead.is_some());
        most.map_or(u64::MAX, |most| most.saturating_sub(self.taken - self.ready.given()))
    }

    fn feed_chunk(&mut self) {
        let mut packer = ChunkBuilder::new(self.bytes);
        let first = self.taken;
        // The input is the user's, and may take its time. What it or the encoding panics with is kept for later.
        let misfit = self.release_driver(|results| {
            catch_unwind(AssertUnwindSafe(|| results.fill(&mut packer))).unwrap_or_else(|panic| {
                results.input = None;
                results.panic = Some(panic);
                None
            })
        });
        self.bytes = packer.bytes();
        self.submit(packer, first);
        if let Some(error) = misfit {
            self.ready.add(ResultBatch::Lost { first: self.taken - 1, count: 1, error });
        }
    }

    /// Does what runs code of the user's, for which others need not wait: this thread does not attend meanwhile.
    fn release_driver<T>(&mut self, work: impl FnOnce(&mut Self) -> T) -> T {
        let was_here = self.caller.take().is_some();
        let done = work(self);
        self.caller = was_here.then(|| self.core.become_driver());
        done
    }

    /// Takes items from the input and packs them; the last one may be one that cannot be encoded, and why.
    fn fill(&mut self, packer: &mut ChunkBuilder) -> Option<Error> {
        let size = self.size.min(self.left_in_buffer());
        let input = self.input.as_mut()?;
        let begun = Instant::now();
        // To look at the clock takes longer than to pack a small item: after the first one, the second, the fourth …
        let mut next_look = 1;
        while u64::from(packer.count()) < size && !packer.is_full() {
            let Some(args) = input.next() else {
                self.input = None;
                return None;
            };
            let packed = packer.add(&args);
            self.taken += 1;
            if packed.is_err() {
                return packed.err();
            }
            if packer.count() >= next_look {
                next_look += next_look.min(256);
                let time = begun.elapsed();
                self.input_time = time / packer.count();
                if time >= TARGET_CHUNK_TIME {
                    break;
                }
            }
        }
        None
    }

    fn submit(&mut self, packer: ChunkBuilder, first: u64) {
        let count = packer.count();
        if count == 0 {
            return;
        }
        // Large items fill a chunk by few. Then few make a round, too, lest the look-ahead fill memory.
        self.fitting = if packer.is_full() { count.into() } else { self.fitting.saturating_mul(2) };
        self.unresolved += u64::from(count);
        if let Err(error) = self.core.submit(packer.pack(&self.call, first)) {
            self.unresolved -= u64::from(count);
            self.ready.add(ResultBatch::Lost { first, count, error: error.clone() });
            self.input = None;
            self.refusal = Some(error);
        }
    }

    /// Takes what has arrived, waiting for something if there is nothing.
    fn collect(&mut self) {
        if let Err(error) = self.core.check_here() {
            (self.unresolved, self.input, self.refusal) = (0, None, Some(error));
            return;
        }
        let has_arrived = || self.call.has_arrived();
        match &self.caller {
            Some(caller) => caller.wait_until(Deadline::Never, has_arrived),
            None => self.core.become_driver().wait_until(Deadline::Never, has_arrived),
        };
        for parcel in self.call.take() {
            self.unresolved -= parcel.count();
            self.ready.add(parcel);
        }
    }
}

impl<Args, I, R> Results<'_, I, R>
where
    Args: Serialize + DeserializeOwned,
    I: Iterator<Item = Args>,
    R: DeserializeOwned,
{
    /// All results, or the first error.
    pub(crate) fn into_vec(mut self) -> Result<Vec<R>> {
        let mut results = Vec::new(); // not by the size hint: of an endless input that panics, it is all of memory
        while self.await_run() {
            self.ready.take_plain(&mut results);
            while let Some(fate) = self.decode_next() {
                results.push(fate?);
            }
        }
        self.take_refusal().map_or(Ok(results), Err)
    }

    /// The fate of every item; an error only where items were left untaken.
    pub(crate) fn into_results(mut self) -> Result<Vec<Result<R>>> {
        let mut fates = Vec::new();
        while self.await_run() {
            fates.extend(std::iter::from_fn(|| self.decode_next()));
        }
        self.take_refusal().map_or(Ok(fates), Err)
    }

    /// Waits until there are results that come next; says whether there are, or all were given. In the end,
    /// [`Results::take_refusal`] says whether all of the input was taken.
    fn await_run(&mut self) -> bool {
        loop {
            if self.input.is_some() {
                self.feed();
            }
            if self.ready.begin_run() {
                self.looked = None;
                return true;
            }
            if self.unresolved > 0 {
                self.collect();
            } else if self.input.is_none() {
                if let Some(panic) = self.panic.take() {
                    resume_unwind(panic);
                }
                return false;
            }
        }
    }

    /// The next result of the run that was begun. It may be code of the user's that decodes it.
    ///
    /// Meanwhile others must not wait for this thread, if it attends to the pool. Once a tick it looks after that; and when
    /// decoding was seen to take long, it leaves it to the pool's own thread from then on. (To leave and come back for each
    /// result takes longer than to decode a small one; even to look whether the clock has ticked, a tenth of that.)
    fn decode_next(&mut self) -> Option<Result<R>> {
        if self.ready.run_is_over() {
            return None;
        }
        if self.decodes_slowly {
            return self.release_driver(|results| results.ready.next());
        }
        if !self.ready.given().is_multiple_of(TIMED_EVERY) {
            return self.ready.next();
        }
        let looked = *self.looked.get_or_insert_with(clock::ticks);
        let result = self.ready.next();
        let now = clock::ticks();
        if now != looked {
            self.decodes_slowly = now.saturating_sub(looked) > SLOW_DECODE;
            self.looked = Some(now);
            self.core.check();
        }
        result
    }
}

impl<Args, I, R> Iterator for Results<'_, I, R>
where
    Args: Serialize + DeserializeOwned,
    I: Iterator<Item = Args>,
    R: DeserializeOwned,
{
    type Item = Result<R>;

    fn next(&mut self) -> Option<Result<R>> {
        loop {
            if let Some(result) = self.ready.next() {
                return Some(result);
            }
            if !self.await_run() {
                return self.take_refusal().map(Err);
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let (least, most) = self.input.as_ref().map_or((0, Some(0)), Iterator::size_hint);
        let waiting = usize::try_from(self.taken - self.ready.given()).unwrap_or(usize::MAX);
        (least.saturating_add(waiting), most.and_then(|most| most.checked_add(waiting + 1)))
    }
}

impl<I, R> Drop for Results<'_, I, R> {
    fn drop(&mut self) {
        self.call.abandon();
        if self.unresolved > 0 {
            self.core.withdraw(&self.call);
        }
    }
}

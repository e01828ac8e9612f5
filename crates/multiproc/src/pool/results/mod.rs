//! The caller's side of a call: submits the [input] in chunks, returns the results.

mod input;

use std::any::Any;
use std::marker::PhantomData;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
#[cfg(feature = "async")]
use std::task::{Poll, Waker};
use std::time::Duration;

use serde_core::Serialize;
use serde_core::de::DeserializeOwned;

use super::call::Call;
use super::pool_core::{DriverGuard, PoolCore};
use super::reorder::{ReorderBuffer, ResultOrder};
#[cfg(feature = "async")]
use super::wake_list::ArrivalWaker;
use crate::error::{Error, Result};
use crate::sys::clock;
use crate::sys::poll::Deadline;

/// The results of a call, as they become available. Dropping it withdraws what no worker has claimed.
pub(crate) struct Results<'pool, I, R> {
    core: &'pool PoolCore,
    call: Arc<Call>,
    /// `None` at its end.
    input: Option<I>,
    /// The error with which the pool has refused more input.
    refusal: Option<Error>,
    /// The panic of the input, which continues in the caller after the results of the items before.
    panic: Option<Box<dyn Any + Send>>,
    /// The maximum of results ahead of the caller, in chunks per worker; `None` for no limit.
    look_ahead: Option<u64>,
    /// The current items per chunk.
    chunk_len: u64,
    /// The maximum items per chunk, by the size of recent items.
    max_len: u64,
    /// The bytes of the last chunk.
    bytes: usize,
    /// For an input that wants to know: the bytes of the last chunk's items, however they travel.
    encoded_bytes: Option<Arc<AtomicUsize>>,
    /// The time of the input per item, when last measured.
    input_time: Duration,
    /// Items taken from the input.
    taken: u64,
    /// Items without a result.
    pending: u64,
    buffer: ReorderBuffer,
    /// Whether decoding a result is slow; and the tick of the coarse clock at the last poll during this span.
    decodes_slowly: bool,
    polled_at: Option<u64>,
    /// Until when the present call may wait for a result.
    deadline: Deadline,
    /// Set if this thread drives the pool for the whole call, of which it needs all results.
    driver: Option<DriverGuard<'pool>>,
    result: PhantomData<fn() -> R>,
}

/// The next step of a caller.
enum Next {
    /// Returns results.
    Results,
    /// Waits for the workers.
    Arrival,
    End,
}

/// Time one result in this many, the first included; a decode that takes longer than this (nanoseconds) is
/// slow.
const TIMED_EVERY: u64 = 4;
const SLOW_DECODE: u64 = 10_000_000;
/// The most bytes that are reserved for the results at the beginning. A vector that grows moves between the
/// batches of results, and has its pages mapped again each time.
const RESERVED: usize = 8 << 20;

impl<'pool, Args, I, R> Results<'pool, I, R>
where
    Args: Serialize + DeserializeOwned,
    I: Iterator<Item = Args>,
    R: DeserializeOwned,
{
    /// Begins a call; takes no input yet.
    pub(crate) fn begin(
        core: &'pool PoolCore,
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
            chunk_len: 1,
            max_len: u64::MAX,
            bytes: 0,
            encoded_bytes: None,
            input_time: Duration::ZERO,
            taken: 0,
            pending: 0,
            buffer: ReorderBuffer::new(order),
            decodes_slowly: false,
            polled_at: None,
            deadline: Deadline::Never,
            driver: look_ahead.is_none().then(|| core.become_driver(true)),
            result: PhantomData,
        })
    }

    /// Has the encoded bytes of each chunk put there.
    pub(super) fn with_encoded_bytes(mut self, encoded_bytes: Arc<AtomicUsize>) -> Self {
        self.encoded_bytes = Some(encoded_bytes);
        self
    }

    /// Runs user code, during which this thread does not drive the pool.
    fn release_driver<T>(&mut self, work: impl FnOnce(&mut Self) -> T) -> T {
        let was_driver = self.driver.take().is_some();
        let done = work(self);
        self.driver = was_driver.then(|| self.core.become_driver(true));
        done
    }

    /// Collects arrived results; blocks until there are any. Returns false at the deadline.
    fn collect(&mut self, deadline: Deadline) -> bool {
        if let Err(error) = self.core.check_not_forked() {
            (self.pending, self.input, self.refusal) = (0, None, Some(error));
            return true;
        }
        let has_arrived = || self.call.has_arrived();
        let is_any = match &self.driver {
            Some(driver) => driver.wait_until(deadline, has_arrived),
            None => self.core.become_driver(false).wait_until(deadline, has_arrived),
        };
        for batch in self.call.take() {
            self.pending -= batch.count();
            self.buffer.add(batch);
        }
        is_any
    }

    /// All results, or the first error in input order.
    pub(crate) fn into_vec(mut self) -> Result<Vec<R>> {
        let mut results = Vec::new();
        let hint = self.input.as_ref().map_or(0, |input| input.size_hint().0);
        let most = RESERVED / size_of::<R>().max(1); // the hint for an endless input exceeds memory
        let _ = results.try_reserve(hint.min(most)); // without that memory, it grows as long as it can
        while self.await_results() {
            while !self.buffer.span_is_over() {
                if self.buffer.take_numbers(&mut results) == 0 {
                    results.extend(self.decode_next().transpose()?);
                }
            }
        }
        self.refusal.take().map_or(Ok(results), Err)
    }

    /// A result for each item; an error only if input was left.
    pub(crate) fn into_results(mut self) -> Result<Vec<Result<R>>> {
        let mut results = Vec::new();
        while self.await_results() {
            results.extend(std::iter::from_fn(|| self.decode_next()));
        }
        self.refusal.take().map_or(Ok(results), Err)
    }

    /// Passes each result to `take`, in the order of the call, until the first error of `take`.
    pub(crate) fn for_each(mut self, mut take: impl FnMut(Result<R>) -> Result<()>) -> Result<()> {
        while self.await_results() {
            while let Some(result) = self.decode_next() {
                self.release_driver(|_| take(result))?;
            }
        }
        self.refusal.take().map_or(Ok(()), Err)
    }

    /// Blocks until the next results are available; returns false when all were returned. At the end
    /// `refusal` tells whether input was left.
    fn await_results(&mut self) -> bool {
        loop {
            match self.advance() {
                Next::Results => return true,
                Next::Arrival => _ = self.collect(Deadline::Never),
                Next::End => return false,
            }
        }
    }

    /// The next result, or the error with which the pool has refused input. `None` at the deadline, and at
    /// the end.
    pub(super) fn next_until(&mut self, deadline: Deadline) -> Option<Result<R>> {
        loop {
            if let Some(result) = self.buffer.next() {
                return Some(result);
            }
            self.deadline = deadline;
            match self.advance() {
                Next::Results => {}
                Next::Arrival if self.collect(deadline) => {}
                Next::Arrival => return None,
                Next::End => return self.refusal.take().map(Err),
            }
        }
    }

    /// Submits more input; returns the next step.
    fn advance(&mut self) -> Next {
        loop {
            if self.input.is_some() {
                self.feed();
            }
            if self.buffer.begin_span() {
                self.polled_at = None;
                return Next::Results;
            }
            if self.pending > 0 {
                return Next::Arrival;
            }
            if self.input.is_none() {
                if let Some(panic) = self.panic.take() {
                    resume_unwind(panic);
                }
                return Next::End;
            }
        }
    }

    /// The next result, without blocking; `waker` is called when another poll may have more. The input is
    /// asked for items here.
    #[cfg(feature = "async")]
    pub(super) fn poll_next(&mut self, waker: &Waker) -> Poll<Option<Result<R>>> {
        self.deadline = Deadline::now();
        loop {
            if let Some(result) = self.buffer.next() {
                return Poll::Ready(Some(result));
            }
            match self.advance() {
                Next::Results => {}
                Next::Arrival => match self.will_wake(waker) {
                    Ok(true) => return Poll::Pending,
                    Ok(false) => _ = self.collect(Deadline::now()), // there are some
                    Err(error) => return Poll::Ready(Some(Err(error))),
                },
                Next::End => return Poll::Ready(self.refusal.take().map(Err)),
            }
        }
    }

    /// Has `waker` called at the next arrival; `false` if there is something to collect.
    #[cfg(feature = "async")]
    fn will_wake(&self, waker: &Waker) -> Result<bool> {
        if self.core.check_not_forked().is_err() {
            return Ok(false); // collecting says so
        }
        self.core.check();
        self.core.wake_at_arrival(&self.call, ArrivalWaker::foreign(waker)?);
        Ok(!self.call.has_arrived())
    }

    /// The next result of the current span. Decoding may run user code.
    ///
    /// Other callers must not wait for it if this thread drives the pool. So this thread polls once per tick
    /// of the coarse clock, and when one decode was slow, releases the driver role for each of the following.
    /// (To release and resume takes longer than to decode a small result; to check the tick takes a tenth of
    /// that.)
    fn decode_next(&mut self) -> Option<Result<R>> {
        if self.buffer.span_is_over() {
            return None;
        }
        if self.decodes_slowly {
            return self.release_driver(|results| results.buffer.next());
        }
        if !self.buffer.returned().is_multiple_of(TIMED_EVERY) {
            return self.buffer.next();
        }
        let polled_at = *self.polled_at.get_or_insert_with(clock::coarse_nanos);
        let result = self.buffer.next();
        let now = clock::coarse_nanos();
        if now != polled_at {
            self.decodes_slowly = now.saturating_sub(polled_at) > SLOW_DECODE;
            self.polled_at = Some(now);
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
        self.next_until(Deadline::Never)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let (least, most) = self.input.as_ref().map_or((0, Some(0)), Iterator::size_hint);
        let waiting = usize::try_from(self.taken - self.buffer.returned()).unwrap_or(usize::MAX);
        let waiting = waiting.saturating_add(self.refusal.is_some().into());
        (least.saturating_add(waiting), most.and_then(|most| most.checked_add(waiting)))
    }
}

impl<I, R> Results<'_, I, R> {
    /// Ends the call, and kills the workers that run its items.
    pub(super) fn kill(self) {
        self.call.abandon();
        self.core.cancel(&self.call);
    }
}

#[cfg(feature = "async")]
impl<I, R> Results<'_, I, R> {
    /// Counts a stream that begins to wait for this call, or no longer does.
    pub(super) fn count_future(&self, waits: bool) {
        self.core.count_future(waits);
    }
}

impl<I, R> Drop for Results<'_, I, R> {
    fn drop(&mut self) {
        self.call.abandon();
        if self.pending > 0 {
            self.core.withdraw(&self.call);
        }
    }
}

//! The input of a call: how many items are taken from it, and when; and the chunks that they are cut into.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use serde_core::Serialize;
use serde_core::de::DeserializeOwned;

use super::Results;
use crate::error::{Error, Result};
use crate::pool::chunk::{ChunkBuilder, Filled};
use crate::pool::cost_estimate::TARGET_CHUNK_TIME;
use crate::pool::result_batch::ResultBatch;
use crate::sys::poll::Deadline;

/// An input that takes this long for an item may be blocking on something.
const SLOW_INPUT: Duration = Duration::from_millis(1);

impl<Args, I, R> Results<'_, I, R>
where
    Args: Serialize + DeserializeOwned,
    I: Iterator<Item = Args>,
    R: DeserializeOwned,
{
    /// Submits chunks until all workers are busy or the look-ahead is reached.
    pub(super) fn feed(&mut self) {
        if !self.has_room() {
            return;
        }
        self.chunk_len = match (self.core.chunk_size().map(u64::from), self.look_ahead) {
            (Some(chunk_len), Some(_)) => chunk_len, // the caller has chosen the chunks of the look-ahead
            (chunk_len, _) => u64::from(self.call.target_chunk_len()).max(chunk_len.unwrap_or(0)),
        }
        .min(self.max_len);
        while self.input.is_some() && self.has_room() && !self.may_pause() {
            self.feed_chunk();
        }
    }

    /// Whether to return a result before taking more input, which may block: a result is available, and no
    /// worker lacks work or the input is slow.
    fn may_pause(&mut self) -> bool {
        if self.look_ahead.is_none() {
            return false;
        }
        let is_slow = self.input_time >= SLOW_INPUT;
        let has_result_soon =
            self.buffer.begin_span() || (is_slow && self.await_arrival()) || self.call.has_arrived();
        let lacks_work = self.pending < self.core.workers() as u64 && !self.core.is_inline();
        has_result_soon && (is_slow || !lacks_work)
    }

    /// Whether a result has arrived. If the input is slow and cannot tell that it has more items, waits for
    /// one, for a quarter of the input's time. So results come before the next line or message of an
    /// interactive input, and an input that is merely slow is delayed by no more than that.
    fn await_arrival(&self) -> bool {
        let knows_of_more = self.input.as_ref().is_some_and(|input| input.size_hint().0 > 0);
        let deadline =
            if knows_of_more { Deadline::now() } else { self.deadline.or_within(self.input_time / 4) };
        let has_arrived = || self.call.has_arrived();
        self.pending > 0 && self.core.become_driver(false).wait_until(deadline, has_arrived)
    }

    fn has_room(&self) -> bool {
        let chunk_per_worker = self.chunk_len * self.core.workers() as u64;
        let waiting = self.taken - self.buffer.returned();
        let is_within = self.look_ahead.is_none_or(|chunks| waiting < chunks * chunk_per_worker);
        self.pending < 2 * chunk_per_worker && is_within && self.left_in_buffer() > 0
    }

    /// The number of items that the call's buffer size still allows.
    fn left_in_buffer(&self) -> u64 {
        let most = self.call.options.buffer_size.filter(|_| self.look_ahead.is_some());
        most.map_or(u64::MAX, |most| most.saturating_sub(self.taken - self.buffer.returned()))
    }

    fn feed_chunk(&mut self) {
        let mut builder = ChunkBuilder::new(self.bytes);
        let first = self.taken;
        // The input is user code and may be slow. A panic of it, or of the encoding, is kept for later.
        let encode_error = self.release_driver(|results| {
            catch_unwind(AssertUnwindSafe(|| results.fill(&mut builder))).unwrap_or_else(|panic| {
                results.input = None;
                results.panic = Some(panic);
                None
            })
        });
        self.bytes = builder.bytes();
        if let Some(encoded_bytes) = self.encoded_bytes.as_ref().filter(|_| builder.count() > 0) {
            encoded_bytes.store(builder.encoded_bytes(), Relaxed);
        }
        let count = u64::from(builder.count());
        if let Err(refusal) = self.submit(builder, first) {
            self.input = None;
            self.refusal = Some(refusal);
            return;
        }
        self.taken += count;
        if let Some(error) = encode_error {
            self.buffer.add(ResultBatch::Lost { first: self.taken, count: 1, error });
            self.taken += 1;
        }
    }

    /// Takes items from the input into the chunk; returns the error of the last one if it cannot be encoded.
    fn fill(&mut self, builder: &mut ChunkBuilder) -> Option<Error> {
        let chunk_len = u32::try_from(self.chunk_len.min(self.left_in_buffer())).unwrap_or(u32::MAX);
        let input = self.input.as_mut()?;
        let begun = Instant::now();
        // Reading the clock takes longer than packing a small item, so the intervals between reads double.
        let mut next_clock_read = 1;
        while builder.count() < chunk_len && !builder.is_full() {
            match builder.fill(input, next_clock_read.min(chunk_len)) {
                Filled::Full => {}
                Filled::InputEnded => {
                    self.input = None;
                    return None;
                }
                Filled::Failed(error) => return Some(error),
            }
            if builder.count() >= next_clock_read {
                next_clock_read += next_clock_read.min(256);
                let time = begun.elapsed();
                self.input_time = time / builder.count();
                if time >= TARGET_CHUNK_TIME {
                    break;
                }
            }
        }
        None
    }

    /// # Errors
    /// When the pool refuses work. What was taken from the input for it counts as left there.
    fn submit(&mut self, builder: ChunkBuilder, first: u64) -> Result<()> {
        let count = builder.count();
        if count == 0 {
            return Ok(());
        }
        // If a few large items fill a chunk, shorten chunks, which also limits the memory of the look-ahead.
        self.max_len = if builder.is_full() { count.into() } else { self.max_len.saturating_mul(2) };
        self.core.submit(builder.pack(&self.call, first))?;
        self.pending += u64::from(count);
        Ok(())
    }
}

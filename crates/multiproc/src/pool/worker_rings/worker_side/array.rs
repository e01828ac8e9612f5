//! Runs of small items: an array of arguments becomes an array of results, with one claim for all.

// See `ring`.
#![allow(clippy::inline_always)]

use super::WorkerSide;
use crate::codec::raw;
use crate::error::Result;
use crate::ipc::frame::as_u32;
use crate::ipc::ring::{Memory, Position};
use crate::pool::worker_rings::{COMPLETED, COMPLETIONS, SUBMISSIONS, claim_word, result_words};
use crate::sys::atomic::Relaxed;
use crate::sys::failpoint::{self, Failpoint};
use crate::sys::fork_detect::OriginalProcess;
use crate::sys::process::exit_immediately;

impl WorkerSide {
    /// Runs items of an array, of `item` bytes each, and writes an array of results of `result` bytes: up to the
    /// next clock read; returns how many. It combines [`next`](WorkerSide::next), [`read`](WorkerSide::read),
    /// [`write`](WorkerSide::write) and [`complete`](WorkerSide::complete), with one claim and one check per run of
    /// items where those have one each time.
    #[inline(always)]
    pub(crate) fn run_array<T>(
        &mut self,
        (item, result): (usize, usize),
        run: impl Fn(&[u8]) -> Result<T>,
    ) -> u32 {
        let Some(items) = SUBMISSIONS.array(&self.rings.0, self.cursor.bytes) else { return 0 };
        let left = items.count.saturating_sub(self.index);
        if items.size as usize != item || left == 0 || result == 0 {
            return 0;
        }
        let room = COMPLETIONS.array_room(self.completed, self.taken, as_u32(result));
        let seen = self.rings.requests().load(Relaxed);
        let claimed = self.claim_run(seen, left.min(room));
        // Before the claim, the pool may have shortened the array, and put other items after it.
        let now = SUBMISSIONS.array(&self.rings.0, self.cursor.bytes).map_or(0, |array| array.count);
        let most = claimed.min(now.saturating_sub(self.index));
        if most == 0 {
            claim_word::give_back(self.rings.claim_word(), self.completed.frames.wrapping_add(1));
            return 0;
        }
        let (memory, first) = (&self.rings.0, self.completed);
        let results = COMPLETIONS.begin_array(memory, first, as_u32(result), most);
        self.open = Some((results, first.frames));
        self.claimed = false;
        let from = SUBMISSIONS.value_offset(items, self.index);
        let to = COMPLETIONS.value_offset(results, 0);
        let (mut count, mut error) = (0, None);
        let original = self.original; // in registers: an item may take a nanosecond
        while count < most {
            let index = count as usize;
            match memory.read(from + index * item, item, &run) {
                Ok(value) => {
                    exit_in_copy(original);
                    failpoint::hit(Failpoint::ResultEncoded);
                    memory.write(to + index * result, raw::as_bytes(&value).unwrap_or_default());
                }
                failed => {
                    error = failed.err();
                    break;
                }
            }
            count += 1;
            self.completed = Position { frames: first.frames.wrapping_add(count), bytes: results.end(count) };
            result_words::complete(memory.word64(COMPLETED), self.completed);
            if count == most || !claim_word::goes_on(self.rings.requests(), seen) {
                break;
            }
            failpoint::hit(Failpoint::ItemBegun);
        }
        if let Some(error) = error {
            self.fail(error);
            return count + 1;
        }
        self.close_array();
        if count < claimed {
            claim_word::give_back(self.rings.claim_word(), self.completed.frames);
        }
        self.end_run(count);
        count
    }

    /// Ends the array of results with those that are completed; returns whether one was open.
    pub(super) fn close_array(&mut self) -> bool {
        let Some((array, first)) = self.open.take() else { return false };
        let count = self.completed.frames.wrapping_sub(first);
        if count < array.count {
            COMPLETIONS.shorten(&self.rings.0, array, count);
        }
        self.index += count;
        true
    }

    /// Claims further items, up to the next clock read and `most` in all. Returns the number of claimed items.
    #[inline(always)]
    fn claim_run(&mut self, seen_requests: u32, most: u32) -> u32 {
        let has_request = seen_requests != self.seen_requests || !seen_requests.is_multiple_of(2);
        let is_run = self.claims_runs && !has_request && !self.schedule.flushes_singly();
        let most = if is_run { most.min(self.schedule.left) } else { most.min(1) };
        let first = u32::from(self.claimed).min(most);
        if first == most || self.broken.is_some() {
            return first;
        }
        first + claim_word::try_claim(self.rings.claim_word(), most - first)
    }

    #[inline(always)]
    fn end_run(&mut self, count: u32) {
        self.schedule.left -= count;
        if self.schedule.left == 0 || (count > 0 && self.has_request()) {
            self.end_interval();
        } else if count > 0 && self.schedule.flushes_singly() {
            self.flush_between();
        }
    }
}

/// If a task has forked and both processes return here, only the worker continues.
#[inline]
pub(super) fn exit_in_copy(original: OriginalProcess) {
    if !original.is_current() {
        exit_immediately(0);
    }
}

//! Collects the results of a worker.

use std::sync::Arc;
use std::time::Instant;

use super::WorkerHandle;
use crate::error::{Error, Result};
use crate::ipc::frame::{Frames, add_frame};
use crate::ipc::packet::OnShortage;
use crate::pool::call::Call;
use crate::pool::result_batch::ResultBatch;
use crate::pool::worker_rings::{ERROR, OUT_OF_LINE, OneResult, Scope};
use crate::sys::limit::private_memory;
use crate::trace::Submissions;

impl WorkerHandle {
    /// Collects readiness and visible results; returns whether there were any.
    pub(crate) fn collect(&mut self) -> bool {
        let is_new = !self.is_ready() && self.rings.is_ready();
        if is_new {
            self.ready_at = Some(Instant::now());
            self.stall_detector.on_ready();
            self.memory_at_start = self.is_measured.then(|| private_memory(self.pid())).flatten();
        }
        self.close_ends();
        self.take_results(Scope::Visible) || is_new
    }

    /// Whether it may have completed results that are not visible.
    pub(crate) fn may_have_unflushed(&self) -> bool {
        self.in_flight.count() > 0 && self.rings.may_have_unflushed()
    }

    /// Takes completed results that are not visible, and then requests a flush.
    pub(crate) fn take_unflushed(&mut self) -> bool {
        let taken = self.may_have_unflushed() && self.take_results(Scope::Unflushed);
        if taken {
            self.rings.request_flush();
        }
        taken
    }

    /// Checks the worker's words in shared memory against what the pool knows. If there is no progress since
    /// the last check, wakes the worker again, in case an overwritten word keeps it asleep, and takes all
    /// completed results. Returns whether there were results.
    pub(crate) fn check(&mut self) -> bool {
        if self.phase.failure().is_some() {
            return false;
        }
        if let Err(error) = self.rings.check() {
            return self.protocol_error(error);
        }
        let taken = self.rings.results_taken();
        let no_progress = std::mem::replace(&mut self.results_at_check, taken) == taken;
        if !no_progress || self.is_idle() {
            return false;
        }
        self.rings.notify_again();
        self.in_flight.count() > 0 && self.unreceived.is_none() && self.take_results(Scope::Completed)
    }

    /// Takes the results of a scope; returns whether there were any.
    pub(super) fn take_results(&mut self, scope: Scope) -> bool {
        if self.is_cancelled() {
            return false; // `cancel` has returned that there is no result
        }
        if self.unreceived.is_some() {
            return self.take_unreceived(scope);
        }
        self.take_more_results(scope)
    }

    #[cold]
    fn take_unreceived(&mut self, scope: Scope) -> bool {
        let left = self.in_flight.count();
        if let Some((results, count, number)) = self.unreceived.take() {
            self.deliver_singly(results, count, number, scope);
        }
        if self.unreceived.is_none() {
            self.make_room();
            self.take_more_results(scope);
        }
        self.in_flight.count() < left
    }

    fn take_more_results(&mut self, scope: Scope) -> bool {
        let number = self.rings.results_taken();
        let begun = Submissions::begin_taking();
        let mut taken = match self.rings.take_results(scope) {
            Ok(Some(taken)) if taken.count <= self.in_flight.count() => taken,
            Ok(None) => return false,
            Ok(Some(_)) => {
                return self.protocol_error(Error::decode("results", "there are more than items in flight"));
            }
            Err(error) => return self.protocol_error(error),
        };
        let count = taken.count;
        if let (Some(call), Scope::Visible) = (self.in_flight.front(), scope) {
            call.cost.learn(count, taken.nanos);
        }
        let is_simple =
            !taken.may_be_out_of_line && self.grace.is_none() && self.in_flight.are_of_one_call(count);
        if !is_simple || self.may_record(&mut taken.results) {
            self.deliver_singly(taken.results, count, number, scope);
        } else {
            self.deliver(taken.results, count);
        }
        self.make_room();
        self.stall_detector.on_results();
        self.submissions.taken(begun, self.pid(), number, count);
        true
    }

    /// Gives the worker the room of what was taken, and lets it have more, unless its item is asked to end.
    #[inline]
    fn make_room(&mut self) {
        self.takes_no_more = self.grace.is_some();
        self.rings.release(self.in_flight.start().unwrap_or(self.rings.position()));
    }

    /// The worker's words are inconsistent: a task has overwritten memory that is not its own.
    fn protocol_error(&mut self, why: Error) -> bool {
        self.fail_worker(why);
        false
    }

    /// Delivers the results of the first `count` items, which are of one call.
    fn deliver(&mut self, mut results: Frames, count: u32) {
        let Some(call) = self.in_flight.front().cloned() else { return };
        let mut spans = Vec::new();
        self.complete(count, |_, first, count| spans.push((first, count)));
        if spans.is_sorted() {
            return call.deliver(ResultBatch::Results { spans, results });
        }
        // Some were revoked from another worker, and came here after items that follow them in the input.
        for (first, count) in spans {
            let mut span = Vec::new();
            for _ in 0..count {
                if let Some((kind, frame)) = results.next() {
                    add_frame(&mut span, kind, frame);
                }
            }
            call.deliver(ResultBatch::Results { spans: vec![(first, count)], results: Frames::new(span) });
        }
    }

    /// Delivers `count` results of several calls, or with out-of-line ones; the first is that of item
    /// `number`. Results from the first that awaits a descriptor on stay in `unreceived`.
    fn deliver_singly(&mut self, mut results: Frames, count: u32, number: u32, scope: Scope) {
        for delivered in 0..count {
            let (passed, number) = (results.consumed(), number.wrapping_add(delivered));
            let received = match results.next() {
                Some((OUT_OF_LINE, _)) => self.receive(number, scope),
                Some((kind, frame)) => Some(Ok(OneResult::of(kind, frame.to_vec()))),
                None => Some(Err(Error::decode("a result", "the ring has no frame for it"))),
            };
            let Some(received) = received else {
                results.back_to(passed);
                self.unreceived = Some((results, count - delivered, number));
                return;
            };
            let asked_to_end = self.end_grace();
            if asked_to_end.is_none() && received.as_ref().is_ok_and(|result| self.record_panic(result)) {
                continue;
            }
            let received = received.map_err(|error| {
                // A result that the kernel refuses to deliver is lost, but the worker is fine.
                if error.os_error().is_none() {
                    self.fail_worker(error.clone());
                }
                error.with_origin(self.origin())
            });
            if let Some(why) = asked_to_end {
                let was_counted = received.is_ok_and(|result| result.kind == ERROR); // by the worker
                self.fail(1, &why);
                self.lost -= u64::from(was_counted);
                continue;
            }
            let mut received = Some(received);
            self.complete(1, |call, index, _| match received.take() {
                Some(Ok(result)) => call.deliver(ResultBatch::Result { index, result }),
                Some(Err(error)) => call.deliver(ResultBatch::Lost { first: index, count: 1, error }),
                None => {}
            });
        }
    }

    /// Receives the out-of-line result of item `number`; `None` if it awaits a descriptor. After a shortage
    /// that is too long, and when all completed results must be taken, the result is lost instead.
    fn receive(&mut self, number: u32, scope: Scope) -> Option<Result<OneResult>> {
        if scope != Scope::Completed {
            match self.rings.receive(number, OnShortage::Leave) {
                Err(error) if error.is_shortage_of_descriptors() => {
                    if self.shortage.record_failure() {
                        return None;
                    }
                }
                received => {
                    self.shortage.record_success();
                    return Some(received);
                }
            }
        }
        Some(self.rings.receive(number, OnShortage::Lose))
    }

    /// Completes the first `count` items, as [`InFlight::complete`](super::in_flight::InFlight::complete).
    pub(super) fn complete(&mut self, count: u32, done: impl FnMut(&Arc<Call>, u64, u32)) {
        self.completed += u64::from(count.min(self.in_flight.count()));
        self.in_flight.complete(count, done);
    }

    /// Fails the first `count` items.
    pub(super) fn fail(&mut self, count: u32, error: &Error) {
        self.lost += u64::from(count);
        let mut left = count;
        while let Some((some, deaths)) = self.in_flight.front_deaths().filter(|_| left > 0) {
            let (error, some) = (error.clone().with_attempts(deaths), some.min(left));
            if self.record_front(&error) {
                left -= 1;
                continue;
            }
            self.complete(some, |call, first, count| {
                call.deliver(ResultBatch::Lost { first, count, error: error.clone() });
            });
            left -= some;
        }
    }

    /// Closes descriptors that the worker has received by now, so that they do not keep a queue open.
    fn close_ends(&mut self) {
        // The next check reports an inconsistent word.
        if self.in_flight.is_front_message()
            && self.rings.not_begun().is_ok_and(|pending| pending < self.in_flight.count())
        {
            self.in_flight.close_ends();
        }
    }
}

//! Taking in what a worker has said, and its results.

use super::Worker;
use crate::error::{Culprit, Error, Result};
use crate::ipc::frame::{Frames, add_frame};
use crate::ipc::packet::{Content, OnShortage};
use crate::pool::call::Parcel;
use crate::pool::worker_handle::in_flight::Settled;
use crate::pool::worker_rings::{POSTED, Which};

impl Worker {
    /// Takes in what it has said: that it is ready, and results. Says whether there was anything.
    pub(crate) fn take_in(&mut self) -> bool {
        let is_new = !self.ready && self.mailbox.is_ready();
        self.ready |= is_new;
        self.drop_descriptors();
        self.take_results(Which::Published) || is_new
    }

    /// May it hold results back that are finished?
    pub(crate) fn may_hold_results(&self) -> bool {
        self.jobs.count() > 0 && self.mailbox.may_hold_results()
    }

    /// Takes results that it holds back, if there are any; and then makes it look at the clock.
    pub(crate) fn take_held(&mut self) -> bool {
        let held = self.may_hold_results() && self.take_results(Which::Held);
        if held {
            self.mailbox.hurry();
        }
        held
    }

    /// Checks what it has written against what the pool knows by itself. One that has shown nothing since it
    /// was checked last is made to look again whether there is something to do, lest something overwritten
    /// keeps it asleep; and all that it has finished is taken, published or not. Says whether there were
    /// results.
    pub(crate) fn check(&mut self) -> bool {
        if self.broken.is_some() {
            return false;
        }
        if let Err(error) = self.mailbox.check() {
            return self.is_mad(error);
        }
        let taken = self.mailbox.results_taken();
        let is_still = std::mem::replace(&mut self.checked_at, taken) == taken;
        if !is_still || self.is_idle() {
            return false;
        }
        self.mailbox.remind();
        self.jobs.count() > 0 && self.unreceived.is_none() && self.take_results(Which::Finished)
    }

    /// Takes these results; says whether there were any.
    pub(super) fn take_results(&mut self, which: Which) -> bool {
        if self.is_cancelled() {
            return false; // whoever has cancelled its item was told that there will be no result
        }
        let left = self.jobs.count();
        if let Some((results, count, number)) = self.unreceived.take() {
            self.deliver_singly(results, count, number, which);
            if self.unreceived.is_some() {
                return self.jobs.count() < left;
            }
        }
        self.take_more_results(which) || self.jobs.count() < left
    }

    fn take_more_results(&mut self, which: Which) -> bool {
        let number = self.mailbox.results_taken();
        let finished = match self.mailbox.take_results(which) {
            Ok(Some(finished)) if finished.count <= self.jobs.count() => finished,
            Ok(None) => return false,
            Ok(Some(_)) => return self.is_mad(Error::decode("results", "there are more of them than items")),
            Err(error) => return self.is_mad(error),
        };
        let count = finished.count;
        if let (Some(call), Which::Published) = (self.jobs.front(), which) {
            call.learn_cost(count, finished.nanos);
        }
        if finished.may_be_posted || !self.jobs.are_of_one_call(count) {
            self.deliver_singly(finished.results, count, number, which);
        } else {
            self.deliver(finished.results, count);
        }
        self.full = false;
        (self.may_be_stopped, self.quiet, self.held_up) = (false, false, false);
        self.mailbox.free(self.jobs.start().unwrap_or(self.mailbox.position()));
        true
    }

    /// It writes nonsense: a task has written over what is not its own.
    fn is_mad(&mut self, why: Error) -> bool {
        self.give_up_on(why);
        false
    }

    /// Delivers the results of the first `count` items in hand, which are of one call.
    fn deliver(&mut self, mut results: Frames, count: u32) {
        let settled = self.settle(count);
        let Some((call, ..)) = settled.first() else { return };
        let runs: Vec<_> = settled.iter().map(|&(_, first, count)| (first, count)).collect();
        if runs.is_sorted() {
            return call.deliver(Parcel::Results { runs, results });
        }
        // Some were taken back from a worker, and came here after others that are behind them.
        for (first, count) in runs {
            let mut run = Vec::new();
            for _ in 0..count {
                if let Some((kind, frame)) = results.next() {
                    add_frame(&mut run, kind, frame);
                }
            }
            call.deliver(Parcel::Results { runs: vec![(first, count)], results: Frames::of(run) });
        }
    }

    /// Delivers `count` results of several calls, or some that came as messages; the first is that of item
    /// `number` of the mailbox. From one on that has to be received later, they stay.
    fn deliver_singly(&mut self, mut results: Frames, count: u32, number: u32, which: Which) {
        for delivered in 0..count {
            let (passed, number) = (results.passed(), number.wrapping_add(delivered));
            let received = match results.next() {
                Some((POSTED, _)) => self.receive(number, which),
                Some((kind, frame)) => Some(Ok((kind, Content::Here(frame.to_vec(), 0)))),
                None => Some(Err(Error::decode("a result", "it is missing in the ring"))),
            };
            let Some(content) = received else {
                results.back_to(passed);
                self.unreceived = Some((results, count - delivered, number));
                return;
            };
            let Some((call, place, _)) = self.settle(1).pop() else { return };
            call.deliver(match content {
                Ok((kind, content)) => Parcel::Result { place, kind, content },
                Err(error) => {
                    // What the system refuses to receive is lost, but nothing is wrong with the worker.
                    if error.os_error().is_none() {
                        self.give_up_on(error.clone());
                    }
                    let error = error.by(Culprit::Worker { pid: self.pid() });
                    Parcel::Lost { first: place, count: 1, error }
                }
            });
        }
    }

    /// Receives the result of the item of this number; `None` when there is no descriptor for it, and it is to be received
    /// later. It is lost instead when that has been so for too long; or when all that is finished is taken, for then
    /// follows what cannot wait.
    fn receive(&mut self, number: u32, which: Which) -> Option<Result<(u32, Content)>> {
        if which != Which::Finished {
            match self.mailbox.receive(number, OnShortage::Leave) {
                Err(error) if error.is_shortage_of_descriptors() => {
                    if self.shortage.meet() {
                        return None;
                    }
                }
                received => {
                    self.shortage.end();
                    return Some(received);
                }
            }
        }
        Some(self.mailbox.receive(number, OnShortage::Lose))
    }

    /// The first `count` items in hand are done with.
    fn settle(&mut self, count: u32) -> Vec<Settled> {
        let settled = self.jobs.settle(count);
        self.served += settled.iter().map(|&(_, _, count)| u64::from(count)).sum::<u64>();
        settled
    }

    /// The first `count` items in hand have no result, and will have none.
    pub(super) fn lose(&mut self, count: u32, error: &Error) {
        for (call, first, count) in self.settle(count) {
            call.deliver(Parcel::Lost { first, count, error: error.clone() });
        }
    }

    /// Lets go of descriptors that the worker has received by now, lest they keep a queue open.
    fn drop_descriptors(&mut self) {
        // What does not agree here is found by the next check.
        if self.jobs.is_front_message()
            && self.mailbox.unbegun().is_ok_and(|unbegun| unbegun < self.jobs.count())
        {
            self.jobs.drop_descriptors();
        }
    }
}

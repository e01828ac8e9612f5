//! Workers notify of each result for as long as a waker waits for one, also beside a caller that needs all of its call.

use std::sync::Arc;
use std::task::{Wake, Waker};

use super::*;
use crate::pool::builder::PoolBuilder;
use crate::pool::call::Options;
use crate::pool::result_batch::ResultBatch;
use crate::pool::worker_rings::wakeups::WaitingCallers;
use crate::pool::{TaskHandle, as_completed};
use crate::task::{RunOnce, TaskId};

/// A pool without workers, beside a task whose result does not come by itself.
fn pool_and_task() -> (Arc<PoolCore>, TaskHandle<u64>) {
    let core = PoolCore::new(PoolBuilder::new().config, None).unwrap();
    let task = TaskId::of::<RunOnce, _, (u64,)>(|number: u64| number).unwrap();
    let call = Call::new(task, Options::default(), true, Arc::default());
    (Arc::clone(&core), TaskHandle::new(core, call))
}

fn deliver(core: &PoolCore, call: &Call) {
    call.deliver(ResultBatch::Lost { first: 0, count: 1, error: Error::new(Cause::Closed) });
    core.wake_list.wake();
}

/// Has `begin` begin to wait with a waker, and `end` end that, beside a caller that needs all results of its call.
fn check<W>(begin: impl FnOnce(TaskHandle<u64>) -> W, end: impl FnOnce(W, &PoolCore, &Call)) {
    let (core, task) = pool_and_task();
    let call = Arc::clone(&task.call);
    let _driver = core.become_driver(true);
    let waiting = || core.callers().waiting();
    assert!(waiting() == WaitingCallers::OneNeedsAll);
    let waiter = begin(task);
    assert!(waiting() == WaitingCallers::Callers);
    end(waiter, &core, &call);
    assert!(waiting() == WaitingCallers::OneNeedsAll);
}

#[test]
fn as_completed_is_notified_of_each_result() {
    check(|task| as_completed([task]), |waiter, _, _| drop(waiter));
    check(
        |task| as_completed([task]),
        |mut waiter, core, call| {
            deliver(core, call);
            assert!(waiter.next().is_some_and(|(_, result)| result.is_err()));
        },
    );
}

#[test]
fn a_callback_is_notified_of_each_result() {
    let begin = |task: TaskHandle<u64>| task.on_done(drop).unwrap();
    check(begin, |(), core, call| deliver(core, call));
}

#[test]
fn a_thread_that_watches_a_task_is_notified_of_each_result() {
    struct Nothing;
    impl Wake for Nothing {
        fn wake(self: Arc<Self>) {}
    }
    let begin = |task: TaskHandle<u64>| {
        let counted = task.watch(&Waker::from(Arc::new(Nothing)));
        (task, counted)
    };
    check(begin, |waiter, _, _| drop(waiter));
}

//! Models of how a caller learns what became of a server.

use loom::thread;

use super::death::{Fate, await_fate};
use super::status_page::{End, StatusPage};
use crate::error::Error;
use crate::model;
use crate::sys::Mutation::{AcquireToRelaxed, NoDeath, NoFence, NoWake, ReleaseToRelaxed};
use crate::sys::failpoint;
use crate::sys::mapping::SharedMapping;
use crate::sys::poll::Deadline;
use crate::sys::running_time::RunningTime;
use crate::sys::thread_id::{ThreadId, namespace};

/// A caller whose number has the first of the words for callers that are refused.
const CALLER: u64 = 64;

fn end(memory: &SharedMapping) {
    StatusPage(memory).end(&End { error: Error, failed: None });
}

/// Acts in a thread while a caller waits, and gives what that learns to `check`.
fn fate_while(act: impl FnOnce(&SharedMapping) + 'static, check: impl FnOnce(StatusPage<'_>, &Fate)) {
    let memory = SharedMapping::of_server();
    let actor = {
        let memory = memory.clone();
        thread::spawn(move || act(&memory))
    };
    let page = StatusPage(&memory);
    let fate = await_fate((page, namespace()), CALLER, 0, RunningTime::now(), Deadline::Never);
    check(page, &fate);
    actor.join().unwrap();
}

/// The caller finds the error whole.
fn check_end(page: StatusPage<'_>, fate: &Fate) {
    assert!(matches!(fate, Fate::Ended));
    let _ = page.read_end("a server");
}

model!(
    a_caller_learns_how_the_server_ended, ended, 3,
    detects [ReleaseToRelaxed, AcquireToRelaxed, NoWake, NoFence]
);

fn ended() {
    fate_while(end, check_end);
}

model!(a_caller_learns_that_it_connects_again, restarted, 3, detects [NoWake, NoFence]);

fn restarted() {
    let check = |_: StatusPage<'_>, fate: &Fate| assert!(matches!(fate, Fate::Restarted));
    fate_while(|memory| StatusPage(memory).restart(), check);
}

model!(a_caller_learns_once_that_it_is_refused, refused, 3, detects [NoWake, NoFence]);

fn refused() {
    let check = |page: StatusPage<'_>, fate: &Fate| {
        assert!(matches!(fate, Fate::Refused));
        assert!(!page.take_refusal(CALLER), "it is refused twice");
    };
    fate_while(|memory| StatusPage(memory).refuse(CALLER), check);
}

model!(
    a_caller_learns_the_end_though_the_monitor_has_ended, monitor_ended, 3,
    detects [ReleaseToRelaxed, AcquireToRelaxed]
);

/// The monitor ends when it has written how the server ended.
fn monitor_ended() {
    failpoint::expect_deaths();
    let write_and_end = |memory: &SharedMapping| {
        StatusPage(memory).set_monitor(ThreadId::current());
        end(memory);
        ThreadId::current().end();
    };
    fate_while(write_and_end, check_end);
}

model!(a_caller_does_not_wait_for_a_dead_monitor, monitor_dead, 3, detects[NoDeath]);

fn monitor_dead() {
    failpoint::expect_deaths();
    let end_without = |memory: &SharedMapping| {
        StatusPage(memory).set_monitor(ThreadId::current());
        ThreadId::current().end();
    };
    fate_while(end_without, |_, fate| assert!(matches!(fate, Fate::Nothing)));
}

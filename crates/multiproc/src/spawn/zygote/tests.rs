//! The zygote: children that no start has claimed, their release, and failures to start.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use nix::errno::Errno;
use proptest::prelude::*;

use super::handle::Zygote;
use super::pid_page::{PidPage, RELEASE_RECHECK, WAITS};
use super::*;
use crate::error::Error;
use crate::ipc::packet::{Message, PacketSocket};
use crate::spawn::outcome::{READY, failed};
use crate::spawn::supervisor::Child;
use crate::spawn::supervisor::tests::child;
use crate::sys::mapping::SharedMapping;
use crate::sys::poll::Deadline;
use crate::sys::process::own_pid;
use crate::testing::cases;

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn any_eight_bytes_are_a_response(number in any::<u64>()) {
        decode_response(number.to_le_bytes());
    }
}

fn page() -> PidPage {
    PidPage(Arc::new(SharedMapping::create(PidPage::SIZE).unwrap().0))
}

/// A pid that is no child's must not be used: 0 and those below mean all processes, or all of a group.
#[test]
fn only_a_child_of_this_process_can_be_unclaimed() {
    let page = page();
    for number in [1, std::process::id(), std::os::unix::process::parent_id(), 1 << 30, u32::MAX >> 1] {
        page.word(3).store(number | WAITS, Ordering::Relaxed);
        let Some((pid, pidfd)) = page.unclaimed(3) else { panic!("{number}") };
        assert!(pid == number && pidfd.has_ended(), "{number} is no child of this process");
    }
    let (child, _socket) = child();
    page.word(3).store(child.pid(), Ordering::Relaxed);
    assert!(!page.unclaimed(3 + MAX_REQUESTS as u64 + 1).unwrap().1.has_ended());
    child.kill();
    page.release(3);
    assert!(page.unclaimed(3).is_none());
}

#[test]
fn a_child_goes_on_when_it_is_released() {
    let page = page();
    let (_ours, theirs) = PacketSocket::pair().unwrap();
    let wait_asleep = |number| {
        let word = page.word(number);
        word.store(own_pid(), Ordering::Relaxed);
        thread::scope(|scope| {
            let (tell, told) = mpsc::channel();
            let (page, theirs) = (&page, &theirs);
            scope.spawn(move || {
                tell.send(nix::unistd::gettid()).unwrap();
                page.wait_for_release(number, theirs);
            });
            let stat = format!("/proc/self/task/{}/stat", told.recv().unwrap());
            let sleeps = || std::fs::read_to_string(&stat).unwrap().contains(") S ");
            while !(word.load(Ordering::Relaxed) & WAITS != 0 && sleeps()) {
                thread::yield_now();
            }
            let start = Instant::now();
            page.release(number);
            start
        })
        .elapsed()
    };
    let times = (0..20).map(wait_asleep);
    assert!(times.min().unwrap() < RELEASE_RECHECK / 2, "none was woken, each has checked by itself");
    page.word(1).store(own_pid(), Ordering::Relaxed);
    page.release(1);
    page.wait_for_release(1, &theirs);
}

fn zygote() -> (Zygote, PacketSocket, Arc<Child>, OwnedFd) {
    let (process, socket) = child();
    let (start_socket, theirs) = PacketSocket::pair().unwrap();
    (Zygote { process: Arc::clone(&process), start_socket, pids: page() }, theirs, process, socket)
}

#[test]
fn a_zygote_that_cannot_start_reports_why() {
    let (zygote, theirs, process, _socket) = zygote();
    let refusal = failed(&Error::os("do without", Errno::ENOMEM)).unwrap();
    for message in [READY, &refusal] {
        theirs.send(&Message::inline(message.to_vec()), Deadline::now()).unwrap();
    }
    let error = zygote.response(Deadline::Never).err().unwrap();
    assert!(error.to_string().contains("do without"), "{error}");
    assert_eq!(error.os_error(), Some(Errno::ENOMEM as i32));
    assert!(process.has_started());
    process.kill();
}

//! Thread ids: which threads live, and which words name none.

use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;

use super::*;

#[test]
fn a_thread_lives_until_it_ends() {
    let (tell, told) = mpsc::channel();
    let (end, ends) = mpsc::channel::<()>();
    let thread = thread::spawn(move || {
        tell.send(ThreadId::current()).unwrap();
        let _ = ends.recv();
    });
    let id = told.recv().unwrap();
    assert!(!id.has_ended() && !ThreadId::current().has_ended() && id != ThreadId::current());
    drop(end);
    thread.join().unwrap();
    while !id.has_ended() {
        thread::yield_now(); // `join` may return a moment before the kernel has removed the thread
    }
}

/// Another process can write any number.
#[test]
fn a_thread_with_another_start_time_or_an_impossible_number_has_ended() {
    let own = ThreadId::current();
    for (bits, ended) in [
        (own.bits(), false),
        (ThreadId::of_number(own.number()).bits(), false),
        (u64::from(own.number()) | u64::from(u32::MAX) << 32, true),
        (u64::from(own.number()), true),
        (1, true),
        (own.bits() ^ 1 << 40, true),
        (0, true),
        (u64::MAX, true),
        (1 << 22, true),
    ] {
        assert_eq!(ThreadId::from_bits(bits).has_ended(), ended, "{bits:x}");
    }
}

/// A thread and another one that lives, and has started within the same clock tick.
#[test]
fn a_number_that_is_a_little_off_names_no_thread() {
    let [one, other] = loop {
        let (tell, told) = mpsc::channel();
        let threads = [(); 2].map(|()| {
            let tell = tell.clone();
            let (end, ends) = mpsc::channel::<()>();
            let thread = thread::spawn(move || {
                tell.send(ThreadId::current()).unwrap();
                let _ = ends.recv();
            });
            (end, thread)
        });
        let ids = [told.recv().unwrap(), told.recv().unwrap()];
        if ids[0].start() == ids[1].start() {
            std::mem::forget(threads); // they live as long as the test
            break ids;
        }
        for (end, thread) in threads {
            drop(end);
            thread.join().unwrap();
        }
    };
    let stray = one.bits() - u64::from(one.number()) + u64::from(other.number());
    assert!(ThreadId::from_bits(stray).has_ended() && !other.has_ended());
}

/// A process that was killed keeps its number until it is reaped.
#[test]
fn a_process_that_is_not_reaped_has_ended() {
    let mut child = Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().unwrap();
    let id = ThreadId::of_number(child.id());
    assert!(!id.has_ended());
    child.kill().unwrap();
    while !id.has_ended() {
        thread::yield_now();
    }
    child.wait().unwrap();
}

#[test]
fn a_stray_number_names_no_thread_of_the_kernel() {
    let stat = Stat::parse("6 (kworker) I 2 0 0 0 -1 69238880 0 0 0 0 0 0 0 0 20 0 1 0 0 0 0").unwrap();
    assert!(stat.has_ended);
    let init = Stat::parse("1 (init) S 0 1 1 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 0 0 0").unwrap();
    assert!(!init.has_ended && init.start > 1);
}

#[test]
fn a_process_whose_first_thread_has_exited_lives_while_it_has_others() {
    let stat = |threads| format!("7 (a) Z 1 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 {threads} 0 4242 9 9");
    assert!(!Stat::parse(&stat(2)).unwrap().has_ended);
    assert!(Stat::parse(&stat(1)).unwrap().has_ended && Stat::parse(&stat(0)).unwrap().has_ended);
}

/// Else what one thread has taken would not be its process's own in another one.
#[test]
fn all_threads_have_the_same_process() {
    let process = || ThreadId::current_and_process().1;
    let own = process();
    assert_eq!(thread::spawn(process).join().unwrap(), own);
}

#[test]
fn a_name_can_hold_anything() {
    let stat = Stat::parse("7 (a) Z (b) R 1 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4242 9 9").unwrap();
    assert_eq!((stat.number, stat.has_ended, stat.start), (7, false, 4242));
    for text in ["", "7", "7 (a) Z", "7 (a) Z 1 2 3", "x (a) Z 1 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 1 9"] {
        assert!(Stat::parse(text).is_none(), "{text}");
    }
}

#[test]
fn in_another_namespace_a_thread_never_ends_and_is_no_other() {
    let (own, process) = ThreadId::current_and_process();
    assert_eq!(ThreadId::current_and_process_in(namespace()), (own, process));
    let (foreign, foreign_process) = ThreadId::current_and_process_in(namespace() + 1);
    assert!(foreign.is_current() && foreign_process.is_current_process() && foreign != own);
    assert_eq!(foreign.bits() & 1 << 31, 0);
    for number in [own.number(), END_OF_NUMBERS - 1] {
        let [one, other] = [1, 2].map(|namespace| ThreadId::of_number(number).foreign_from(namespace));
        assert!(one != other && !one.has_ended() && !one.is_current());
        for stray in
            [one.bits() + 1, one.bits() - 1, one.bits() ^ 1 << 30, one.bits() ^ 1 << 40, one.bits() ^ 1 << 50]
        {
            assert!(ThreadId::from_bits(stray).has_ended(), "{stray:x}");
        }
    }
}

//! Uses a part of the library for the first time in a thread, and in a copy of the process that is forked
//! meanwhile. The arguments are the part, and how many microseconds after the thread's begin.

#![allow(clippy::unwrap_used, reason = "a fixture ends where something does not go as it should")]

use std::process::exit;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use multiproc::queue::bounded;
use multiproc::{Process, Result};
use nix::libc;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, alarm, fork};

fn seven() -> u32 {
    7
}

fn use_part(part: &str) -> Result<u32> {
    match part {
        "queue" => {
            let (sender, receiver) = bounded(1)?;
            sender.send(7)?;
            receiver.recv()
        }
        "thread" => Process::builder().inline(true).spawn(seven, ())?.join(),
        _ => Process::spawn(seven, ())?.join(),
    }
}

/// Returns whether a copy of this process can use it.
#[allow(unsafe_code)]
fn use_in_copy(part: &str) -> bool {
    // SAFETY: the copy takes no locks but those of the C library and of this one, which keep them in order.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            alarm::set(30); // one that hangs is killed
            let is_used = use_part(part).is_ok();
            // SAFETY: ends the process at once.
            unsafe { libc::_exit(i32::from(!is_used)) }
        }
        ForkResult::Parent { child } => waitpid(child, None) == Ok(WaitStatus::Exited(child, 0)),
    }
}

fn main() {
    multiproc::init();
    let [part, delay] = [1, 2].map(|index| std::env::args().nth(index).unwrap());
    let delay = Duration::from_micros(delay.parse().unwrap());
    let may_begin = AtomicBool::new(false);
    let are_used = thread::scope(|scope| {
        let thread = scope.spawn(|| {
            while !may_begin.load(Ordering::Acquire) {
                std::hint::spin_loop();
            }
            use_part(&part).is_ok()
        });
        thread::sleep(Duration::from_millis(1)); // the thread runs now, most likely
        may_begin.store(true, Ordering::Release);
        let begun = Instant::now();
        while begun.elapsed() < delay {
            std::hint::spin_loop();
        }
        use_in_copy(&part) && thread.join().unwrap()
    });
    exit(i32::from(!are_used));
}

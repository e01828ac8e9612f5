//! A task forks, and lets the copy return or stay.

use std::fs;
use std::io::stderr;
use std::process::exit;
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use multiproc::sync::OnceCell;
use multiproc::{Process, Server};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, alarm, fork, pause};

use crate::support::{Outcome, TEST_TIMEOUT, alone, trials};

trials![
    a_copy_that_a_method_lets_return_serves_nothing,
    a_copy_of_a_server_does_not_hide_its_end,
    a_copy_that_makes_a_shared_value_does_not_share_it,
    a_copy_that_calls_exit_does_not_wait_for_standard_error,
];

fn a_copy_that_a_method_lets_return_serves_nothing() -> Outcome {
    fn make(forks: bool) -> u64 {
        if forks { fork_in_task(|| ()).map_or(100, |copy| has_ended_well(copy).into()) } else { 1 }
    }
    fn add_and_fork(sum: &mut u64, number: u64) -> bool {
        *sum += number;
        fork_in_task(|| ()).is_some_and(has_ended_well)
    }
    fn add(sum: &mut u64, number: u64) -> u64 {
        *sum += number;
        *sum
    }
    alone(|| {
        for forks in [false, true] {
            let server = Server::spawn(make, (forks,))?;
            assert!(server.call(add_and_fork, (1,))?, "the copy ends at once");
            assert_eq!(server.call(add, (1,))?, 3);
            assert_eq!(server.stop()?, 3);
        }
        Ok(())
    })
}

/// The copy keeps the channels of the server open.
fn a_copy_of_a_server_does_not_hide_its_end() -> Outcome {
    fn fork_one_that_stays(_: &mut u64) -> Option<i32> {
        fork_in_task(|| {
            loop {
                pause();
            }
        })
        .map(Pid::as_raw)
    }
    fn stay(_: &mut u64) {
        pause();
    }
    alone(|| {
        for is_polled in [false, true] {
            let server = Server::spawn(|| 0, ())?;
            let Some(copy) = server.call(fork_one_that_stays, ())? else { panic!("a copy has served") };
            let call = server.submit(stay, ())?;
            server.kill()?;
            let in_time = Instant::now() + TEST_TIMEOUT;
            while is_polled && !call.is_ready() {
                assert!(Instant::now() < in_time);
                thread::yield_now();
            }
            assert!(call.get().is_err());
            let stat = fs::read_to_string(format!("/proc/{copy}/stat")).unwrap();
            assert!(!stat.contains(") Z"), "the copy has ended: {stat}");
            kill(Pid::from_raw(copy), Signal::SIGKILL).unwrap();
        }
        Ok(())
    })
}

fn a_copy_that_makes_a_shared_value_does_not_share_it() -> Outcome {
    alone(|| {
        let cell = OnceCell::<u64>::new()?;
        let made = cell.get_or_init(|| {
            let copy = fork_in_task(|| ());
            copy.map_or(1, |copy| {
                assert!(has_ended_well(copy));
                if cell.get().is_none() { 2 } else { 3 }
            })
        })?;
        if made == 1 {
            exit(0); // the copy
        }
        assert_eq!((made, cell.get()), (2, Some(2)));
        Ok(())
    })
}

fn a_copy_that_calls_exit_does_not_wait_for_standard_error() -> Outcome {
    alone(|| {
        let (locked, is_locked) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        let holder = thread::spawn(move || {
            let lock = stderr().lock();
            locked.send(()).unwrap();
            let _ = ended.recv();
            drop(lock);
        });
        is_locked.recv().unwrap();
        let task = || fork_in_task(|| exit(0)).is_some_and(has_ended_well);
        let child = Process::builder().inline(true).spawn(task, ())?;
        let is_well = child.join();
        drop(end);
        holder.join().unwrap();
        assert!(is_well?);
        Ok(())
    })
}

/// Forks; `in_copy` says what follows in the copy, which a hang kills.
#[allow(unsafe_code)]
fn fork_in_task(in_copy: impl FnOnce()) -> Option<Pid> {
    // SAFETY: as in `in_fork`.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            alarm::set(u32::try_from(TEST_TIMEOUT.as_secs()).unwrap());
            in_copy();
            None
        }
        ForkResult::Parent { child } => Some(child),
    }
}

fn has_ended_well(child: Pid) -> bool {
    waitpid(child, None) == Ok(WaitStatus::Exited(child, 0))
}

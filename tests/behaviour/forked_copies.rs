//! Copies of a process that a program has forked by itself: with what the original made they get errors, they
//! take nothing away from it, and they can use the library as any process. None waits for a lock that a thread of the
//! original held at the fork.

use std::fs;
use std::io::stderr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, exit};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use multiproc::queue::bounded;
use multiproc::server::CallHandle;
use multiproc::sync::OnceCell;
use multiproc::{
    Pool, Process, Result, Server, SharedSlice, StartMethod, as_completed, pipe, wait_any_timeout,
};
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, alarm, fork, pause};

use crate::support::{METHODS, Outcome, TEST_TIMEOUT, alone, block, trials, with};

trials![
    a_copy_that_drops_an_iterator_takes_nothing_away,
    a_copy_that_ends_the_pool_takes_nothing_away,
    a_copy_that_waits_for_a_task_is_told_that_it_is_one,
    a_copy_that_drops_the_pool_joins_its_own,
    a_copy_of_the_process_can_do_nothing_with_its_pool,
    a_copy_does_not_end_a_child,
    a_copy_that_a_method_lets_return_serves_nothing,
    a_copy_of_a_server_does_not_hide_its_end,
    a_copy_that_makes_a_shared_value_does_not_share_it,
    a_copy_that_calls_exit_does_not_wait_for_standard_error,
    a_call_in_a_forked_copy_does_not_slow_down_the_pool,
    a_copy_made_while_results_arrive_ends,
    a_copy_made_while_replies_arrive_ends,
    a_copy_made_while_children_start_starts_some,
    a_copy_made_while_large_items_pass_sends_some,
    a_copy_that_waits_for_any_result_is_told_that_it_is_one,
    a_copy_that_joins_an_inline_process_is_told_that_it_is_one,
    a_copy_calls_back,
    a_copy_made_at_the_first_use_uses_it_too,
];

/// Runs this in a forked copy of the process; returns whether it returns true.
#[allow(unsafe_code)]
pub(crate) fn in_fork(act: impl FnOnce() -> bool) -> bool {
    // SAFETY: what the copy does takes no lock of the original but the allocator's, which the C library keeps in
    // order, and those whose owner, this library, must do so: that is what is tested.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            alarm::set(u32::try_from(TEST_TIMEOUT.as_secs()).unwrap()); // one that hangs is killed, so the test fails
            let good = catch_unwind(AssertUnwindSafe(act)).unwrap_or(false); // else this copy would leave here
            // SAFETY: ends the process at once.
            unsafe { libc::_exit(i32::from(!good)) }
        }
        ForkResult::Parent { child } => {
            matches!(waitpid(child, None), Ok(WaitStatus::Exited(_, 0)))
        }
    }
}

fn square(number: u64) -> u64 {
    number * number
}

fn slowly(number: u64) -> u64 {
    thread::sleep(Duration::from_millis(10));
    number
}

fn a_copy_that_drops_an_iterator_takes_nothing_away() -> Outcome {
    alone(|| {
        let pool = Pool::new(2)?;
        let mut results = pool.imap(slowly, 0..60);
        assert_eq!(results.next().transpose()?, Some(0));
        let mut results = Some(results);
        assert!(in_fork(|| results.take().is_some()));
        for (result, number) in results.into_iter().flatten().zip(1..) {
            assert_eq!(result?, number);
        }
        Ok(())
    })
}

fn a_copy_of_the_process_can_do_nothing_with_its_pool() -> Outcome {
    alone(|| {
        let pool = Pool::new(2)?;
        let task = pool.submit(slowly, (3,))?;
        let mut results = pool.imap(slowly, 0..60);
        assert!(in_fork(|| {
            let is_refused = pool.apply(square, (3,)).is_err() && !task.cancel();
            pool.close();
            is_refused && pool.worker_pids().is_empty() && results.by_ref().all(|result| result.is_err())
        }));
        assert_eq!(task.get()?, 3);
        assert_eq!(results.collect::<Result<Vec<_>>>()?, (0..60).collect::<Vec<_>>());
        assert_eq!(pool.map(square, 0..3)?, [0, 1, 4]);
        Ok(())
    })
}

#[allow(unsafe_code)]
fn a_copy_that_ends_the_pool_takes_nothing_away() -> Outcome {
    alone(|| {
        for end in [|pool: Pool| pool.terminate(), Pool::join] {
            let pool = Pool::builder().workers(1).chunk_size(20).build()?;
            let mut results = pool.imap(slowly, 0..60);
            assert_eq!(results.next().transpose()?, Some(0));
            assert!(in_fork(|| {
                // SAFETY: this process ends before the pool is used or dropped again.
                end(unsafe { std::ptr::read(&raw const pool) });
                true
            }));
            assert_eq!(results.collect::<Result<Vec<_>>>()?, (1..60).collect::<Vec<_>>());
        }
        Ok(())
    })
}

/// The C library gives a later thread of the copy the handle of a thread that the copy lacks.
#[allow(unsafe_code)]
fn a_copy_that_drops_the_pool_joins_its_own() -> Outcome {
    alone(|| {
        let pool = Pool::new(1)?;
        assert!(in_fork(|| {
            let Ok(own) = Pool::new(1) else { return false };
            // SAFETY: this process ends before the pool is used or dropped again.
            drop(unsafe { std::ptr::read(&raw const pool) });
            let result = own.apply(square, (3,));
            own.join();
            result.is_ok_and(|number| number == 9)
        }));
        assert_eq!(pool.apply(square, (3,))?, 9);
        Ok(())
    })
}

fn a_copy_does_not_end_a_child() -> Outcome {
    alone(|| {
        let (latch, theirs) = pipe()?;
        let child = Process::spawn(block, (theirs,))?;
        assert!(in_fork(|| {
            let refused = [child.kill(), child.terminate()];
            refused
                .iter()
                .all(|refused| refused.as_ref().is_err_and(|e| e.to_string().contains("forked copy")))
        }));
        drop(latch);
        child.join()?;
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

fn a_copy_that_waits_for_a_task_is_told_that_it_is_one() -> Outcome {
    alone(|| {
        let pool = Pool::new(1)?;
        let mut task = pool.submit(slowly, (3,))?;
        assert!(in_fork(|| {
            let time_up = task.get_timeout(TEST_TIMEOUT);
            time_up.is_err_and(|error| error.to_string().contains("forked copy"))
        }));
        assert_eq!(task.get()?, 3);
        Ok(())
    })
}

/// No caller waits for these tasks, so each completion must wake the pool's own thread.
fn a_call_in_a_forked_copy_does_not_slow_down_the_pool() -> Outcome {
    fn time_of_tasks(pool: Pool) -> Result<Duration> {
        let start = Instant::now();
        for number in 0..30 {
            let _ = pool.submit(slowly, (number,))?;
        }
        pool.join();
        Ok(start.elapsed())
    }
    alone(|| {
        let usual = time_of_tasks(Pool::new(1)?)?;
        let pool = Pool::new(1)?;
        assert!(in_fork(|| pool.apply(square, (3,)).is_err()));
        let time = time_of_tasks(pool)?;
        assert!(time < 5 * usual + Duration::from_secs(1), "{time:?}, where it is usually {usual:?}");
        Ok(())
    })
}

/// How often a copy is made while other threads are busy.
const COPIES: usize = 100;

/// Calls `work` again and again in another thread, while `act` runs.
fn while_busy(mut work: impl FnMut() + Send, act: impl FnOnce()) {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                work();
            }
        });
        act();
        is_over.store(true, Ordering::Relaxed);
    });
}

/// The pool's thread delivers the results of a call to the handle that the copy uses, and drops.
fn a_copy_made_while_results_arrive_ends() -> Outcome {
    alone(|| {
        let pool = Pool::builder().workers(2).chunk_size(1).build()?;
        for _ in 0..COPIES {
            let mut results = pool.imap(square, 0..300);
            assert_eq!(results.next().transpose()?, Some(0));
            let task = pool.submit(square, (3,))?;
            let mut results = Some(results);
            assert!(in_fork(|| {
                let is_refused = !task.cancel() && !task.is_running();
                drop(results.take());
                is_refused
            }));
            assert_eq!(task.get()?, 9);
            assert_eq!(results.into_iter().flatten().collect::<Result<Vec<_>>>()?.len(), 299);
        }
        Ok(())
    })
}

fn a_copy_made_while_replies_arrive_ends() -> Outcome {
    fn add(sum: &mut u64, number: u64) -> u64 {
        *sum += number;
        *sum
    }
    alone(|| {
        let server = Server::spawn(|| 0, ())?;
        let mut calls = 0;
        let call = server.submit(add, (0,))?;
        while_busy(
            || {
                calls += 1;
                server.call(add, (1,)).unwrap();
            },
            || {
                let mut call = Some(call);
                for _ in 0..COPIES {
                    let is_refused = in_fork(|| {
                        let call = call.take();
                        let is_ready = call.as_ref().is_some_and(CallHandle::is_ready);
                        let refused = call.is_some_and(|call| call.get().is_err());
                        is_ready && refused && server.call(add, (1,)).is_err()
                    });
                    assert!(is_refused);
                }
                assert_eq!(call.map(CallHandle::get).transpose().unwrap(), Some(0));
            },
        );
        assert_eq!(server.call(add, (0,))?, calls);
        Ok(())
    })
}

fn a_copy_made_while_children_start_starts_some() -> Outcome {
    alone(|| {
        while_busy(
            || assert_eq!(Process::spawn(|| 4, ()).unwrap().join().unwrap(), 4),
            || {
                for method in [METHODS; 10].into_iter().flatten() {
                    let five = || with(method).spawn(|| 5, ()).and_then(Process::join);
                    assert!(in_fork(|| five().is_ok_and(|number| number == 5)), "{method:?}");
                }
            },
        );
        Ok(())
    })
}

fn a_copy_made_while_large_items_pass_sends_some() -> Outcome {
    fn pass() -> Result<bool> {
        let (sender, receiver) = bounded(1)?;
        sender.send(vec![7_u8; 300_000])?;
        let bytes = receiver.recv()?;
        let (sender, receiver) = bounded(1)?;
        for _ in 0..20 {
            sender.send(SharedSlice::from_slice(&bytes[..5_000])?)?;
            receiver.recv()?;
        }
        Ok(bytes == vec![7; 300_000])
    }
    alone(|| {
        while_busy(
            || assert!(pass().unwrap()),
            || {
                for _ in 0..COPIES {
                    assert!(in_fork(|| pass().is_ok_and(|is_right| is_right)));
                }
            },
        );
        Ok(())
    })
}

fn a_copy_that_waits_for_any_result_is_told_that_it_is_one() -> Outcome {
    alone(|| {
        let pool = Pool::new(1)?;
        let tasks = (0..3).map(|number| pool.submit(slowly, (number,))).collect::<Result<Vec<_>>>()?;
        let last = pool.submit(slowly, (3,))?;
        let mut results = as_completed(tasks);
        assert!(in_fork(|| {
            results.by_ref().filter(|(_, result)| result.is_err()).count() == 3
                && wait_any_timeout(&[&last], TEST_TIMEOUT).is_ok_and(|ready| ready == [0])
        }));
        assert_eq!(results.filter(|(_, result)| result.is_ok()).count(), 3);
        assert_eq!(last.get()?, 3);
        Ok(())
    })
}

fn a_copy_that_joins_an_inline_process_is_told_that_it_is_one() -> Outcome {
    alone(|| {
        let (latch, theirs) = pipe()?;
        let mut child = Process::builder().inline(true).spawn(block, (theirs,))?;
        assert!(in_fork(|| {
            let refused = child.join_timeout(TEST_TIMEOUT);
            refused.is_err_and(|error| error.to_string().contains("forked copy"))
        }));
        drop(latch);
        child.join()?;
        Ok(())
    })
}

/// The thread for callbacks runs in the original.
fn a_copy_calls_back() -> Outcome {
    fn called_back() -> Result<bool> {
        let (sender, results) = mpsc::channel();
        let pool = Pool::builder().workers(1).start_method(StartMethod::ForkServer).build()?;
        pool.submit(square, (3,))?.on_done(move |result| _ = sender.send(result))?;
        Ok(matches!(results.recv_timeout(TEST_TIMEOUT), Ok(Ok(9))))
    }
    alone(|| {
        assert!(called_back()?);
        assert!(in_fork(|| called_back().is_ok_and(|is_called| is_called)));
        assert!(called_back()?);
        Ok(())
    })
}

/// What a process caches is found out in another thread at the fork. Each time in a program of its own, where
/// nothing is cached yet.
fn a_copy_made_at_the_first_use_uses_it_too() -> Outcome {
    for delay in (0..400).step_by(8) {
        for part in ["queue", "thread", "process"] {
            let mut program = Command::new(env!("CARGO_BIN_EXE_first_use"));
            let status = program.args([part, &delay.to_string()]).status()?;
            assert!(status.success(), "{part} after {delay} µs: {status}");
        }
    }
    Ok(())
}

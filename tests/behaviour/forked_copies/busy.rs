//! Copies of a process whose other threads are busy in the library.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use multiproc::queue::bounded;
use multiproc::server::CallHandle;
use multiproc::{Pool, Process, Result, Server, SharedSlice, StartMethod};

use super::{in_fork, slowly, square};
use crate::support::{METHODS, Outcome, TEST_TIMEOUT, alone, trials, with};

trials![
    a_call_in_a_forked_copy_does_not_slow_down_the_pool,
    a_copy_made_while_results_arrive_ends,
    a_copy_made_while_replies_arrive_ends,
    a_copy_made_while_children_start_starts_some,
    a_copy_made_while_large_items_pass_sends_some,
    a_copy_calls_back,
    a_copy_made_at_the_first_use_uses_it_too,
];

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

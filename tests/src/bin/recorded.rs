//! Runs tasks that fail, and prints each with the file that records it. `MULTIPROC_REPLAY` runs one again.

#![allow(clippy::unwrap_used, reason = "a fixture ends where something does not go as it should")]

use std::process::{abort, exit};
use std::sync::mpsc::{self, TryRecvError};
use std::thread::sleep;
use std::time::Duration;
use std::{env, fs, thread};

use multiproc::{Error, Pool, Process, Result};
use nix::libc;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, alarm, fork};
use tests::crashes::{abort_in_c, first_level, overflow_the_stack};

fn fail(kind: &str, number: usize) -> usize {
    match kind {
        "segfault" => first_level(number).into(),
        "abort" => {
            abort_in_c(7);
            number
        }
        "overflow" => usize::try_from(overflow_the_stack(0)).unwrap(),
        "panic" => panic!("number {number}"),
        "exit" => exit(3),
        "nested" => {
            panic!("{:?}", Process::spawn(|number: usize| number + 1, (number,)).and_then(Process::join))
        }
        // Only a program whose environment says so fails.
        "flaky" | "timeout" if env::var_os("FLAKY").is_none() => number,
        "timeout" => {
            sleep(Duration::from_secs(3600));
            number
        }
        _ => abort(),
    }
}

/// The state of a worker is the number; the task gets no other.
fn fail_with_state(number: &mut usize, kind: String) -> usize {
    fail(&kind, *number)
}

/// An argument that travels out of line.
fn fail_large(kind: String, large: Vec<u8>) -> usize {
    fail(&kind, large.len())
}

/// Goes to another directory, and has a child that fails; returns the path of its record.
fn fail_elsewhere(directory: String) -> String {
    fs::create_dir(&directory).unwrap();
    env::set_current_dir(&directory).unwrap();
    let result = Process::spawn(|number: usize| fail("panic", number), (7,)).and_then(Process::join);
    result.err().map(|error| path(&error)).unwrap_or_default()
}

/// A directory takes 100 records.
const COPIES: usize = 15;
const MOST_OF_ORIGINAL: usize = 60;

/// Forks copies that have a task recorded each, while another thread has some recorded.
///
/// That thread runs before the first fork, and until after the last one: the standard library holds a lock of its own
/// while a thread of its begins or ends, and a copy would wait for that.
#[allow(unsafe_code)]
fn record_in_copies() {
    let is_recorded = || {
        let child = Process::spawn(|number: usize| fail("panic", number), (7,));
        child.and_then(Process::join).is_err_and(|error| error.record().is_some())
    };
    let (begun, may_fork) = mpsc::channel();
    let (end, ended) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            assert!(is_recorded());
            begun.send(()).unwrap();
            let goes_on = || ended.try_recv() == Err(TryRecvError::Empty);
            assert!((1..MOST_OF_ORIGINAL).take_while(|_| goes_on()).all(|_| is_recorded()));
            let _ = ended.recv();
        });
        may_fork.recv().unwrap();
        for _ in 0..COPIES {
            // SAFETY: the copy takes no locks but those of libraries that keep them in order: C's, and this one.
            match unsafe { fork() }.unwrap() {
                ForkResult::Child => {
                    alarm::set(30); // one that hangs is killed
                    let is_recorded = is_recorded();
                    // SAFETY: ends the process at once.
                    unsafe { libc::_exit(i32::from(!is_recorded)) }
                }
                ForkResult::Parent { child } => {
                    assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 0)));
                }
            }
        }
        drop(end);
    });
}

fn print(kind: &str, result: Result<usize>) {
    match result {
        Ok(number) => println!("{kind} returned {number}"),
        Err(error) => println!("{kind} {}", path(&error)),
    }
}

fn path(error: &Error) -> String {
    error.record().map_or_else(|| "none".to_owned(), |path| path.display().to_string())
}

fn main() -> Result<()> {
    multiproc::init();
    let mut args = env::args().skip(1);
    let how = args.next().unwrap_or_default();
    let kinds: Vec<String> = args.collect();
    match &how[..] {
        "pool" => {
            let items = kinds.iter().map(|kind| (kind.clone(), 7));
            let pool = Pool::new(2)?;
            let results = pool.map_results(|(kind, number): (String, usize)| fail(&kind, number), items)?;
            for (kind, result) in kinds.iter().zip(results) {
                print(kind, result);
            }
        }
        "limited" => {
            let pool = Pool::new(2)?;
            for kind in kinds {
                let limited = pool.options().timeout(Duration::from_millis(50));
                print(&kind, limited.apply(|kind: String| fail(&kind, 7), (kind.clone(),)));
            }
        }
        "large" => {
            let pool = Pool::new(2)?;
            for kind in kinds {
                print(&kind, pool.apply(fail_large, (kind.clone(), vec![1; 100_000])));
            }
        }
        "state" => {
            let pool = Pool::builder().workers(2).state(|number: usize| number, (7,)).build()?;
            for kind in kinds {
                print(&kind, pool.apply(fail_with_state, (kind.clone(),)));
            }
        }
        "unwritable" => {
            let pool = Pool::new(2)?;
            let directory = env::var_os("MULTIPROC_RECORD").unwrap_or_default();
            fs::remove_dir(directory).map_err(multiproc::TaskError::from)?;
            let results = pool.map_results(|number: usize| fail("panic", number), 0..9)?;
            for result in results {
                print("panic", result);
            }
        }
        "elsewhere" => {
            println!("{}", fail_elsewhere("one".to_owned()));
            println!("{}", Process::spawn(fail_elsewhere, ("other".to_owned(),))?.join()?);
        }
        "copies" => record_in_copies(),
        _ => {
            for kind in kinds {
                let child = Process::spawn(|kind: String| fail(&kind, 7), (kind.clone(),))?;
                print(&kind, child.join());
            }
        }
    }
    Ok(())
}

//! Runs tasks that fail, and prints each with the file that records it. `MULTIPROC_REPLAY` runs one again.

#![allow(clippy::unwrap_used, reason = "a fixture ends where something does not go as it should")]

use std::process::{abort, exit};
use std::thread::sleep;
use std::time::Duration;
use std::{env, fs};

use multiproc::{Error, Pool, Process, Result};
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
        _ => {
            for kind in kinds {
                let child = Process::spawn(|kind: String| fail(&kind, 7), (kind.clone(),))?;
                print(&kind, child.join());
            }
        }
    }
    Ok(())
}

//! **Crashes**: an error shows the function that crashed, and the child dies as it would otherwise.

use std::hint::black_box;
use std::process::{Command, Stdio, abort};
use std::thread;

use multiproc::{Error, Pool, Process, RemoteFn};
use nix::sys::signal::{Signal, raise};
use tests::{crash_on, dereference};

use crate::support::{Outcome, TEST_TIMEOUT, trials};

trials![
    a_segfault_three_functions_deep_is_shown,
    an_abort_is_shown,
    a_crash_of_another_thread_is_shown,
    a_stack_overflow_is_shown,
    a_crash_within_a_handler_is_shown,
    a_crash_of_a_worker_is_shown,
    a_signal_that_was_sent_kills,
    two_threads_that_crash_at_once_do_not_hang,
    many_crashes_are_all_reported,
    a_panic_has_a_backtrace_where_the_environment_asks_for_it,
];

#[inline(never)]
fn first_level(address: usize) -> u8 {
    black_box(second_level(black_box(address))).wrapping_add(1)
}

#[inline(never)]
fn second_level(address: usize) -> u8 {
    black_box(third_level(black_box(address))).wrapping_add(1)
}

#[inline(never)]
fn third_level(address: usize) -> u8 {
    black_box(dereference(black_box(address))).wrapping_add(1)
}

#[inline(never)]
fn overflow_the_stack(depth: u64) -> u64 {
    let block = black_box([depth; 100]);
    if depth == u64::MAX {
        return 0;
    }
    black_box(overflow_the_stack(depth + 1)) + block[usize::try_from(depth % 100).unwrap()]
}

#[inline(never)]
fn abort_here() {
    abort()
}

fn died_of<F: RemoteFn<()>>(function: F, signal: Signal) -> Result<Error, Error>
where
    F::Output: serde::Serialize + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let error = Process::spawn(function, ())?.join().unwrap_err();
    assert_eq!(error.signal(), Some(signal as i32), "{error}");
    Ok(error)
}

/// The names of the functions, without the generic and hash parts.
fn functions(error: &Error) -> Vec<String> {
    let backtrace = error.backtrace().unwrap();
    backtrace.frames().iter().filter_map(|frame| frame.function().map(str::to_owned)).collect()
}

/// Asserts that these functions are in the backtrace, the innermost first.
fn assert_calls(error: &Error, names: &[&str]) {
    let functions = functions(error);
    let mut rest = functions.iter();
    for name in names {
        assert!(rest.any(|function| function.contains(name)), "no {name} in order: {error:#}");
    }
}

fn a_segfault_three_functions_deep_is_shown() -> Outcome {
    let error = died_of(|| first_level(16), Signal::SIGSEGV)?;
    assert_calls(&error, &["dereference", "third_level", "second_level", "first_level"]);
    assert_eq!(error.backtrace().unwrap().fault_address(), Some(16));
    assert!(format!("{error:#}").contains("third_level") && !error.to_string().contains('\n'));
    Ok(())
}

fn an_abort_is_shown() -> Outcome {
    let error = died_of(abort_here, Signal::SIGABRT)?;
    assert_calls(&error, &["abort_here"]);
    assert_eq!(error.backtrace().unwrap().fault_address(), None);
    Ok(())
}

fn a_crash_of_another_thread_is_shown() -> Outcome {
    let crash = || thread::spawn(|| first_level(32)).join().unwrap();
    assert_calls(&died_of(crash, Signal::SIGSEGV)?, &["third_level", "first_level"]);
    Ok(())
}

fn a_stack_overflow_is_shown() -> Outcome {
    let error = died_of(|| overflow_the_stack(0), Signal::SIGABRT)?;
    assert_calls(&error, &["overflow_the_stack", "overflow_the_stack", "overflow_the_stack"]);
    let crash = || thread::spawn(|| overflow_the_stack(0)).join().unwrap();
    assert_calls(&died_of(crash, Signal::SIGABRT)?, &["overflow_the_stack", "overflow_the_stack"]);
    Ok(())
}

fn a_crash_within_a_handler_is_shown() -> Outcome {
    let crash = || {
        crash_on(Signal::SIGUSR1);
        raise(Signal::SIGUSR1).unwrap();
    };
    assert_calls(&died_of(crash, Signal::SIGSEGV)?, &["dereference", "crashing_handler"]);
    Ok(())
}

fn a_crash_of_a_worker_is_shown() -> Outcome {
    let pool = Pool::new(2)?;
    let crash = |number: usize| if number == 5 { first_level(number) } else { 0 };
    let results = pool.options().retries(1).map_results(crash, 0..10)?;
    let error = results[5].as_ref().unwrap_err();
    assert_eq!((error.signal(), error.index()), (Some(11), Some(5)), "{error}");
    assert_calls(error, &["third_level", "second_level"]);
    assert_calls(&error.attempts()[0], &["third_level", "second_level"]);
    assert_eq!(results.iter().flatten().count(), 9);
    Ok(())
}

fn a_signal_that_was_sent_kills() -> Outcome {
    for signal in [Signal::SIGSEGV, Signal::SIGFPE, Signal::SIGILL, Signal::SIGBUS] {
        let mut child = Process::spawn(
            |number: i32| raise(Signal::try_from(number).unwrap()).unwrap(),
            (signal as i32,),
        )?;
        let error = child.join_timeout(TEST_TIMEOUT).unwrap_err();
        assert_eq!(error.signal(), Some(signal as i32), "{error}");
    }
    Ok(())
}

fn two_threads_that_crash_at_once_do_not_hang() -> Outcome {
    let crash = || {
        let threads = [0, 1, 2, 3].map(|_| thread::spawn(|| first_level(16)));
        for thread in threads {
            thread.join().unwrap();
        }
    };
    for _ in 0..20 {
        died_of(crash, Signal::SIGSEGV)?;
    }
    Ok(())
}

fn a_panic_has_a_backtrace_where_the_environment_asks_for_it() -> Outcome {
    for (asked, expected) in [("0", "None"), ("1", "Some(true)")] {
        let mut program = Command::new(env!("CARGO_BIN_EXE_panicked"));
        let output =
            program.env("RUST_BACKTRACE", asked).env_remove("RUST_LIB_BACKTRACE").stderr(Stdio::null());
        assert_eq!(String::from_utf8(output.output()?.stdout)?.trim_end(), expected);
    }
    Ok(())
}

fn many_crashes_are_all_reported() -> Outcome {
    let pool = Pool::new(2)?;
    let crash =
        |number: usize| -> u8 { if number.is_multiple_of(2) { first_level(number) } else { abort() } };
    for (index, result) in pool.map_results(crash, 0..16)?.into_iter().enumerate() {
        let error = result.unwrap_err();
        let signal = if index.is_multiple_of(2) { 11 } else { 6 };
        assert_eq!(error.signal(), Some(signal), "{error}");
        let backtrace = error.backtrace().unwrap();
        assert_eq!(backtrace.fault_address(), (signal == 11).then_some(index as u64), "{backtrace}");
    }
    Ok(())
}

//! An error shows the function that crashed, and the child dies as it would otherwise.

use std::process::abort;
use std::thread;

use multiproc::{Backtrace, Error, Pool, Process};
use nix::sys::signal::{Signal, raise};
#[cfg(target_arch = "x86_64")]
use tests::crashes::divide_by_zero;
use tests::crashes::{
    crash_on, execute_an_illegal_instruction, first_level, overflow_the_stack, read_behind_a_file,
};

use super::{assert_calls, died_of};
use crate::support::{Outcome, TEST_TIMEOUT, trials};

trials![
    a_segfault_three_functions_deep_is_shown,
    an_abort_is_shown,
    a_bus_error_is_shown,
    an_illegal_instruction_is_shown,
    #[cfg(target_arch = "x86_64")]
    a_division_by_zero_is_shown,
    a_crash_of_another_thread_is_shown,
    a_stack_overflow_is_shown,
    a_crash_within_a_handler_is_shown,
    a_crash_of_a_worker_is_shown,
    a_signal_that_was_sent_kills,
    two_threads_that_crash_at_once_do_not_hang,
    many_crashes_are_all_reported,
];

#[inline(never)]
fn abort_here() {
    abort()
}

fn a_segfault_three_functions_deep_is_shown() -> Outcome {
    let error = died_of(|| first_level(16), Signal::SIGSEGV)?;
    assert_calls(&error, &["dereference", "third_level", "second_level", "first_level"]);
    assert_eq!(error.backtrace().unwrap().fault_address(), Some(16));
    assert!(format!("{error:#}").contains("third_level") && !error.to_string().contains('\n'));
    assert!(format!("{error:#?}").contains("third_level") && !format!("{error:?}").contains('\n'));
    Ok(())
}

fn an_abort_is_shown() -> Outcome {
    let error = died_of(abort_here, Signal::SIGABRT)?;
    assert_calls(&error, &["abort_here"]);
    assert_eq!(error.backtrace().unwrap().fault_address(), None);
    Ok(())
}

fn a_bus_error_is_shown() -> Outcome {
    let error = died_of(read_behind_a_file, Signal::SIGBUS)?;
    assert_calls(&error, &["dereference", "read_behind_a_file"]);
    let address = error.backtrace().unwrap().fault_address().unwrap();
    assert!(address > 0 && address.is_multiple_of(4096), "{address:#x}");
    Ok(())
}

fn an_illegal_instruction_is_shown() -> Outcome {
    let error = died_of(execute_an_illegal_instruction, Signal::SIGILL)?;
    assert_is_at_its_first_frame(&error, "execute_an_illegal_instruction");
    Ok(())
}

#[cfg(target_arch = "x86_64")]
fn a_division_by_zero_is_shown() -> Outcome {
    let error = died_of(|| divide_by_zero(7), Signal::SIGFPE)?;
    assert_is_at_its_first_frame(&error, "divide_by_zero");
    Ok(())
}

/// The address of these faults is that of the instruction.
fn assert_is_at_its_first_frame(error: &Error, function: &str) {
    assert_calls(error, &[function]);
    let backtrace = error.backtrace().unwrap();
    assert_eq!(backtrace.fault_address(), Some(backtrace.frames()[0].address()), "{backtrace}");
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
        assert_eq!(error.backtrace().and_then(|backtrace| Backtrace::fault_address(&backtrace)), None);
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

fn many_crashes_are_all_reported() -> Outcome {
    let pool = Pool::new(2)?;
    let crash =
        |number: usize| -> u8 { if number.is_multiple_of(2) { first_level(number) } else { abort() } };
    for (index, result) in pool.map_results(crash, 0..16)?.into_iter().enumerate() {
        let error = result.unwrap_err();
        let signal = if index.is_multiple_of(2) { 11 } else { 6 };
        assert_eq!(error.signal(), Some(signal), "{error}");
        // To read the debug information takes longer than to crash.
        if index < 2 {
            let backtrace = error.backtrace().unwrap();
            assert_eq!(backtrace.fault_address(), (signal == 11).then_some(index as u64), "{backtrace}");
        }
    }
    Ok(())
}

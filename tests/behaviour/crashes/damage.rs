//! Where the stack is damaged, or the code is not there, an error still has the address and the instruction.

use multiproc::{Connection, Process, pipe};
use nix::sys::signal::Signal;
use tests::crashes::{call_a_null_function, read_with_stack, reading_instruction};

use super::died_of;
use crate::support::{Outcome, TEST_TIMEOUT, trials};

trials![
    a_stack_that_is_not_mapped_keeps_address_and_instruction,
    a_stack_that_is_overwritten_keeps_address_and_instruction,
    a_call_of_a_null_function_shows_its_caller,
];

/// Bytes that are no return addresses.
static OVERWRITTEN: [u8; 32 * 1024] = [0x41; 32 * 1024];

/// Tells where it will crash.
type Place = Connection<usize, ()>;

fn a_stack_that_is_not_mapped_keeps_address_and_instruction() -> Outcome {
    // Far from the address that is read: a fault near the stack pointer is an overflow.
    let crash = |place: Place| {
        place.send(reading_instruction()).unwrap();
        read_with_stack(0x20_0000, 24);
    };
    let (place, theirs) = pipe()?;
    assert_is_at(Process::spawn(crash, (theirs,))?, &place)
}

fn a_stack_that_is_overwritten_keeps_address_and_instruction() -> Outcome {
    let crash = |place: Place| {
        place.send(reading_instruction()).unwrap();
        read_with_stack(OVERWRITTEN.as_ptr().expose_provenance(), 24);
    };
    let (place, theirs) = pipe()?;
    assert_is_at(Process::spawn(crash, (theirs,))?, &place)
}

/// The child has read address 24 by the instruction that it has told.
fn assert_is_at(mut child: Process<()>, place: &Connection<(), usize>) -> Outcome {
    assert!(place.poll(TEST_TIMEOUT)?, "the child did not begin");
    let instruction = place.recv()? as u64;
    let error = child.join_timeout(TEST_TIMEOUT).unwrap_err();
    assert_eq!(error.signal(), Some(Signal::SIGSEGV as i32), "{error}");
    let backtrace = error.backtrace().unwrap();
    assert_eq!(backtrace.fault_address(), Some(24), "{backtrace}");
    assert_eq!(backtrace.frames()[0].address(), instruction, "{backtrace}");
    Ok(())
}

fn a_call_of_a_null_function_shows_its_caller() -> Outcome {
    let error = died_of(call_a_null_function, Signal::SIGSEGV)?;
    let backtrace = error.backtrace().unwrap();
    assert_eq!(backtrace.fault_address(), Some(0), "{backtrace}");
    let [callee, caller, ..] = backtrace.frames() else { panic!("{backtrace}") };
    assert_eq!(callee.address(), 0, "{backtrace}");
    assert!(caller.function().is_some_and(|name| name.contains("call_a_null_function")), "{backtrace}");
    Ok(())
}

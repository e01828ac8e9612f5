//! An error shows the file and the line that crashed, by each start method. The fixture program checks that,
//! since `.ci/run` runs its release build, too.

use std::process::Command;

use crate::support::{Outcome, trials};

trials![
    a_segfault_three_functions_deep_has_its_lines,
    an_abort_in_a_c_function_has_its_line,
    a_stack_overflow_has_its_line,
    a_panic_has_its_line_under_the_rules_of_the_environment,
];

fn assert_holds(case: &str) -> Outcome {
    let output = Command::new(env!("CARGO_BIN_EXE_crash_lines")).arg(case).output()?;
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(text, format!("{case}: the line is shown\n"), "{errors}");
    Ok(())
}

fn a_segfault_three_functions_deep_has_its_lines() -> Outcome {
    assert_holds("segfault")
}

fn an_abort_in_a_c_function_has_its_line() -> Outcome {
    assert_holds("abort")
}

fn a_stack_overflow_has_its_line() -> Outcome {
    assert_holds("overflow")
}

fn a_panic_has_its_line_under_the_rules_of_the_environment() -> Outcome {
    assert_holds("panic")
}

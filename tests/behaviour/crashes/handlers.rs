//! What the program does on a signal stays: its handlers go first, and what it ignores is ignored. The fixture
//! program sets them before `init`, and runs its task by each start method.

use std::process::Command;

use crate::support::{Outcome, trials};

trials![
    a_handler_that_repairs_the_fault_has_the_task_go_on,
    a_fault_that_was_repaired_is_no_part_of_a_later_death,
    a_fault_that_was_repaired_keeps_no_join_waiting,
    a_handler_that_repairs_many_faults_has_the_task_go_on,
    a_death_after_many_repaired_faults_is_reported,
    a_handler_of_three_parameters_gets_the_address,
    a_handler_that_takes_the_default_is_followed_by_a_report,
    what_is_ignored_stays_ignored,
];

/// What becomes of the task by each start method.
fn results(case: &str) -> Outcome<[String; 2]> {
    let output = Command::new(env!("CARGO_BIN_EXE_signal_handlers")).arg(case).output()?;
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let lines: Vec<_> = text.lines().map(str::to_owned).collect();
    Ok(lines.try_into().unwrap_or_else(|lines| panic!("{lines:?}: {errors}")))
}

fn a_handler_that_repairs_the_fault_has_the_task_go_on() -> Outcome {
    assert_eq!(results("repair")?, ["returned 2", "returned 2"]);
    Ok(())
}

fn a_fault_that_was_repaired_is_no_part_of_a_later_death() -> Outcome {
    for error in results("repair and die")? {
        assert!(error.ends_with("was killed by SIGKILL before its function returned"), "{error}");
    }
    Ok(())
}

/// A child that is executed runs its exit handlers, which take too long.
fn a_fault_that_was_repaired_keeps_no_join_waiting() -> Outcome {
    assert_eq!(results("repair and stay")?, ["returned 2", "returned 2"]);
    Ok(())
}

/// Each of these is reported before the handler runs, since after an overflow of the stack no report can be sent.
fn a_handler_that_repairs_many_faults_has_the_task_go_on() -> Outcome {
    assert_eq!(results("repair the stack")?, ["returned 200", "returned 200"]);
    Ok(())
}

fn a_death_after_many_repaired_faults_is_reported() -> Outcome {
    for error in results("repair the stack and die")? {
        assert!(error.contains("was killed by SIGABRT") && error.contains("repair_tell_and_die"), "{error}");
    }
    Ok(())
}

fn a_handler_of_three_parameters_gets_the_address() -> Outcome {
    assert_eq!(results("repair by information")?, ["returned 2", "returned 2"]);
    Ok(())
}

fn a_handler_that_takes_the_default_is_followed_by_a_report() -> Outcome {
    for error in results("default")? {
        assert!(error.contains("was killed by SIGSEGV"), "{error}");
        let report = error.split_once("SIGSEGV at address 0x10").unwrap_or_else(|| panic!("{error}")).1;
        let places = ["dereference", "third_level", "first_level"].map(|name| report.find(name));
        assert!(places[0].is_some() && places.is_sorted(), "{error}");
    }
    Ok(())
}

fn what_is_ignored_stays_ignored() -> Outcome {
    assert_eq!(results("ignore")?, ["returned 5", "returned 5"]);
    Ok(())
}

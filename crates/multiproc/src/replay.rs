//! Runs a recorded task in the program's first process, where a debugger sees it.

use std::env;
use std::path::Path;
use std::process::exit;

use crate::error::{Error, Result};
use crate::pool::item_loop::ItemLoop;
use crate::pool::state::take_preloaded_state;
use crate::record::{Runner, TaskRecord};
use crate::spawn::run_task::{call_start_functions, failure_code, freeze_start_functions};
use crate::sys::environment;
use crate::sys::privileges::is_secure;
use crate::sys::stdio::print_error;
use crate::task::RunOnce;
use crate::task::initializer::Initializer;

const VARIABLE: &str = "MULTIPROC_REPLAY";

/// The exit code of a program that refuses a record.
const REFUSED: i32 = 2;

/// Runs the task of the record that the environment names, and exits; returns if it names none. A program that
/// has more privileges than its caller runs nothing that its caller names.
pub(crate) fn replay_if_wanted() {
    let Some(path) = env::var_os(VARIABLE).filter(|path| !path.is_empty() && !is_secure()) else { return };
    // A program that the task executes must not replay it.
    environment::remove_if_single_threaded(VARIABLE);
    let path = Path::new(&path);
    let record = TaskRecord::read(path).and_then(|record| {
        let missing = |why| Error::invalid(format!("the arguments are not recorded: {why}"));
        let arguments = record.arguments.clone().map_err(missing)?;
        Ok((record, arguments))
    });
    match record {
        Ok((record, arguments)) => exit(replay(&record, &arguments, path)),
        Err(why) => {
            say(&format!("cannot replay {}: {why}", path.display()));
            exit(REFUSED)
        }
    }
}

/// Runs the task; returns the exit code.
fn replay(record: &TaskRecord, arguments: &[u8], path: &Path) -> i32 {
    say(&format!("{} was recorded with this error:\n{:#}", path.display(), record.error));
    if let Err(error) = set_up(record) {
        say(&format!("what runs before the task has failed: {error}"));
        return failure_code(&error);
    }
    say(&format!("runs {}", record.function));
    match run(record, arguments) {
        Ok(()) => {
            say("the task has returned");
            0
        }
        Err(error) => {
            say(&format!("the task has failed: {error}"));
            failure_code(&error)
        }
    }
}

/// Runs what a child runs first.
fn set_up(record: &TaskRecord) -> Result<()> {
    freeze_start_functions();
    call_start_functions()?;
    for (task, args) in &record.setup {
        Initializer { task: *task, args: args.clone(), descriptors: Vec::new(), makes_state: false }.run()?;
        take_preloaded_state();
    }
    Ok(())
}

fn run(record: &TaskRecord, arguments: &[u8]) -> Result<()> {
    let function = match record.runner {
        Runner::Process => record.task.find::<RunOnce>()?,
        Runner::Pool => record.task.find::<ItemLoop>()?.once,
    };
    function.run(arguments, Vec::new(), &mut Vec::new()).map(drop)
}

fn say(text: &str) {
    print_error(&format!("multiproc: {text}"));
}

//! What the tests run on the hosts.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use multiproc::TaskError;

/// Longer than any test.
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

pub(crate) fn square(number: u64) -> u64 {
    number * number
}

pub(crate) fn divide(number: u32, divisor: u32) -> u32 {
    number / divisor
}

/// Takes a millisecond.
pub(crate) fn slow_square(number: u64) -> u64 {
    std::thread::sleep(Duration::from_millis(1));
    number * number
}

pub(crate) fn sleep(time: Duration) {
    std::thread::sleep(time);
}

/// Fails in the way that the number says.
pub(crate) fn fail(number: u64) -> Result<u64, TaskError> {
    match number {
        1 => panic!("one is not to be had"),
        2 => Err("two is an error".into()),
        3 => std::process::abort(),
        4 => std::process::exit(7),
        5 => {
            std::thread::sleep(HOUR);
            Ok(5)
        }
        other => Ok(other),
    }
}

/// As many bytes as are asked for, and what came with the question.
pub(crate) fn enlarge(bytes: Vec<u8>, count: usize) -> (usize, Vec<u8>) {
    (bytes.len(), vec![7; count])
}

/// Writes a file, and returns when another one is there, or the folder is gone: the pid of the agent.
pub(crate) fn begin_and_wait(folder: PathBuf) -> u32 {
    let agent = multiproc::parent().map_or(0, |parent| parent.pid());
    let _ = fs::write(folder.join(format!("begun-{agent}")), "");
    while folder.exists() && !folder.join("go").exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    agent
}

/// Writes a file with the worker's pid, and takes an hour.
pub(crate) fn hold(folder: PathBuf, _: Vec<u8>) {
    let _ = fs::write(folder.join(format!("begun-{}", std::process::id())), "");
    std::thread::sleep(HOUR);
}

/// Appends a line with the worker's pid to a file, and takes an hour.
pub(crate) fn note_and_hold(file: PathBuf) {
    let line = format!("{}\n", std::process::id());
    let file = fs::OpenOptions::new().create(true).append(true).open(file);
    let _ = file.and_then(|mut file| file.write_all(line.as_bytes()));
    std::thread::sleep(HOUR);
}

/// As [`begin_and_wait`], with that many bytes; another file says that it is done.
pub(crate) fn wait_and_enlarge(folder: PathBuf, count: usize) -> Vec<u8> {
    let bytes = vec![7; count];
    begin_and_wait(folder.clone());
    let _ = fs::write(folder.join("done"), "");
    bytes
}

/// With a folder, writes a file there and takes an hour.
pub(crate) fn begin_and_sleep_if_some(folder: Option<PathBuf>) {
    if let Some(folder) = folder {
        let _ = fs::write(folder.join("begun"), "");
        std::thread::sleep(HOUR);
    }
}

/// Says in the folder that it has begun; ends when it is cancelled, and says so there.
pub(crate) fn run_until_cancelled(folder: PathBuf) {
    let _ = fs::write(folder.join("begun"), "");
    while !multiproc::is_cancelled() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let _ = fs::write(folder.join("ended"), "");
}

//! A decoder that crashes on one file of a thousand; the recorded task runs again in the first process.

use std::env::{current_exe, temp_dir, var_os};
use std::fs::remove_dir_all;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Stdio, id};
use std::str::Bytes;

use multiproc::{Error, Pool};

/// The depth of nested brackets in a file, such as 2 in `[[][]]`.
fn decode(file: String) -> usize {
    depth(&mut file.bytes())
}

fn depth(bytes: &mut Bytes<'_>) -> usize {
    let mut deepest = 0;
    while bytes.next() == Some(b'[') {
        deepest = deepest.max(1 + depth(bytes));
    }
    deepest
}

fn file(number: usize) -> String {
    let depth = if number == 617 { 1_000_000 } else { number % 10 };
    "[".repeat(depth) + &"]".repeat(depth)
}

fn explain(error: &Error) -> Result<(), Box<dyn std::error::Error>> {
    println!("{error}");
    let backtrace = error.backtrace().ok_or("no backtrace")?;
    let is_ours = |name: &str| name.starts_with("x8_replay::");
    let ours = backtrace.frames().iter().find(|frame| frame.function().is_some_and(is_ours));
    let (file, line) = ours.and_then(|frame| frame.file().zip(frame.line())).ok_or("no debug information")?;
    println!("in {}, line {line}", file.display());

    let record = error.record().ok_or("no record")?;
    let mut replay = Command::new(current_exe()?);
    let end = replay.env("MULTIPROC_REPLAY", record).stderr(Stdio::null()).status()?;
    println!("its replay, in the first process of the program: signal {:?}", end.signal());
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    multiproc::init();

    let kept = var_os("MULTIPROC_RECORD").map(PathBuf::from);
    let directory = kept.clone().unwrap_or_else(|| temp_dir().join(format!("x8-replay-{}", id())));
    let pool = Pool::builder().workers(4).record(&directory).build()?;
    let results = pool.map_results(decode, (0..1000).map(file))?;
    println!("decoded: {} of {}", results.iter().flatten().count(), results.len());
    for error in results.iter().filter_map(|result| result.as_ref().err()) {
        explain(error)?;
    }
    if kept.is_none() {
        remove_dir_all(directory)?;
    }
    Ok(())
}

//! A program whose `init` comes after the threads of tokio's runtime, as under `#[tokio::main]`: children and
//! workers run their tasks, and a task that starts a runtime fails with tokio's message.

#![allow(clippy::unwrap_used, reason = "a test ends where something does not go as it should")]

use multiproc::{Pool, Process, Result};
use tokio::runtime::Runtime;

/// What `#[tokio::main]` makes of an `async fn main`.
fn main() {
    tests::watched("tokio_main", || Runtime::new().unwrap().block_on(async_main())).unwrap();
}

async fn async_main() -> Result<()> {
    multiproc::init();
    let pool = Pool::new(2)?;
    assert!(Process::spawn(was_executed, ())?.await?, "a process with threads was forked");
    assert!(pool.submit(was_executed, ())?.await?, "a process with threads was forked");

    let error = pool.submit(start_runtime, ())?.await.unwrap_err();
    assert!(error.to_string().contains("Cannot start a runtime from within a runtime"), "{error}");
    assert_eq!(pool.submit(u64::pow, (2, 10))?.await?, 1024);
    Ok(())
}

fn was_executed() -> bool {
    tests::was_executed(std::process::id())
}

fn start_runtime() -> u32 {
    Runtime::new().unwrap().block_on(async { 1 })
}

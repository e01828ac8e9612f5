//! A program whose `init` comes after tokio's runtime, as under `#[tokio::main]`, in both flavours: children and
//! workers run their tasks. If the runtime has threads, a task that starts one of its own fails with tokio's
//! message, and a pool with a preloaded state is an error.

#![allow(clippy::unwrap_used, reason = "a test ends where something does not go as it should")]

use std::env;
use std::process::Command;

use multiproc::{Pool, Process, Result, StartMethod};
use tokio::runtime::{Builder, Runtime};

/// Names the flavour, for this program and its children.
const FLAVOR: &str = "TESTS_TOKIO_FLAVOR";

/// What `#[tokio::main]` makes of an `async fn main`.
fn main() {
    match env::var(FLAVOR).as_deref() {
        Ok("multi_thread") => run(&Runtime::new().unwrap(), true),
        Ok(_) => run(&Builder::new_current_thread().build().unwrap(), false),
        Err(_) => tests::watched("tokio_main", || {
            for flavor in ["multi_thread", "current_thread"] {
                let program = env::current_exe().unwrap();
                assert!(Command::new(program).env(FLAVOR, flavor).status().unwrap().success(), "{flavor}");
            }
        }),
    }
}

fn run(runtime: &Runtime, has_threads: bool) {
    runtime.block_on(async_main(has_threads)).unwrap();
}

async fn async_main(has_threads: bool) -> Result<()> {
    multiproc::init();
    let pool = Pool::new(2)?;
    let is_executed = has_threads || env::var("MULTIPROC_START_METHOD").is_ok_and(|method| method == "spawn");
    assert_eq!(Process::spawn(was_executed, ())?.await?, is_executed, "a process with threads is not forked");
    assert_eq!(pool.submit(was_executed, ())?.await?, is_executed, "a process with threads is not forked");

    let started = pool.submit(start_runtime, ())?.await;
    if is_executed {
        let error = started.unwrap_err();
        assert!(error.to_string().contains("Cannot start a runtime from within a runtime"), "{error}");
    } else {
        assert_eq!(started?, 1);
    }
    assert_eq!(pool.submit(u64::pow, (2, 10))?.await?, 1024);
    check_preload(has_threads).await
}

/// A fork has no thread of the runtime, so a state is not preloaded where the runtime has begun.
async fn check_preload(has_threads: bool) -> Result<()> {
    let builder = Pool::builder().workers(1).start_method(StartMethod::ForkServer);
    let preloaded = builder.preload(|| 7_u64, ()).build();
    if has_threads {
        let error = preloaded.unwrap_err();
        assert!(error.is_start(), "{error}");
        assert!(error.to_string().contains("`main` has started one before `init`"), "{error}");
    } else {
        assert_eq!(preloaded?.submit(|state: &mut u64| *state, ())?.await?, 7);
    }
    Ok(())
}

fn was_executed() -> bool {
    tests::was_executed(std::process::id())
}

fn start_runtime() -> u32 {
    Runtime::new().unwrap().block_on(async { 1 })
}

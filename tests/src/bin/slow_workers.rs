//! A program whose workers are late: before one is ready, it stops itself, or its parent.

#![allow(clippy::unwrap_used, reason = "a fixture ends where something does not go as it should")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, process, thread};

use multiproc::{Pool, Process, at_start};
use nix::sys::signal::{Signal, kill, raise};
use nix::unistd::getppid;

fn main() {
    at_start(stop_somebody).unwrap();
    multiproc::init();
    tests::watched("slow_workers", || {
        let file = env::temp_dir().join(format!("multiproc-slow-workers-{}", process::id()));
        match env::args().nth(1).as_deref() {
            Some("worker") => println!("{:?}", with_a_stopped_worker(&file)),
            _ => println!("{}", Process::spawn(while_stopped, (file.clone(),)).unwrap().join().unwrap()),
        }
        fs::remove_file(file).unwrap();
    });
}

fn stop_somebody() {
    let [worker, parent] = ["STOP_FIRST_WORKER", "STOP_PARENT"].map(env::var_os);
    if worker.is_some_and(|file| File::create_new(file).is_ok()) {
        raise(Signal::SIGSTOP).unwrap();
    }
    if let Some(file) = parent {
        wait_until(|| Path::new(&file).exists());
        kill(getppid(), Signal::SIGSTOP).unwrap();
        wait_until(|| fs::read_to_string(format!("/proc/{}/stat", getppid())).unwrap().contains(") T "));
    }
}

fn wait_until(is_so: impl Fn() -> bool) {
    while !is_so() {
        thread::sleep(Duration::from_millis(1));
    }
}

/// The first of two workers stops before it is ready.
fn with_a_stopped_worker(file: &Path) -> Vec<u32> {
    let pool = Pool::builder().workers(2).env("STOP_FIRST_WORKER", file).build().unwrap();
    let tasks: Vec<_> = (1..4).map(|number| pool.submit(square, (number,)).unwrap()).collect();
    tasks.into_iter().map(|task| task.get().unwrap()).collect()
}

fn square(number: u32) -> u32 {
    number * number
}

/// The only worker stops this process before it is ready, once this process has submitted a task to it. The
/// task lets it go on.
fn while_stopped(file: PathBuf) -> bool {
    let pool = Pool::builder().workers(1).env("STOP_PARENT", &file).build().unwrap();
    let task = pool.submit(|| kill(getppid(), Signal::SIGCONT).is_ok(), ()).unwrap();
    File::create(file).unwrap();
    task.get().unwrap()
}

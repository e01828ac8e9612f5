//! A program whose workers are late: before one is ready, it stops itself, or its parent.

#![allow(clippy::unwrap_used, reason = "a fixture ends where something does not go as it should")]

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, process, thread};

use multiproc::{Pool, Process, RemoteFn, at_start};
use nix::sys::signal::{Signal, kill, raise};
use nix::unistd::getppid;

fn main() {
    at_start(stop_first_worker_or_parent).unwrap();
    multiproc::init();
    tests::watched("slow_workers", || {
        let folder = env::temp_dir().join(format!("multiproc-slow-workers-{}", process::id()));
        fs::create_dir(&folder).unwrap();
        match env::args().nth(1).as_deref() {
            Some("worker") => println!("{:?}", with_a_stopped_worker(&folder)),
            Some("cancel") => println!("{}", in_a_child(cancels, &folder)),
            _ => println!("{}", in_a_child(while_stopped, &folder)),
        }
        fs::remove_dir_all(folder).unwrap();
    });
}

fn stop_first_worker_or_parent() {
    let [worker, parent] = ["STOP_FIRST_WORKER", "STOP_PARENT"].map(env::var_os);
    if worker.is_some_and(|folder| is_first(&folder)) {
        raise(Signal::SIGSTOP).unwrap();
    }
    if let Some(folder) = parent.filter(is_first) {
        wait_until(|| Path::new(&folder).join("submitted").exists());
        kill(getppid(), Signal::SIGSTOP).unwrap();
        wait_until(|| fs::read_to_string(format!("/proc/{}/stat", getppid())).unwrap().contains(") T "));
    }
}

/// Whether this is the first process that asks.
fn is_first(folder: &OsString) -> bool {
    File::create_new(Path::new(folder).join("first")).is_ok()
}

fn wait_until(is_so: impl Fn() -> bool) {
    while !is_so() {
        thread::sleep(Duration::from_millis(1));
    }
}

/// The first of two workers stops before it is ready.
fn with_a_stopped_worker(folder: &Path) -> Vec<u32> {
    let pool = Pool::builder().workers(2).env("STOP_FIRST_WORKER", folder).build().unwrap();
    let tasks: Vec<_> = (1..4).map(|number| pool.submit(square, (number,)).unwrap()).collect();
    tasks.into_iter().map(|task| task.get().unwrap()).collect()
}

fn square(number: u32) -> u32 {
    number * number
}

/// Runs what is stopped in the middle.
fn in_a_child<F: RemoteFn<(PathBuf,), Output = bool>>(act: F, folder: &Path) -> bool {
    Process::spawn(act, (folder.to_owned(),)).unwrap().join().unwrap()
}

/// The only worker stops this process before it is ready, once this process has submitted a task to it. The
/// task lets it go on.
fn while_stopped(folder: PathBuf) -> bool {
    let pool = Pool::builder().workers(1).env("STOP_PARENT", &folder).build().unwrap();
    let task = pool.submit(|| kill(getppid(), Signal::SIGCONT).is_ok(), ()).unwrap();
    File::create(folder.join("submitted")).unwrap();
    task.get().unwrap()
}

/// The worker stops this process, and runs its first and only task. This process cancels that as soon as it
/// goes on.
fn cancels(folder: PathBuf) -> bool {
    let builder = Pool::builder().workers(1).max_tasks_per_worker(1);
    let pool = builder.env("STOP_PARENT", &folder).build().unwrap();
    let goes_on = folder.join("goes-on");
    let first = pool
        .submit(
            |file: PathBuf| let_parent_go_on_later(&format!("touch {};", file.display())),
            (goes_on.clone(),),
        )
        .unwrap();
    let second = pool.submit(|| let_parent_go_on_later(""), ()).unwrap();
    File::create(folder.join("submitted")).unwrap();
    while !goes_on.exists() {}
    first.cancel();
    second.get().is_ok()
}

/// Not before this process has returned from its task.
fn let_parent_go_on_later(first: &str) {
    let command = format!("(sleep 0.1; {first} kill -CONT {}) &", getppid());
    process::Command::new("sh").args(["-c", &command]).status().unwrap();
}

//! A program that Ctrl-C interrupts in the operation that its first argument names.
//!
//! It prints `begun` when there is something to interrupt, and `done` at the end, should it come to that.

#![allow(clippy::unwrap_used, reason = "a fixture ends where something does not go as it should")]

use std::thread::sleep;
use std::time::{Duration, Instant};

use multiproc::pool::{RetryPolicy, is_cancelled};
use multiproc::queue::{Sender, bounded};
use multiproc::{Connection, Pool, Process, pipe};
use nix::sys::signal::{SaFlags, Signal};

/// Much longer than the test takes; bounded, should the test fail.
const STAY: Duration = Duration::from_secs(50);

/// Much longer than what it limits takes, and shorter than the test stops the program.
const LIMIT: Duration = Duration::from_secs(6);

fn rest(begun: Sender<()>) {
    begun.send(()).unwrap();
    sleep(STAY);
}

fn slow_square(number: u64) -> u64 {
    sleep(Duration::from_millis(2));
    number * number
}

/// The variable that makes a child's start slow.
const SLOW_START: &str = "SLOW_START";

fn main() {
    if std::env::var_os(SLOW_START).is_some() {
        println!("begun");
        work_for_a_second();
    }
    multiproc::init();
    let what = std::env::args().nth(1).unwrap();
    tests::watched("interrupted", || match &what[..] {
        "map" => map(),
        "join" => join(),
        "receive" => receive(),
        "start" => start(),
        "finish" => finish(),
        "twice" => twice(),
        "limited" => limited(),
        "grace" => grace(),
        "initializer" => initializer(),
        "shutdown" => shutdown(),
        "slow start" => slow_start(),
        "backoff" => backoff(),
        "idle" => idle(),
        other => panic!("{other}?"),
    });
    println!("done");
}

fn map() {
    let (sender, receiver) = bounded(3).unwrap();
    let pool = Pool::new(3).unwrap();
    let tasks: Vec<_> = (0..3).map(|_| pool.submit(rest, (sender.clone(),)).unwrap()).collect();
    (0..3).for_each(|_| receiver.recv().unwrap());
    println!("begun");
    for task in tasks {
        task.get().unwrap();
    }
}

fn join() {
    let (sender, receiver) = bounded(1).unwrap();
    let child = Process::spawn(rest, (sender,)).unwrap();
    receiver.recv().unwrap();
    println!("begun");
    child.join().unwrap();
}

/// A child and its parent wait for each other.
fn receive() {
    let (ours, theirs) = pipe::<(), ()>().unwrap();
    let wait = |end: Connection<(), ()>| {
        end.send(()).unwrap();
        end.recv().unwrap();
    };
    let _child = Process::spawn(wait, (theirs,)).unwrap();
    ours.recv().unwrap();
    println!("begun");
    let (_sender, receiver) = bounded::<()>(1).unwrap();
    receiver.recv().unwrap();
}

fn start() {
    println!("begun");
    loop {
        Process::spawn(|| (), ()).unwrap().join().unwrap();
    }
}

/// Takes SIGINT itself, and does all of its work.
fn finish() {
    tests::accept_interruptions_by(Signal::SIGINT, SaFlags::empty());
    println!("begun");
    while tests::interruptions() == 0 {
        sleep(Duration::from_millis(1));
    }
    let pool = Pool::new(3).unwrap();
    let squares: Vec<u64> = (0..300).map(|number| number * number).collect();
    assert_eq!(pool.map(slow_square, 0..300).unwrap(), squares);
    for number in 0..20 {
        let (sender, receiver) = bounded(1).unwrap();
        let send = |sender: Sender<u64>, number| sender.send(slow_square(number)).unwrap();
        let child = Process::spawn(send, (sender, number)).unwrap();
        assert_eq!(receiver.recv().unwrap(), number * number);
        child.join().unwrap();
    }
}

/// Runs an item that takes much less time than it may.
fn limited() {
    fn work(begun: Sender<()>) {
        begun.send(()).unwrap();
        (0..80).for_each(|_| sleep(Duration::from_millis(5)));
    }
    let (sender, receiver) = bounded(1).unwrap();
    let pool = Pool::new(2).unwrap();
    let task = pool.options().timeout(Duration::from_secs(3)).submit(work, (sender,)).unwrap();
    receiver.recv().unwrap();
    println!("begun");
    task.get().unwrap();
}

/// Needs a second in which a stop does not count. (A busy machine delays each wake-up, so there are few.)
fn work_for_a_second() {
    (0..20).for_each(|_| sleep(Duration::from_millis(50)));
}

/// Cancels an item whose cleanup takes much less time than it may.
fn grace() {
    fn work(events: Sender<()>) {
        events.send(()).unwrap();
        while !is_cancelled() {
            sleep(Duration::from_millis(1));
        }
        events.send(()).unwrap();
        work_for_a_second();
        events.send(()).unwrap();
    }
    let (sender, receiver) = bounded(3).unwrap();
    let pool = Pool::new(2).unwrap();
    let task = pool.options().grace(LIMIT).submit(work, (sender,)).unwrap();
    receiver.recv().unwrap();
    task.cancel();
    receiver.recv().unwrap();
    println!("begun");
    receiver.recv().unwrap(); // the cleanup has ended
}

/// Starts workers whose initializer takes much less time than it may.
fn initializer() {
    fn prepare(begun: Sender<()>) {
        begun.send(()).unwrap();
        work_for_a_second();
    }
    let (sender, receiver) = bounded(1).unwrap();
    let pool = Pool::builder().workers(1).initializer(prepare, (sender,)).initializer_timeout(LIMIT);
    let pool = pool.build().unwrap();
    receiver.recv().unwrap();
    println!("begun");
    pool.apply(|| (), ()).unwrap();
}

/// Drops a pool whose task takes much less time than it may.
fn shutdown() {
    fn work(events: Sender<()>) {
        events.send(()).unwrap();
        work_for_a_second();
        events.send(()).unwrap();
    }
    let (sender, receiver) = bounded(2).unwrap();
    let pool = Pool::builder().workers(1).shutdown_timeout(LIMIT).build().unwrap();
    let _task = pool.submit(work, (sender,)).unwrap();
    receiver.recv().unwrap();
    println!("begun");
    drop(pool);
    receiver.recv().unwrap(); // the task has ended
}

/// Starts a child that reaches `init` much sooner than it must.
fn slow_start() {
    let child = Process::builder().env(SLOW_START, "1").start_timeout(LIMIT).spawn(|| (), ()).unwrap();
    child.join().unwrap();
}

/// Runs until `is_done`. Then most of the limit must have passed while the program ran: without its longest stop.
fn runs_for_the_limit(is_done: impl Fn() -> bool) {
    println!("begun");
    let begun = Instant::now();
    let (mut latest, mut stopped) = (begun, Duration::ZERO);
    while !is_done() {
        sleep(Duration::from_millis(5));
        stopped = stopped.max(latest.elapsed());
        latest = Instant::now();
    }
    let ran = begun.elapsed().saturating_sub(stopped);
    assert!(ran > LIMIT / 2, "{ran:?}");
}

fn die() {
    std::process::abort();
}

/// A task dies, and runs again after a pause.
fn backoff() {
    let pool = Pool::new(1).unwrap();
    let retry = RetryPolicy::new(1).backoff(LIMIT, LIMIT);
    let task = pool.options().retry(retry).submit(die, ()).unwrap();
    while pool.stats().total().tasks_retried == 0 {
        sleep(Duration::from_millis(1));
    }
    runs_for_the_limit(|| task.is_ready());
}

/// A worker has nothing to do.
fn idle() {
    let pool = Pool::builder().workers(1).idle_timeout(LIMIT).build().unwrap();
    pool.apply(|| (), ()).unwrap();
    runs_for_the_limit(|| pool.worker_pids().is_empty());
}

/// Ends its work in good order at the first interruption, and at once at the second.
fn twice() {
    tests::accept_interruptions_by(Signal::SIGINT, SaFlags::SA_RESETHAND);
    let pool = Pool::new(2).unwrap();
    println!("begun");
    let mut results = pool.imap(slow_square, 0..);
    while tests::interruptions() == 0 {
        results.next().unwrap().unwrap();
    }
    println!("once");
    results.for_each(|result| assert!(result.is_ok()));
}

//! A program for the tests of `MULTIPROC_TRACE`. Its argument says what it does.

#![allow(clippy::unwrap_used, reason = "a fixture ends where something does not go as it should")]

use std::env;
use std::fs;
use std::path::Path;
use std::process::{Command, id};
use std::sync::Barrier;
use std::thread::{scope, sleep};
use std::time::Duration;

use multiproc::queue::{Receiver, Sender, bounded};
use multiproc::{Pool, Process, StartMethod};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn main() {
    // A file for each process that comes here: the fork server is one of them.
    if let Some(folder) = env::var_os("TRACED_BEFORE_INIT") {
        multiproc::start_trace(Path::new(&folder).join(id().to_string())).unwrap();
    }
    multiproc::init();
    let case = env::args().nth(1).unwrap();
    tests::watched("traced", || match &*case {
        "work" => work(),
        "deaths" => deaths(),
        "endless" => endless(),
        "many tasks" => many_tasks(),
        "nested" => nested(),
        "orphan" => orphan(),
        "program" => program(),
        "states" => states(),
        "twice" => twice(),
        "waits" => waits(),
        other => panic!("no such case: {other}"),
    });
}

fn pause(milliseconds: u64) {
    sleep(Duration::from_millis(milliseconds));
}

fn begin_and_pause(begun: Sender<()>) {
    begun.send(()).unwrap();
    pause(60_000);
}

fn add_one(number: u64) -> u64 {
    number + 1
}

fn double(text: String) -> String {
    text.repeat(2)
}

fn receive(receiver: Receiver<u32>, begun: Sender<()>) -> u32 {
    begun.send(()).unwrap();
    receiver.into_iter().map(Result::unwrap).sum()
}

fn wait_until_asleep(pid: u32) {
    while !is_asleep(pid) {
        pause(1);
    }
}

fn is_asleep(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit(") ").next().is_some_and(|fields| fields.starts_with('S'))
}

/// Items of all kinds: small numbers, text, large ones, ones with a time limit; a queue that is waited for.
fn work() {
    let pool = Pool::builder().workers(2).initializer(|| pause(1), ()).build().unwrap();
    assert_eq!(pool.map(add_one, 0..20_000).unwrap().len(), 20_000);
    assert_eq!(pool.map(double, ["a".to_owned(), "b".repeat(100_000)]).unwrap()[0], "aa");
    pool.map(pause, [2; 6]).unwrap();
    pool.options().timeout(Duration::from_secs(30)).map(pause, [1; 4]).unwrap();
    pool.join();
    let (sender, receiver) = bounded(4).unwrap();
    let (begin, begun) = bounded(1).unwrap();
    let child = Process::builder().name("\"Anna\" \\\n\u{1} ü").spawn(receive, (receiver, begin)).unwrap();
    begun.recv().unwrap();
    wait_until_asleep(child.pid());
    pause(3);
    sender.send(7).unwrap();
    drop(sender);
    assert_eq!(child.join().unwrap(), 7);
}

fn die_at_two(number: u32) {
    if number == 2 {
        pause(3);
        kill(Pid::this(), Signal::SIGKILL).unwrap();
    }
}

fn die() {
    pause(3);
    kill(Pid::this(), Signal::SIGKILL).unwrap();
}

/// A worker dies, is replaced, takes too long, and is killed for a task that is cancelled; a child dies.
fn deaths() {
    let pool = Pool::builder().workers(1).name("mortals").build().unwrap();
    let results = pool.map_results(die_at_two, 0..5).unwrap();
    assert_eq!(results.iter().filter(|result| result.is_err()).count(), 1);
    assert!(
        pool.options().timeout(Duration::from_millis(20)).apply(pause, (60_000,)).unwrap_err().is_timeout()
    );
    let (begun, begins) = bounded(1).unwrap();
    let handle = pool.submit(begin_and_pause, (begun,)).unwrap();
    begins.recv().unwrap();
    assert!(handle.cancel());
    assert!(handle.get().unwrap_err().is_cancelled());
    pool.apply(add_one, (1,)).unwrap();
    pool.join();
    assert_eq!(Process::spawn(die, ()).unwrap().join().unwrap_err().signal(), Some(9));
}

/// Runs until it is killed.
fn endless() {
    let pool = Pool::new(2).unwrap();
    pool.imap(pause, std::iter::repeat(1)).for_each(|result| result.unwrap());
}

/// Says when 2000 tasks are done, more than a buffer has room for.
fn many_tasks() {
    let pool = Pool::new(1).unwrap();
    (0..2000).for_each(|number| assert_eq!(pool.apply(add_one, (number,)).unwrap(), number + 1));
    println!("done");
}

/// This program and its child execute it with the same environment.
fn nested() {
    execute_this();
    Process::spawn(execute_this, ()).unwrap().join().unwrap();
}

fn execute_this() {
    assert!(Command::new(env::current_exe().unwrap()).arg("work").status().unwrap().success());
}

/// A child dies, and so its own child does.
fn orphan() {
    let (begin, begun) = bounded(1).unwrap();
    assert!(Process::spawn(die_with_child, (begin,)).unwrap().join().is_err());
    let child: u32 = begun.recv().unwrap();
    while fs::read_to_string(format!("/proc/{child}/stat")).is_ok_and(|stat| !stat.contains(") Z ")) {
        pause(1);
    }
}

fn die_with_child(begin: Sender<u32>) {
    let _child = Process::spawn(stay, (begin,)).unwrap();
    pause(60_000);
}

/// Ends its parent.
fn stay(begin: Sender<u32>) {
    begin.send(id()).unwrap();
    kill(Pid::parent(), Signal::SIGKILL).unwrap();
    pause(60_000);
}

/// Begins its trace itself, in a file that its second argument names.
fn program() {
    let before = Process::spawn(pause, (1,)).unwrap();
    let file = env::args().nth(2).unwrap();
    multiproc::start_trace(&file).unwrap();
    assert!(multiproc::start_trace(&file).is_err(), "there is one already");
    before.join().unwrap();
    Process::builder().name("traced").spawn(pause, (1,)).unwrap().join().unwrap();
}

/// Two threads begin traces at once, in files that the second and the third argument name. One of them does.
fn twice() {
    let files = [2, 3].map(|number| env::args().nth(number).unwrap());
    let barrier = Barrier::new(2);
    let start = |file: &String| {
        barrier.wait();
        multiproc::start_trace(file).map_err(|error| error.to_string())
    };
    let [first, second] = scope(|scope| {
        files.each_ref().map(|file| scope.spawn(|| start(file))).map(|thread| thread.join().unwrap())
    });
    let (loser, file) = if first.is_ok() { (second, &files[1]) } else { (first, &files[0]) };
    assert!(loser.unwrap_err().contains("is being written already"));
    assert!(!fs::exists(file).unwrap(), "it has made its file");
    multiproc::start_trace(file).unwrap_err(); // the other one has begun
}

fn make_state(milliseconds: u64) -> u64 {
    pause(milliseconds);
    40
}

fn add_to_state(state: &mut u64, number: u64) -> u64 {
    *state + number
}

/// Workers make a state, or begin with a copy of one.
fn states() {
    let made = Pool::builder().workers(2).state(make_state, (2,)).build().unwrap();
    assert_eq!(made.apply(add_to_state, (2,)).unwrap(), 42);
    made.join();
    let builder = Pool::builder().workers(1).start_method(StartMethod::ForkServer);
    let preloaded = builder.preload(make_state, (2,)).build().unwrap();
    assert_eq!(preloaded.apply(add_to_state, (2,)).unwrap(), 42);
    preloaded.join();
}

fn send_three(sender: Sender<u32>, begun: Sender<()>) {
    begun.send(()).unwrap();
    (0..3).for_each(|number| sender.send(number).unwrap());
}

/// A child waits for room in a queue; a task that no worker has begun is cancelled.
fn waits() {
    let (sender, receiver) = bounded(1).unwrap();
    let (begin, begun) = bounded(1).unwrap();
    let child = Process::spawn(send_three, (sender, begin)).unwrap();
    begun.recv().unwrap();
    wait_until_asleep(child.pid());
    pause(3);
    assert_eq!(receiver.into_iter().map(Result::unwrap).sum::<u32>(), 3);
    child.join().unwrap();
    let pool = Pool::new(1).unwrap();
    let (sender, receiver) = bounded::<u32>(1).unwrap();
    let (begin, begun) = bounded(1).unwrap();
    let running = pool.submit(receive, (receiver, begin)).unwrap();
    begun.recv().unwrap();
    let behind = pool.submit(add_one, (1,)).unwrap();
    assert!(behind.cancel());
    assert!(behind.get().unwrap_err().is_cancelled());
    drop(sender);
    assert_eq!(running.get().unwrap(), 0);
    pool.join();
}

//! A program whose children cannot write out what they have printed: another thread holds a lock, or the pipe
//! is full. What each of them returns must come nevertheless. Its first argument says which case it is.

#![allow(clippy::unwrap_used, reason = "a fixture ends where something does not go as it should")]

use std::env;
use std::io::{Read, Write, stdin, stdout};
use std::sync::{Once, mpsc};
use std::thread;
use std::time::Duration;

use multiproc::{Pool, Process, RemoteFn};
use tests::{c_printf, hold_c_stdout, is_started_by_itself, read_empty_c_stream, watched};

/// Has a thread call this, the first time in each process; returns once the thread says that it has begun.
fn leave_behind(occupy: fn(mpsc::Sender<()>)) {
    static BEGUN: Once = Once::new();
    BEGUN.call_once(|| {
        let (begin, begun) = mpsc::channel();
        thread::spawn(move || occupy(begin));
        begun.recv().unwrap();
    });
}

fn hold_rusts_lock(number: u32) -> u32 {
    leave_behind(|begin| {
        let mut lock = stdout().lock();
        write!(lock, "unfinished").unwrap();
        begin.send(()).unwrap();
        thread::sleep(Duration::MAX);
    });
    number
}

fn hold_cs_lock(number: u32) -> u32 {
    leave_behind(|begin| {
        c_printf(c"unfinished");
        hold_c_stdout();
        begin.send(()).unwrap();
        thread::sleep(Duration::MAX);
    });
    number
}

fn read_a_c_stream(number: u32) -> u32 {
    leave_behind(|begin| read_empty_c_stream(|| begin.send(()).unwrap()));
    number
}

/// Each way to get a result of such a task.
fn get_results_of<F: RemoteFn<(u32,), Output = u32>>(task: F) {
    assert_eq!(Process::spawn(task, (4,)).unwrap().join().unwrap(), 4);
    let pool = Pool::new(1).unwrap();
    assert_eq!(pool.apply(task, (5,)).unwrap(), 5);
    assert_eq!(pool.submit(task, (6,)).unwrap().get().unwrap(), 6);
    let call = pool.options().timeout(Duration::from_secs(30));
    assert_eq!(call.apply(task, (7,)).unwrap(), 7);
    let pool = Pool::builder().workers(1).initializer(task, (0,)).build().unwrap();
    assert_eq!(pool.apply(|| 8, ()).unwrap(), 8);
}

fn print(number: u32) -> u32 {
    print!("[{number}]");
    number
}

fn print_by_c(number: u32) -> u32 {
    c_printf(c"[by C]");
    number
}

/// Standard output is a full pipe that no process reads. The worker has one thread, which so flushes without end.
fn print_within_a_time_limit() {
    let pool = Pool::new(1).unwrap();
    for _ in 0..2 {
        let result = pool.options().timeout(Duration::from_millis(100)).apply(print, (1,));
        assert!(result.as_ref().is_err_and(multiproc::Error::is_timeout), "{result:?}");
    }
}

/// Standard output is a full pipe, which is read once this program says so.
fn print_into_a_full_pipe() {
    let rust = Pool::builder().workers(1).initializer(print, (2,)).build().unwrap();
    assert_eq!(rust.apply(print, (3,)).unwrap(), 3);
    let c = Pool::new(1).unwrap();
    assert_eq!(c.submit(print_by_c, (4,)).unwrap().get().unwrap(), 4);
    let child = Process::spawn(print, (5,)).unwrap();
    let mut other = Process::spawn(print_by_c, (6,)).unwrap();
    assert_eq!(child.join().unwrap(), 5);
    assert_eq!(other.join_timeout(Duration::from_secs(30)).unwrap(), Some(6));
    eprintln!("all results are here");
    stdin().read_to_end(&mut Vec::new()).unwrap();
}

fn main() {
    let case = env::args().nth(1).unwrap();
    if case == "full" && is_started_by_itself() {
        print!("[before init]");
    }
    multiproc::init();
    watched(&case, || match &case[..] {
        "lock" => {
            get_results_of(hold_rusts_lock);
            // Later tasks do not wait at all, or this would take minutes.
            let pool = Pool::new(1).unwrap();
            let first = |number| if number == 0 { hold_rusts_lock(0) } else { number };
            assert!(pool.map(first, 0..1_000).unwrap().into_iter().eq(0..1_000));
        }
        "c-lock" => get_results_of(hold_cs_lock),
        "c-stream" => get_results_of(read_a_c_stream),
        "full" => print_into_a_full_pipe(),
        "time limit" => print_within_a_time_limit(),
        other => panic!("{other}"),
    });
}

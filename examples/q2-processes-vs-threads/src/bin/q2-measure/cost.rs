//! The cost of a process, compared with a thread.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use experiments::measure::{medians, micros, ratio, show, time};
use experiments::{Chart, Finding, memory::proportional};
use multiproc::{Connection, Pool, Process, pipe};
use serde_bytes::ByteBuf;

static TIMES: Chart = Chart {
    title: "What a process costs in time, beside a thread",
    quantity: "time",
    unit: "µs",
    along: "",
    logarithmic: true,
};

static MEMORY: Chart = Chart {
    title: "What a parked thread and an idle worker process occupy",
    quantity: "memory",
    unit: "KiB",
    along: "",
    logarithmic: true,
};

/// The same, done with a thread and with a process; how long each took.
fn compare(holds: bool, label: &'static str, thread: Duration, process: Duration) -> Finding {
    let figure =
        format!("thread {}, process {}: {:.1} ×", show(thread), show(process), ratio(process, thread));
    Finding::new(holds, figure).point(&TIMES, "thread", label, micros(thread)).point(
        &TIMES,
        "process",
        label,
        micros(process),
    )
}

pub(crate) fn start() -> Result<Finding> {
    let ways: [fn() -> Result<()>; 2] = [start_thread, start_process];
    let times = medians(50, &ways, |way| time(way))?;
    Ok(compare(times[1] > times[0], "start to end", times[0], times[1]))
}

fn start_thread() -> Result<()> {
    thread::spawn(|| ()).join().map_err(|_| anyhow!("the thread panicked"))
}

fn start_process() -> Result<()> {
    Ok(Process::spawn(|| (), ())?.join()?)
}

/// Sends a message and waits for the answer.
trait Echo {
    fn ask(&self, message: ByteBuf) -> Result<()>;
}

struct EchoThread(Sender<ByteBuf>, Receiver<usize>);

impl Echo for EchoThread {
    fn ask(&self, message: ByteBuf) -> Result<()> {
        self.0.send(message).ok().context("the thread is gone")?;
        self.1.recv().map(drop).context("the thread does not answer")
    }
}

impl Echo for Connection<ByteBuf, usize> {
    fn ask(&self, message: ByteBuf) -> Result<()> {
        self.send(message)?;
        self.recv().map(drop).context("the process does not answer")
    }
}

/// A thread that returns the length of each message. It ends when the last sender is gone.
fn echo_thread() -> EchoThread {
    let (ours, messages) = channel::<ByteBuf>();
    let (answers, theirs) = channel();
    thread::spawn(move || messages.into_iter().try_for_each(|message| answers.send(message.len())));
    EchoThread(ours, theirs)
}

/// A process that does the same.
fn echo_process(questions: Connection<usize, ByteBuf>) -> multiproc::Result<()> {
    for message in questions.iter() {
        let message = message?;
        questions.send(message.len())?;
    }
    Ok(())
}

pub(crate) fn round_trip() -> Result<Finding> {
    let (thread, process) = ask_both(8, 5, 200)?;
    // The ends of a pipe look for a moment before they sleep; those of a channel sleep at once.
    Ok(compare(process < 2 * thread, "message and answer", thread, process))
}

pub(crate) fn megabyte() -> Result<Finding> {
    let (thread, process) = ask_both(1 << 20, 5, 10)?;
    Ok(compare(process > thread, "1 MiB and answer", thread, process))
}

/// The time of one question and answer, of a thread and of a process: the median of `rounds` of `times` each.
fn ask_both(size: usize, rounds: usize, times: u32) -> Result<(Duration, Duration)> {
    let thread = echo_thread();
    let (process, theirs) = pipe::<ByteBuf, usize>()?;
    let child = Process::spawn(echo_process, (theirs,))?;
    process.ask(ByteBuf::new())?; // it has started now
    let both: [&dyn Echo; 2] = [&thread, &process];
    let medians = medians(rounds, &both, |echo| {
        let messages: Vec<_> = (0..times).map(|_| ByteBuf::from(vec![1; size])).collect();
        Ok(time(|| messages.into_iter().try_for_each(|message| echo.ask(message)))? / times)
    })?;
    drop(process);
    child.join()??;
    Ok((medians[0], medians[1]))
}

pub(crate) fn memory() -> Result<Finding> {
    let [thread, process] = [thread_memory()?, worker_memory()?].map(kib);
    let figure =
        format!("thread {thread:.0} KiB, process {process:.0} KiB: {:.0} ×", process / thread.max(1.0));
    Ok(Finding::new(process > thread, figure).point(&MEMORY, "thread", "one at rest", thread).point(
        &MEMORY,
        "process",
        "one at rest",
        process,
    ))
}

/// By how much this process grows with each thread.
fn thread_memory() -> Result<u64> {
    const THREADS: u32 = 64;
    let me = std::process::id();
    let before = proportional(me)?;
    let (parked, report) = channel();
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let parked = parked.clone();
            thread::spawn(move || parked.send(()).map(|()| thread::park()))
        })
        .collect();
    report.iter().take(threads.len()).for_each(drop);
    let after = proportional(me)?;
    for thread in threads {
        thread.thread().unpark();
    }
    Ok(after.saturating_sub(before) / u64::from(THREADS))
}

/// The average memory of a worker after its first tasks.
fn worker_memory() -> Result<u64> {
    let pool = Pool::new(4)?;
    pool.map(|nap: u64| thread::sleep(Duration::from_millis(nap)), [10; 8])?;
    let workers = pool.worker_pids();
    let sizes: Result<Vec<_>> = workers.iter().map(|worker| proportional(*worker)).collect();
    let all: u64 = sizes?.iter().sum();
    all.checked_div(workers.len().try_into()?).context("a pool without workers")
}

#[allow(clippy::cast_precision_loss)] // for a picture
fn kib(bytes: u64) -> f64 {
    bytes as f64 / 1024.0
}

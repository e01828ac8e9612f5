//! The six faults that `cargo xtask faults --peers` also inflicts on other libraries. Each is a separate run,
//! and prints what its caller saw.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::ValueEnum;
use faults::report::{self, Cube, ITEMS};
use multiproc::queue::{self, Receiver};
use multiproc::{Pool, Process, RemoteFn};
use procfs::process as procfs;

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Fault {
    /// One worker is killed in the middle of a map
    WorkerKilled,
    /// A task calls exit
    TaskExits,
    /// A result does not decode where it is received
    Undecodable,
    /// The parent is killed while its workers are busy
    ParentKilled,
    /// The process that holds a queue's lock is killed, and others wait for that
    LockHolderKilled,
    /// Each worker dies before it can do anything
    DeathAtStart,
}

pub(crate) fn run(fault: Fault) -> Result<bool> {
    match fault {
        Fault::WorkerKilled => in_a_map(report::killed)?,
        Fault::TaskExits => in_a_map(report::exits)?,
        Fault::Undecodable => in_a_map(report::undecodable)?,
        Fault::ParentKilled => parent_killed()?,
        Fault::LockHolderKilled => lock_holder_killed()?,
        Fault::DeathAtStart => death_at_start()?,
    }
    Ok(true)
}

fn in_a_map<F: RemoteFn<(u64,), Output = Cube>>(task: F) -> Result<()> {
    let pool = Pool::new(2)?;
    let results = pool.map_results(task, 0..ITEMS)?;
    report::report_outcome(report::summarize(&results)?)?;
    report::report_reusable(pool.map(report::cube, 0..ITEMS).is_ok());
    Ok(())
}

fn parent_killed() -> Result<()> {
    let pool = Pool::new(2)?;
    let _tasks = [pool.submit(report::busy, (0,))?, pool.submit(report::busy, (1,))?];
    report::wait_for_check_ins(2);
    report::kill_self()
}

/// A receiver that waits at an empty queue holds the lock of its side, and the next receiver waits for it.
fn lock_holder_killed() -> Result<()> {
    let (sender, receiver) = queue::bounded::<u64>(4)?;
    let take = |receiver: Receiver<u64>| {
        report::check_in();
        receiver.recv()
    };
    let holder = Process::spawn(take, (receiver.clone(),))?;
    await_sleep(&holder, 1)?;
    let next = Process::spawn(take, (receiver.clone(),))?;
    await_sleep(&next, 2)?;

    report::mark_fault();
    holder.kill()?;
    ensure!(holder.join().is_err(), "a killed process has returned something");
    sender.send(4)?;
    let saw = match next.join()? {
        Ok(4) => "the next in line has the lock, and receives what is sent".to_owned(),
        Ok(other) => anyhow::bail!("{other} was received, and 4 was sent"),
        Err(error) => format!("the next in line has an error: {error}"),
    };
    report::report_outcome(saw)?;
    sender.send(5)?;
    report::report_reusable(receiver.recv()? == 5);
    Ok(())
}

/// Waits until `present` processes have checked in, and this one, the latest, sleeps.
fn await_sleep<T>(process: &Process<T>, present: u64) -> Result<()> {
    report::wait_for_check_ins(present);
    while procfs::Process::new(process.pid().cast_signed())?.stat()?.state != 'S' {
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn death_at_start() -> Result<()> {
    report::mark_fault();
    let pool = Pool::builder().workers(2).initializer(report::die_at_start, ()).build()?;
    report::report_outcome(match pool.map_results(report::cube, 0..ITEMS) {
        Ok(results) => report::summarize(&results)?,
        Err(error) => format!("the map fails ({error})"),
    })
}

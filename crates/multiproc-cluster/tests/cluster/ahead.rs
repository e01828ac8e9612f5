//! What a host pulls ahead: of short chunks some, and of long ones none that another host could run.

use std::path::Path;
use std::time::{Duration, Instant};

use async_nats::Message;
use futures_util::StreamExt;
use multiproc_cluster::{Cluster, HostLoss, Pool};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::link::Link;
use crate::server::Server;
use crate::support::{LEASE, Outcome, TEST_TIMEOUT, trials, wait_until};
use crate::work::{HOUR, begin_and_sleep_if_some, begin_and_wait, hold, sleep, slow_square, square};

trials![
    long_tasks_run_on_all_workers_of_all_hosts,
    a_late_host_runs_what_has_not_begun,
    a_late_host_runs_what_was_pulled_ahead_of_long_tasks,
    a_host_that_is_busy_with_one_pool_leaves_the_tasks_of_another_to_others,
    a_full_host_keeps_a_chunk_of_another_pool_once,
    a_full_host_keeps_a_second_delivery_of_what_it_runs,
    a_host_pulls_for_two_busy_pools_in_turn_and_hands_little_back,
    short_chunks_are_pulled_ahead,
    a_caller_that_does_not_answer_keeps_no_place,
];

/// Submits tasks of an hour; each writes a file.
fn submit_long(pool: &Pool, folder: &Path, count: usize) -> multiproc::Result<()> {
    (0..count).try_for_each(|_| pool.submit(hold, (folder.to_owned(), Vec::new())).map(drop))
}

fn begun(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

fn long_tasks_run_on_all_workers_of_all_hosts() -> Outcome {
    let server = Server::start();
    let folder = tempfile::tempdir()?;
    let _first = server.agent("first");
    let pool = server.cluster().lease(LEASE * 10).connect()?.pool("long")?;
    assert_eq!(pool.apply(square, (3,))?, 9); // so the first host has asked for chunks before the second
    let _second = server.agent("second");
    pool.wait_for_hosts(2, TEST_TIMEOUT)?;
    submit_long(&pool, folder.path(), 4)?;
    wait_until("all of them run", || begun(folder.path()) == 4);
    Ok(())
}

fn a_late_host_runs_what_has_not_begun() -> Outcome {
    let server = Server::start();
    let folder = tempfile::tempdir()?;
    let _first = server.agent("first");
    let pool = server.cluster().lease(LEASE * 10).connect()?.pool("late")?;
    submit_long(&pool, folder.path(), 4)?;
    wait_until("the first host is busy", || begun(folder.path()) == 2);
    let _second = server.agent("second");
    wait_until("all of them run", || begun(folder.path()) == 4);
    Ok(())
}

/// The function was short until then, so the first host has pulled all of them.
fn a_late_host_runs_what_was_pulled_ahead_of_long_tasks() -> Outcome {
    let server = Server::start();
    let gate = tempfile::tempdir()?;
    let folders = [(); 4].map(|()| tempfile::tempdir().unwrap());
    let _first = server.agent("first");
    let pool = server.cluster().lease(LEASE * 10).connect()?.pool("turned")?;
    pool.map(begin_and_sleep_if_some, [None, None, None])?;
    for _ in 0..2 {
        let _ = pool.submit(begin_and_wait, (gate.path().to_owned(),))?;
    }
    server.wait_for_chunks("the first host is busy", 2);
    for folder in &folders {
        let _ = pool.submit(begin_and_sleep_if_some, (Some(folder.path().to_owned()),))?;
    }
    wait_until("the broker has them", || server.chunks() == (2, 4));
    std::fs::write(gate.path().join("go"), "")?;
    wait_until("the first host has had more than it runs", || server.chunks().0 > 2);
    let _second = server.agent("second");
    let has_begun = |folder: &TempDir| begun(folder.path()) > 0;
    wait_until("all of them run", || folders.iter().all(has_begun));
    Ok(())
}

fn a_host_that_is_busy_with_one_pool_leaves_the_tasks_of_another_to_others() -> Outcome {
    let server = Server::start();
    let (one, other) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let _first = server.agent("first");
    let cluster = server.cluster().lease(LEASE * 10).connect()?;
    let pools = [cluster.pool("one")?, cluster.pool("other")?];
    assert_eq!(pools[1].apply(square, (3,))?, 9);
    submit_long(&pools[0], one.path(), 2)?;
    wait_until("the first host is busy", || begun(one.path()) == 2);
    let _second = server.agent("second");
    submit_long(&pools[1], other.path(), 2)?;
    wait_until("all of them run", || begun(other.path()) == 2);
    Ok(())
}

/// A slot that keeps a chunk does so for 200 ms. Where the machine is busy, the next one may be slow, too, so
/// there are several attempts.
fn a_full_host_keeps_a_chunk_of_another_pool_once() -> Outcome {
    let server = Server::start();
    let folder = tempfile::tempdir()?;
    let _agent = server.agent("a");
    let cluster = server.cluster().lease(LEASE * 10).connect()?;
    let busy = cluster.pool("busy")?;
    submit_long(&busy, folder.path(), 2)?;
    wait_until("the host is busy", || begun(folder.path()) == 2);
    wait_until("a chunk goes back a second time at once", || {
        let other = cluster.pool("other").unwrap();
        server.as_client(async |context| {
            let answers = context.client().subscribe("$JS.ACK.>").await.unwrap();
            context.client().flush().await.unwrap();
            let _task = other.submit(square, (3,)).unwrap();
            let is_back = |answer: &Message| std::future::ready(&answer.payload[..] == b"-NAK");
            let mut back = answers.filter(is_back);
            let both = async {
                back.next().await;
                let first = Instant::now();
                back.next().await;
                first.elapsed()
            };
            tokio::time::timeout(TEST_TIMEOUT, both).await.unwrap() < Duration::from_millis(100)
        })
    });
    Ok(())
}

/// Another host would take it for lost. The test hands the chunk back in place of a broker that forgets a renewal.
fn a_full_host_keeps_a_second_delivery_of_what_it_runs() -> Outcome {
    let server = Server::start();
    let folder = tempfile::tempdir()?;
    let _agent = server.agent("a");
    let cluster = server.cluster().connect()?;
    let pools = [cluster.pool("one")?, cluster.pool("other")?];
    for pool in &pools {
        submit_long(pool, folder.path(), 1)?;
    }
    wait_until("the host is full", || begun(folder.path()) == 2);
    let answer = server.as_client(async |context| {
        let client = context.client();
        let answers = client.subscribe("$JS.ACK.>").await.unwrap();
        let is_of_one = |answer: &Message| std::future::ready(answer.subject.contains("MULTIPROC_one_"));
        let mut answers = answers.filter(is_of_one);
        let first = answers.next().await.unwrap().subject;
        client.publish(first.clone(), "-NAK".into()).await.unwrap();
        let mut second = answers.filter(|answer| std::future::ready(answer.subject != first));
        tokio::time::timeout(TEST_TIMEOUT, second.next()).await.unwrap().unwrap()
    });
    assert_eq!(&answer.payload[..], b"+WPI");
    Ok(())
}

/// Each task is much longer than a chunk may wait for a place, on a busy machine, too. Some chunks go back before the
/// host knows that it is full.
fn a_host_pulls_for_two_busy_pools_in_turn_and_hands_little_back() -> Outcome {
    const TASKS: usize = 8;
    let server = Server::start();
    let cluster = server.cluster().lease(LEASE * 10).connect()?;
    let pools = [cluster.pool("one")?, cluster.pool("other")?];
    let submit = |pool: &Pool| pool.submit(sleep, (Duration::from_secs(1),)).unwrap();
    let tasks = pools.each_ref().map(|pool| [(); TASKS].map(|()| submit(pool)));
    let done = |pool: usize| tasks[pool].iter().filter(|task| task.is_ready()).count();
    let back = server.as_client(async |context| {
        let answers = context.client().subscribe("$JS.ACK.>").await.unwrap();
        context.client().flush().await.unwrap();
        let _agent = server.agent("a");
        let mut back = 0;
        let mut ended = answers.filter(|answer| {
            back += usize::from(&answer.payload[..] == b"-NAK");
            std::future::ready(&answer.payload[..] == b"+ACK")
        });
        while done(0) < TASKS && done(1) < TASKS {
            tokio::time::timeout(TEST_TIMEOUT, ended.next()).await.unwrap();
        }
        drop(ended);
        back
    });
    assert!(done(0).min(done(1)) >= TASKS / 2, "{} and {}: one pool waits for the other", done(0), done(1));
    assert!(back <= TASKS, "{back} chunks went back");
    Ok(())
}

fn short_chunks_are_pulled_ahead() -> Outcome {
    let server = Server::start();
    let _agent = server.agent("a");
    let pool = server.pool("short");
    let tasks = server.as_client(async |context| {
        let mut pulls = context.client().subscribe("$JS.API.CONSUMER.MSG.NEXT.>").await.unwrap();
        let tasks: Vec<_> = (0..1000).map(|number| pool.submit(slow_square, (number,)).unwrap()).collect();
        let is_ahead = |pull: &Message| std::str::from_utf8(&pull.payload).unwrap().contains("no_wait");
        let mut ahead = pulls.by_ref().filter(|pull| std::future::ready(is_ahead(pull)));
        let found = tokio::time::timeout(TEST_TIMEOUT, ahead.next()).await;
        assert!(found.is_ok(), "none is pulled ahead");
        tasks
    });
    for (number, task) in (0..).zip(tasks) {
        assert_eq!(task.get()?, number * number);
    }
    Ok(())
}

/// It has a task for each worker, about which the host asks. The host is stopped until the caller is cut off.
fn a_caller_that_does_not_answer_keeps_no_place() -> Outcome {
    let server = Server::start();
    let agent = server.agent("a");
    let link = Link::to(&server);
    let silent = Cluster::builder(&link.url()).lease(HOUR).connect()?.pool("silent")?;
    assert_eq!(silent.apply(square, (3,))?, 9);
    server.wait_for_chunks("the first chunk is acknowledged", 0);
    agent.signal(Signal::SIGSTOP);
    let options = silent.options().on_host_loss(HostLoss::Fail);
    let tasks = [options.submit(square, (4,))?, options.submit(square, (5,))?];
    server.wait_for_chunks("the host has them", 2);
    link.cut();
    agent.signal(Signal::SIGCONT);
    let pool = server.cluster().lease(LEASE * 10).connect()?.pool("other")?;
    assert_eq!(pool.submit(square, (6,))?.get_timeout(TEST_TIMEOUT)?, Some(36));
    link.mend();
    for (task, square) in tasks.into_iter().zip([16, 25]) {
        assert_eq!(task.get()?, square);
    }
    Ok(())
}

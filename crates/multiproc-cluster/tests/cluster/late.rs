//! What reaches a host late: chunks that others have had since, and answers to questions that it has given up.

use std::time::Duration;

use async_nats::Message;
use futures_util::StreamExt;
use libtest_mimic::Failed;
use multiproc_cluster::{HostLoss, Pool, Storage, TaskHandle};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::link::Link;
use crate::server::Server;
use crate::support::{LEASE, Outcome, Running, TEST_TIMEOUT, agent, trials, wait_for_begin, wait_until};
use crate::work::{begin_and_wait, enlarge, hold, square};

trials![
    a_delivery_that_is_read_after_the_lease_does_not_run,
    a_delivery_that_is_read_after_the_lease_is_not_handed_back,
    a_chunk_is_not_handed_back_over_a_later_connection,
    a_host_asks_before_it_begins_a_chunk_after_an_interruption,
    a_late_answer_leaves_a_slot_one_request,
    a_chunk_runs_that_takes_most_of_a_lease_to_its_host,
];

/// A stopped host has a chunk in its socket, for the first time; when it goes on, another one runs the chunk.
fn a_delivery_that_is_read_after_the_lease_does_not_run() -> Outcome {
    let server = Server::start();
    let folders = [(); 4].map(|()| tempfile::tempdir().unwrap());
    let [stale, fill, one, other] = [0, 1, 2, 3].map(|number| folders[number].path().to_owned());
    let first = server.agent("a");
    let pool = server.cluster().lease(LEASE * 5).connect()?.pool("stale")?;
    assert_eq!(pool.apply(square, (3,))?, 9);
    server.wait_for_chunks("the first chunk is acknowledged", 0);
    first.signal(Signal::SIGSTOP);
    let _task = pool.submit(begin_and_wait, (stale.clone(),))?;
    server.wait_for_chunks("the host has it", 1);
    let second = server.agent("b");
    assert_eq!(wait_for_begin(&stale, &[]), second.pid());
    let _fill = pool.submit(begin_and_wait, (fill.clone(),))?;
    assert_eq!(wait_for_begin(&fill, &[]), second.pid());
    first.signal(Signal::SIGCONT);
    // The second host is full, so the first one has both its workers for these.
    for folder in [&one, &other] {
        let _ = pool.submit(begin_and_wait, (folder.clone(),))?;
    }
    for folder in [&one, &other] {
        assert_eq!(wait_for_begin(folder, &[]), first.pid());
    }
    assert_eq!(std::fs::read_dir(&stale)?.count(), 1, "it runs twice");
    Ok(())
}

/// A task whose chunk is in the socket of a host that is stopped, and that has no place for it.
struct Stale {
    task: TaskHandle<u32>,
    folder: TempDir,
    _pool: Pool,
    _filler: (Pool, TempDir),
}

impl Stale {
    fn begin(server: &Server, host: &Running) -> Result<Self, Failed> {
        let (busy, folder) = (tempfile::tempdir()?, tempfile::tempdir()?);
        let filler = server.cluster().lease(LEASE * 50).connect()?.pool("filler")?;
        let pool = server.cluster().lease(LEASE * 5).connect()?.pool("stale")?;
        assert_eq!(pool.apply(square, (3,))?, 9);
        server.wait_for_chunks("the first chunk is acknowledged", 0);
        for _ in 0..2 {
            let _ = filler.submit(hold, (busy.path().to_owned(), Vec::new()))?;
        }
        wait_until("the host is full", || std::fs::read_dir(busy.path()).unwrap().count() == 2);
        host.signal(Signal::SIGSTOP);
        let options = pool.options().on_host_loss(HostLoss::Fail);
        let task = options.submit(begin_and_wait, (folder.path().to_owned(),))?;
        server.wait_for_chunks("the host has it, too", 3);
        Ok(Self { task, folder, _pool: pool, _filler: (filler, busy) })
    }

    /// Lets the task end, which this host has run.
    fn ends_at(&mut self, host: &Running) -> Outcome {
        std::fs::write(self.folder.path().join("go"), "")?;
        assert_eq!(self.task.get_timeout(TEST_TIMEOUT)?, Some(host.pid()));
        Ok(())
    }
}

/// The broker would take it from the host that has it now.
fn a_delivery_that_is_read_after_the_lease_is_not_handed_back() -> Outcome {
    let server = Server::start();
    let first = server.agent("a");
    let mut stale = Stale::begin(&server, &first)?;
    let second = server.agent("b");
    assert_eq!(wait_for_begin(stale.folder.path(), &[]), second.pid());
    check_that_only_renewals_follow(&server, || first.signal(Signal::SIGCONT));
    stale.ends_at(&second)
}

/// Of the host that has the chunk now: it renews it three times a lease.
fn check_that_only_renewals_follow(server: &Server, act: impl FnOnce()) {
    server.as_client(async |context| {
        let answers = context.client().subscribe("$JS.ACK.>").await.unwrap();
        let is_of_stale = |answer: &Message| std::future::ready(answer.subject.contains("MULTIPROC_stale_"));
        let mut answers = answers.filter(is_of_stale);
        context.client().flush().await.unwrap();
        act();
        for _ in 0..4 {
            let answer = tokio::time::timeout(TEST_TIMEOUT, answers.next()).await.unwrap().unwrap();
            assert_eq!(&answer.payload[..], b"+WPI");
        }
    });
}

/// The host has lost its connection when it finds no place. What it says then waits for the next one, while another
/// host gets the chunk.
fn a_chunk_is_not_handed_back_over_a_later_connection() -> Outcome {
    let server = Server::start();
    let link = Link::to(&server);
    let first = agent(&link.url(), "a", &std::env::current_exe()?);
    let mut stale = Stale::begin(&server, &first)?;
    link.cut(); // connections that it makes again do not get through
    link.reset();
    first.signal(Signal::SIGCONT);
    let second = server.agent("b");
    assert_eq!(wait_for_begin(stale.folder.path(), &[]), second.pid());
    check_that_only_renewals_follow(&server, || link.mend());
    stale.ends_at(&second)
}

/// The broker may have been killed before it had written that another host has the chunk.
fn a_host_asks_before_it_begins_a_chunk_after_an_interruption() -> Outcome {
    let mut server = Server::start();
    let _agent = server.agent("a");
    let pool = server.cluster().lease(LEASE * 10).storage(Storage::File).connect()?.pool("again")?;
    assert_eq!(pool.apply(square, (3,))?, 9);
    server.restart();
    server.as_client(async |context| {
        let mut messages = context.client().subscribe("multiproc.again.*.back").await.unwrap();
        context.client().flush().await.unwrap();
        let task = pool.submit(square, (4,)).unwrap();
        let first = tokio::time::timeout(TEST_TIMEOUT, messages.next()).await.unwrap().unwrap();
        assert!(first.reply.is_some(), "it only says that it has begun the chunk");
        assert_eq!(task.get().unwrap(), 16);
    });
    Ok(())
}

/// The broker is silent for longer than a slot waits for its answer, and then gives it.
fn a_late_answer_leaves_a_slot_one_request() -> Outcome {
    let server = Server::start();
    let _agent = server.agent("a");
    let pool = server.pool("requests");
    assert_eq!(pool.apply(square, (3,))?, 9);
    server.stop();
    std::thread::sleep(LEASE / 2 + Duration::from_millis(2500));
    server.resume();
    let stream = server.streams().remove(0);
    wait_until("each of the two slots has one request", || {
        server.as_client(async |context| {
            let mut requests = context.client().subscribe("$JS.API.CONSUMER.MSG.NEXT.>").await.unwrap();
            let stream = context.get_stream(&stream).await.unwrap();
            let mut most = 0;
            for _ in 0..8 {
                tokio::time::timeout(TEST_TIMEOUT, requests.next()).await.unwrap();
                most = most.max(stream.consumer_info("agents").await.unwrap().num_waiting);
            }
            most <= 2
        })
    });
    Ok(())
}

/// The broker gives it to the host again and again if that takes it for another one's by then. Another host is full,
/// and says that the pool is served.
fn a_chunk_runs_that_takes_most_of_a_lease_to_its_host() -> Outcome {
    const COUNT: usize = 100_000;
    let server = Server::start();
    let (_full, busy) = (server.agent("full"), tempfile::tempdir()?);
    let filler = server.cluster().lease(LEASE * 50).connect()?.pool("filler")?;
    for _ in 0..2 {
        let _ = filler.submit(hold, (busy.path().to_owned(), Vec::new()))?;
    }
    wait_until("the host is full", || std::fs::read_dir(busy.path()).unwrap().count() == 2);
    let link = Link::to(&server);
    let _far = agent(&link.url(), "far", &std::env::current_exe()?);
    let pool = server.pool("far");
    assert_eq!(pool.apply(square, (3,))?, 9);
    link.slow_down(u64::try_from(COUNT * 6 / 5)? / LEASE.as_secs());
    let options = pool.options().on_host_loss(HostLoss::Retry(u32::MAX));
    let mut task = options.submit(enlarge, (vec![1; COUNT], 0))?;
    assert_eq!(task.get_timeout(TEST_TIMEOUT)?, Some((COUNT, Vec::new())));
    Ok(())
}

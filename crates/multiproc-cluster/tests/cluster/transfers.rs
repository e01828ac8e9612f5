//! Payloads that take longer than a lease on their way, and answers that are lost with a connection.

use std::fs;
use std::thread;
use std::time::Duration;

use async_nats::{Message, Subscriber};
use futures_util::StreamExt;
use multiproc_cluster::{Cluster, HostLoss};

use crate::link::Link;
use crate::pulls::Pulls;
use crate::server::Server;
use crate::support::{LEASE, Outcome, TEST_TIMEOUT, agent, trials, wait_for_begin};
use crate::work::{HOUR, begin_and_wait, enlarge, sleep, square};

trials![
    results_on_their_way_to_the_caller_outlive_their_host,
    answers_that_are_lost_with_a_connection_cost_no_work,
    a_payload_that_takes_longer_than_a_lease_survives_a_broken_connection,
    large_items_that_no_host_begins_go_in_parts,
];

/// A part of an object takes a quarter of a second.
const BYTES_PER_SECOND: u64 = 512 * 1024;

/// The caller fetches them for twice as long as it hears of no host.
fn results_on_their_way_to_the_caller_outlive_their_host() -> Outcome {
    const COUNT: usize = 4_000_000;
    for loss in [HostLoss::Fail, HostLoss::Retry(4)] {
        let server = Server::start();
        let mut agent = server.agent("a");
        let link = Link::to(&server);
        let pool = Cluster::builder(&link.url()).lease(LEASE * 2).connect()?.pool("fetched")?;
        assert_eq!(pool.apply(square, (3,))?, 9);
        link.slow_down(BYTES_PER_SECOND);
        let mut task = server.as_client(async |context| {
            let mut parts = context.client().subscribe("$JS.API.DIRECT.GET.>").await.unwrap();
            context.client().flush().await.unwrap();
            let task = pool.options().on_host_loss(loss).submit(enlarge, (Vec::new(), COUNT)).unwrap();
            next(&mut parts).await;
            task
        });
        agent.kill();
        let result = task.get_timeout(TEST_TIMEOUT)?;
        assert_eq!(result.map(|(_, bytes)| bytes.len()), Some(COUNT), "{loss:?}");
    }
    Ok(())
}

/// The broker is there again at once. The client would wait for its answers until the lease is over.
fn answers_that_are_lost_with_a_connection_cost_no_work() -> Outcome {
    let server = Server::start();
    let agent = server.agent("a");
    let link = Link::to(&server);
    let folder = tempfile::tempdir()?;
    // The caller asks the broker a quarter of it after an answer, and would wait for three seconds.
    let lease = Duration::from_millis(3500);
    let pool = Cluster::builder(&link.url()).lease(lease).connect()?.pool("answers")?;
    assert_eq!(pool.apply(square, (3,))?, 9);
    let mut task = server.as_client(async |context| {
        let mut answers = context.client().subscribe("_INBOX.>").await.unwrap();
        let mut probes = context.client().subscribe("$JS.API.CONSUMER.INFO.>").await.unwrap();
        context.client().flush().await.unwrap();
        let probe = next(&mut probes).await;
        while Some(next(&mut answers).await.subject) != probe.reply {}
        // What is sent to the caller after that answer has arrived, so the answer has.
        assert_eq!(pool.apply(square, (3,)).unwrap(), 9);
        link.cut_answers();
        let task = pool.submit(begin_and_wait, (folder.path().to_owned(),)).unwrap();
        next(&mut probes).await;
        task
    });
    link.reset();
    link.mend();
    wait_for_begin(folder.path(), &[]);
    assert_eq!(task.get_timeout(lease * 2)?, None);
    fs::write(folder.path().join("go"), "")?;
    assert_eq!(task.get_timeout(TEST_TIMEOUT)?, Some(agent.pid()));
    Ok(())
}

async fn next(messages: &mut Subscriber) -> Message {
    tokio::time::timeout(TEST_TIMEOUT, messages.next()).await.unwrap().unwrap()
}

/// It begins again.
fn a_payload_that_takes_longer_than_a_lease_survives_a_broken_connection() -> Outcome {
    // Whose connection it is, the sizes of arguments and results, and where parts pass, or the questions for them.
    let cases = [
        ("caller", (LARGE, 1), STORED),
        ("caller", (1, LARGE), FETCHED),
        ("host", (1, LARGE), STORED),
        ("host", (LARGE, 1), FETCHED),
    ];
    thread::scope(|scope| {
        for (owner, sizes, parts) in cases {
            let case = move || break_a_transfer(owner == "caller", sizes, parts);
            thread::Builder::new().name(format!("{owner} {sizes:?}")).spawn_scoped(scope, case).unwrap();
        }
    });
    Ok(())
}

const STORED: &str = "$O.*.C.>";
const FETCHED: &str = "$JS.API.DIRECT.GET.>";
/// Takes six seconds.
const LARGE: usize = 3_000_000;

/// Breaks the connection of the caller or of the host after a lease, with an answer about the object in it.
fn break_a_transfer(is_of_caller: bool, (arguments, results): (usize, usize), parts: &'static str) {
    let server = Server::start();
    let link = Link::to(&server);
    let [near, far] = [server.url(), link.url()];
    let (caller_url, agent_url) = if is_of_caller { (far, near) } else { (near, far) };
    let _agent = agent(&agent_url, "a", &std::env::current_exe().unwrap());
    let pool = Cluster::builder(&caller_url).lease(LEASE * 2).connect().unwrap().pool("long").unwrap();
    assert_eq!(pool.apply(square, (3,)).unwrap(), 9);
    link.slow_down(BYTES_PER_SECOND);
    let mut task = server.as_client(async |context| {
        let mut parts = context.client().subscribe(parts).await.unwrap();
        context.client().flush().await.unwrap();
        let task = pool.submit(enlarge, (vec![1; arguments], results)).unwrap();
        for _ in 0..18 {
            next(&mut parts).await;
        }
        link.cut_answers();
        // The next part may be on its way.
        let _ = tokio::time::timeout(LEASE / 4, parts.next()).await;
        task
    });
    link.reset();
    link.mend();
    let (count, bytes) = task.get_timeout(TEST_TIMEOUT).unwrap().unwrap();
    assert_eq!((count, bytes.len()), (arguments, results));
}

/// On a slow link they may be what ends the connection of their host. The host is full here, and the test takes them
/// from the broker in place of one that does not get them.
fn large_items_that_no_host_begins_go_in_parts() -> Outcome {
    const COUNT: usize = 100_000;
    let server = Server::start();
    let _agent = server.agent("a");
    let pool = server.cluster().lease(LEASE * 2).connect()?.pool("parts")?;
    let busy = [(); 2].map(|()| pool.submit(sleep, (HOUR,)).unwrap());
    server.wait_for_chunks("the host is full", 2);
    let name = server.streams().remove(0);
    let mut task = pool.submit(enlarge, (vec![1; COUNT], 0))?;
    server.as_client(async |context| {
        let mut pulls = Pulls::of_stream(&name, &context).await;
        let without_items = async {
            loop {
                let chunk = pulls.next().await;
                if chunk.payload.len() < COUNT {
                    break chunk;
                }
            }
        };
        let found = tokio::time::timeout(TEST_TIMEOUT, without_items).await;
        pulls.hand_back(found.expect("they stay in the message")).await;
    });
    for task in busy {
        assert!(task.cancel());
    }
    assert_eq!(task.get_timeout(TEST_TIMEOUT)?, Some((COUNT, Vec::new())));
    assert!(server.streams().iter().any(|name| name.starts_with("OBJ_")));
    Ok(())
}

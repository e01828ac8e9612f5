//! Hosts that join, leave, are slow, or run another build; callers that die.

use std::io::{BufRead, BufReader};

use async_nats::jetstream::Context;
use async_nats::jetstream::stream::Config;
use futures_util::StreamExt;
use multiproc_cluster::Cluster;

use crate::clock::Clock;
use crate::link::Link;
use crate::server::{Server, Settings};
use crate::support::{
    LEASE, Outcome, TEST_TIMEOUT, agent, agent_with_pipe, caller, is_running, other_build, trials,
    wait_for_begin, wait_until,
};
use crate::work::{slow_square, square};

trials![
    a_host_of_another_build_is_refused_and_named,
    a_host_may_come_late,
    without_a_host_a_call_ends_in_an_error,
    a_killed_callers_work_is_withdrawn,
    a_host_whose_output_has_no_reader_serves_on,
    what_a_killed_caller_left_without_agents_is_removed_by_the_next,
    a_silent_caller_that_the_host_does_not_serve_keeps_its_lease,
    a_host_asks_several_times_before_it_removes_what_no_caller_uses,
    a_caller_that_connects_again_while_a_host_asks_keeps_its_pool,
    a_host_answers_while_it_looks_for_deserted_streams,
    several_callers_share_the_hosts,
    a_pool_that_is_lost_shows_no_dead_hosts_and_waits_for_none,
];

fn a_host_of_another_build_is_refused_and_named() -> Outcome {
    let server = Server::start();
    let folder = tempfile::tempdir()?;
    let _other = agent(&server.url(), "stranger", &other_build(folder.path()));
    let pool = server.pool("builds");
    let error = pool.apply(square, (3,)).unwrap_err();
    assert!(error.to_string().contains("stranger has build"), "{error}");
    let hosts = pool.hosts();
    assert!(hosts.len() == 1 && !hosts[0].serves && hosts[0].name == "stranger", "{hosts:?}");
    let _own = server.agent("own");
    pool.wait_for_hosts(1, TEST_TIMEOUT)?;
    assert_eq!(pool.apply(square, (3,))?, 9);
    Ok(())
}

fn a_host_may_come_late() -> Outcome {
    let server = Server::start();
    let pool = server.cluster().lease(LEASE * 10).connect()?.pool("late");
    let pool = pool?;
    let mut results = pool.imap(slow_square, 0..2000);
    let _first = server.agent("first");
    assert_eq!(results.next().unwrap()?, 0);
    let _second = server.agent("second");
    for number in 1..2000 {
        assert_eq!(results.next().unwrap()?, number * number);
    }
    pool.wait_for_hosts(2, TEST_TIMEOUT)?;
    Ok(())
}

fn without_a_host_a_call_ends_in_an_error() -> Outcome {
    let server = Server::start();
    let error = server.pool("alone").map(square, 0..10).unwrap_err();
    assert!(error.is_disconnected() && error.to_string().contains("no agent has answered"), "{error}");
    Ok(())
}

fn a_killed_callers_work_is_withdrawn() -> Outcome {
    let server = Server::start();
    let folder = tempfile::tempdir()?;
    let _agent = server.agent("a");
    let mut caller = caller(&server.url(), folder.path());
    let worker = wait_for_begin(folder.path(), &[]);
    server.wait_for_object();
    assert!(is_running(worker));
    let clock = Clock::start();
    caller.kill();
    wait_until("its stream and its objects are removed", || server.streams().is_empty());
    wait_until("its task ends", || !is_running(worker));
    clock.check(LEASE);
    assert_eq!(server.pool("next").map(square, 0..4)?, [0, 1, 4, 9]);
    Ok(())
}

/// As after `program 2>&1 | tee log` whose `tee` has ended: a write is an error.
fn a_host_whose_output_has_no_reader_serves_on() -> Outcome {
    let server = Server::start();
    let folder = tempfile::tempdir()?;
    let (mut agent, output) = agent_with_pipe(&server.url(), "a");
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line)?; // and drops the reader
    assert!(line.starts_with("agent: 2 workers of host a serve"), "{line}");
    let mut caller = caller(&server.url(), folder.path());
    let worker = wait_for_begin(folder.path(), &[]);
    server.wait_for_object();
    caller.kill();
    wait_until("its stream and its objects are removed", || server.streams().is_empty());
    wait_until("its task ends", || !is_running(worker));
    assert_eq!(server.pool("next").map(square, 0..4)?, [0, 1, 4, 9]);
    assert_eq!(agent.ended(), None);
    Ok(())
}

fn what_a_killed_caller_left_without_agents_is_removed_by_the_next() -> Outcome {
    let server = Server::start();
    let folder = tempfile::tempdir()?;
    let mut caller = caller(&server.url(), folder.path());
    server.wait_for_object();
    caller.kill();
    let _agent = server.agent("a");
    wait_until("its stream and its objects are removed", || server.streams().is_empty());
    Ok(())
}

/// Makes empty streams, as sessions have them.
async fn make_streams(context: &Context, names: &[&str], description: &str) {
    for name in names {
        let description = Some(description.to_owned());
        let config = Config { name: (*name).to_owned(), description, ..Config::default() };
        let subjects = vec![format!("test.{name}")];
        context.create_stream(Config { subjects, ..config }).await.unwrap();
    }
}

/// Its object store has no lease of its own.
fn a_silent_caller_that_the_host_does_not_serve_keeps_its_lease() -> Outcome {
    let server = Server::start();
    let live = ["MULTIPROC_live_1", "OBJ_MULTIPROC_live_1"];
    let advert = r#"{"build":"other","lease_ms":3600000,"is_over":false}"#;
    server.as_client(async |context| {
        make_streams(&context, &live[..1], advert).await;
        make_streams(&context, &live[1..], "").await;
        // One on each side of those above, in whatever order the host takes them.
        make_streams(&context, &["OBJ_MULTIPROC_a_1", "OBJ_MULTIPROC_z_1"], "").await;
    });
    let _agent = server.agent("a");
    wait_until("what has no stream of work is removed", || {
        !server.streams().iter().any(|name| name.contains("_a_1") || name.contains("_z_1"))
    });
    let mut left = server.streams();
    left.sort_unstable();
    assert_eq!(left, live);
    Ok(())
}

/// A server that logs each message.
fn server_with_trace() -> Server {
    Server::with(Settings { config: "trace: true".to_owned(), ..Settings::default() })
}

/// How many questions agents have asked the callers of a pool.
fn questions(server: &Server, pool: &str) -> usize {
    let subject = format!("PUB multiproc.{pool}.");
    server.log().lines().filter(|line| line.contains(&subject) && line.contains(".back ")).count()
}

/// A caller may be about to connect again when it is asked.
fn a_host_asks_several_times_before_it_removes_what_no_caller_uses() -> Outcome {
    let server = server_with_trace();
    server.as_client(async |context| make_streams(&context, &["OBJ_MULTIPROC_left_1"], "").await);
    let _agent = server.agent("a");
    wait_until("it is removed", || server.streams().is_empty());
    let questions = questions(&server, "left");
    assert!(questions > 4, "{questions}");
    Ok(())
}

/// Its link is cut until the host asks. Where the machine is busy, it may be back too late, so there are several
/// attempts.
fn a_caller_that_connects_again_while_a_host_asks_keeps_its_pool() -> Outcome {
    let server = server_with_trace();
    let _agent = server.agent("a");
    let link = Link::to(&server);
    let mut number = 0;
    wait_until("a pool outlives the question", || {
        number += 1;
        let name = format!("away-{number}");
        let pool = Cluster::builder(&link.url()).lease(LEASE).connect().unwrap().pool(&name).unwrap();
        assert_eq!(pool.apply(square, (3,)).unwrap(), 9);
        let asked = questions(&server, &name);
        link.cut(); // the connection that it makes again does not get through
        link.reset();
        wait_until("the host asks", || questions(&server, &name) > asked);
        link.mend();
        let mut has_stream = true;
        wait_until("the pool is of use, or lost", || match pool.apply(square, (4,)) {
            Ok(number) => number == 16,
            Err(error) => {
                has_stream = !error.to_string().contains("has no stream");
                !has_stream
            }
        });
        has_stream
    });
    Ok(())
}

/// Callers that do not answer, but are connected: to ask all of them takes much longer than a lease.
fn a_host_answers_while_it_looks_for_deserted_streams() -> Outcome {
    let server = Server::start();
    server.as_client(async |context| {
        for number in 0..20 {
            make_streams(&context, &[&format!("MULTIPROC_silent_{number}")], "").await;
        }
        let mut questions = context.client().subscribe("multiproc.silent.*.back").await.unwrap();
        let _agent = server.agent("a");
        let asked = tokio::time::timeout(TEST_TIMEOUT, questions.next()).await;
        assert!(asked.is_ok(), "the host does not ask");
        let call = || server.cluster().lease(LEASE * 5).connect()?.pool("answered")?.apply(square, (3,));
        let answer = std::thread::scope(|scope| scope.spawn(call).join().unwrap());
        assert_eq!(answer.unwrap(), 9);
    });
    Ok(())
}

fn several_callers_share_the_hosts() -> Outcome {
    let server = Server::start();
    let _agents = server.agents(&["a", "b"]);
    let pools: Vec<_> = (0..3).map(|_| server.pool("shared")).collect();
    std::thread::scope(|scope| {
        for pool in &pools {
            scope.spawn(|| {
                let squares = pool.map(slow_square, 0..300).unwrap();
                assert!(squares.into_iter().eq((0..300).map(|n| n * n)));
            });
        }
    });
    Ok(())
}

fn a_pool_that_is_lost_shows_no_dead_hosts_and_waits_for_none() -> Outcome {
    let server = Server::start();
    let agent = server.agent("a");
    let pool = server.pool("lost");
    pool.wait_for_hosts(1, TEST_TIMEOUT)?;
    let stream = server.streams().remove(0);
    server.as_client(async |context| context.delete_stream(stream).await.unwrap());
    wait_until("the pool notices", || pool.try_submit(square, (3,)).is_err());
    drop(agent);
    wait_until("the host is not shown any more", || pool.hosts().is_empty());
    let error = pool.wait_for_hosts(1, TEST_TIMEOUT).unwrap_err();
    assert!(error.to_string().contains("has no stream"), "{error}");
    Ok(())
}

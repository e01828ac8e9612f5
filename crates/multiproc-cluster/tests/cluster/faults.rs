//! Kills, stops and cuts: each item has one result, and no call waits for ever.

use std::collections::HashMap;
use std::fs;
use std::time::{Duration, Instant};

use async_nats::jetstream::Context;
use futures_util::StreamExt;
use multiproc_cluster::HostLoss;
use nix::sys::signal::Signal;

use crate::link::Link;
use crate::server::Server;
use crate::support::{
    LEASE, OBJECT_LEN, Outcome, TEST_TIMEOUT, agent, is_running, trials, wait_for_begin, wait_until,
};
use crate::work::{begin_and_wait, enlarge, hold, slow_square, square, wait_and_enlarge};

trials![
    random_kills_of_agents_lose_and_repeat_no_result,
    a_stopped_hosts_items_run_elsewhere_and_its_late_results_are_dropped,
    a_lost_hosts_items_fail_if_they_may_begin_once,
    tasks_that_may_begin_once_are_counted_as_lost_with_their_host,
    a_host_asks_before_it_begins_what_no_other_may_begin,
    a_killed_hosts_task_ends_with_it,
    a_task_of_a_host_that_was_given_up_runs_nowhere,
    work_in_files_goes_on_after_a_restart_of_the_broker,
    what_a_killed_broker_keeps_of_finished_tasks_is_removed,
    results_reach_a_broker_that_takes_only_smaller_messages_after_a_restart,
    work_in_memory_ends_in_an_error_after_a_restart_of_the_broker,
    a_broker_that_is_gone_ends_calls_in_an_error,
    a_host_that_is_cut_off_is_given_up_and_serves_again,
    a_short_cut_of_the_caller_loses_nothing,
    a_broker_that_hangs_for_a_while_costs_no_pool,
    agents_leave_a_pool_whose_stream_is_lost,
    agents_leave_a_pool_whose_consumer_is_lost,
    the_broker_knows_a_repeated_message_for_a_lease,
];

/// How often agents are killed, and in a run of how many items.
fn scale() -> (usize, u64) {
    let number = |name: &str, default| match std::env::var(name) {
        Ok(text) => text.parse().unwrap(),
        Err(_) => default,
    };
    let kills = usize::try_from(number("CLUSTER_KILLS", 6)).unwrap();
    (kills, number("CLUSTER_ITEMS", 4000))
}

fn random_kills_of_agents_lose_and_repeat_no_result() -> Outcome {
    let (kills, items) = scale();
    let server = Server::start();
    let mut agents = server.agents(&["a", "b", "c"]);
    let pool = server.pool("kills");
    pool.wait_for_hosts(3, TEST_TIMEOUT)?;
    assert_eq!(pool.apply(enlarge, (vec![1; OBJECT_LEN], 1))?.0, OBJECT_LEN);
    let every = items / (kills as u64 + 1);
    let (mut count, mut sum, mut killed) = (0_u64, 0_u64, 0);
    let options = pool.options().on_host_loss(HostLoss::Retry(1000));
    for result in options.imap_unordered(slow_square, 0..items) {
        count += 1;
        sum += result?;
        if killed < kills && count >= every * (killed as u64 + 1) {
            let victim = fastrand::usize(..agents.len());
            agents[victim] = server.agent(&format!("{victim}-{killed}")); // drops, and so kills, the old one
            killed += 1;
        }
    }
    assert_eq!((count, killed), (items, kills));
    assert_eq!(sum, (0..items).map(square).sum::<u64>());
    wait_until("no chunk is left", || server.stored_bytes("MULTIPROC_") == 0);
    assert!(server.streams().iter().any(|name| name.starts_with("OBJ_")));
    drop(pool);
    assert!(server.streams().is_empty(), "{:?}", server.streams());
    Ok(())
}

fn a_stopped_hosts_items_run_elsewhere_and_its_late_results_are_dropped() -> Outcome {
    let server = Server::start();
    let folder = tempfile::tempdir()?;
    let agents: HashMap<u32, _> =
        server.agents(&["a", "b"]).into_iter().map(|agent| (agent.pid(), agent)).collect();
    let pool = server.pool("stopped");
    let mut task = pool.submit(begin_and_wait, (folder.path().to_owned(),))?;
    let first = wait_for_begin(folder.path(), &[]);
    agents[&first].signal(Signal::SIGSTOP);
    let second = wait_for_begin(folder.path(), &[first]);
    // Now the first one goes on, and its task ends first or last: the second one has the chunk.
    agents[&first].signal(Signal::SIGCONT);
    fs::write(folder.path().join("go"), "")?;
    assert_eq!(task.get_timeout(TEST_TIMEOUT)?, Some(second));
    wait_until("no chunk is left", || server.stored_bytes("MULTIPROC_") == 0);
    Ok(())
}

fn a_lost_hosts_items_fail_if_they_may_begin_once() -> Outcome {
    let server = Server::start();
    let folder = tempfile::tempdir()?;
    let mut agents: HashMap<u32, _> =
        server.agents(&["a", "b"]).into_iter().map(|agent| (agent.pid(), agent)).collect();
    let pool = server.pool("once");
    let options = pool.options().on_host_loss(HostLoss::Fail);
    let mut task = options.submit(begin_and_wait, (folder.path().to_owned(),))?;
    let first = wait_for_begin(folder.path(), &[]);
    agents.remove(&first);
    let error = task.get_timeout(TEST_TIMEOUT).unwrap_err();
    assert!(error.to_string().contains("was lost") && error.host().is_some(), "{error}");
    let begun = fs::read_dir(folder.path())?.count();
    assert_eq!(begun, 1, "it has begun twice");
    fs::write(folder.path().join("go"), "")?;
    Ok(())
}

/// No other host asks for the chunk, so the caller's clock gives it up.
fn tasks_that_may_begin_once_are_counted_as_lost_with_their_host() -> Outcome {
    let server = Server::start();
    let folder = tempfile::tempdir()?;
    let agent = server.agent("a");
    let pool = server.pool("counted");
    let options = pool.options().on_host_loss(HostLoss::Fail);
    let mut task = options.submit(begin_and_wait, (folder.path().to_owned(),))?;
    wait_for_begin(folder.path(), &[]);
    drop(agent);
    assert_eq!(task.get_timeout(TEST_TIMEOUT).unwrap_err().host(), Some("a"));
    let total = pool.stats().total();
    assert_eq!((total.tasks_done, total.tasks_failed, total.tasks_lost), (0, 0, 1));
    Ok(())
}

/// What an agent only says may be lost with its host.
fn a_host_asks_before_it_begins_what_no_other_may_begin() -> Outcome {
    let server = Server::start();
    let _agent = server.agent("a");
    for (loss, asks) in [(HostLoss::Fail, true), (HostLoss::Retry(0), true), (HostLoss::Retry(1), false)] {
        let pool = server.pool("asks");
        server.as_client(async |context| {
            let mut messages = context.client().subscribe("multiproc.asks.*.back").await.unwrap();
            context.client().flush().await.unwrap();
            let task = pool.options().on_host_loss(loss).submit(square, (3,)).unwrap();
            let first = tokio::time::timeout(TEST_TIMEOUT, messages.next()).await.unwrap().unwrap();
            assert_eq!(first.reply.is_some(), asks, "{loss:?}");
            assert_eq!(task.get().unwrap(), 9);
        });
    }
    Ok(())
}

/// The worker's process, too: no other run of the item meets it.
fn a_killed_hosts_task_ends_with_it() -> Outcome {
    let server = Server::start();
    let folder = tempfile::tempdir()?;
    let mut agent = server.agent("a");
    let pool = server.pool("ended");
    let mut task = pool.submit(hold, (folder.path().to_owned(), Vec::new()))?;
    let worker = wait_for_begin(folder.path(), &[]);
    assert!(is_running(worker));
    agent.kill();
    wait_until("its worker ends", || !is_running(worker));
    assert!(task.get_timeout(TEST_TIMEOUT).unwrap_err().is_disconnected());
    Ok(())
}

/// Until another host begins it, which has no place for it here.
fn a_task_of_a_host_that_was_given_up_runs_nowhere() -> Outcome {
    let server = Server::start();
    let folders = [tempfile::tempdir()?, tempfile::tempdir()?];
    let [full, lost] = [0, 1].map(|number| folders[number].path().to_owned());
    let _full = server.agent("full");
    let pool = server.pool("nowhere");
    let _tasks = [(); 2].map(|()| pool.submit(hold, (full.clone(), Vec::new())));
    wait_until("the host is full", || fs::read_dir(&full).unwrap().count() == 2);
    let agent = server.agent("lost");
    let task = pool.submit(begin_and_wait, (lost.clone(),))?;
    assert_eq!(wait_for_begin(&lost, &[]), agent.pid());
    wait_until("the caller knows", || task.is_running());
    drop(agent);
    wait_until("the task does not count as running", || !task.is_running());
    assert!(!task.is_ready());
    Ok(())
}

fn work_in_files_goes_on_after_a_restart_of_the_broker() -> Outcome {
    let mut server = Server::start();
    let _agents = server.agents(&["a", "b"]);
    let pool = server.cluster().lease(LEASE * 5).storage(multiproc_cluster::Storage::File);
    let pool = pool.connect()?.pool("stored")?;
    let mut sum = 0;
    let options = pool.options().on_host_loss(HostLoss::Retry(100));
    for (count, result) in options.imap_unordered(slow_square, 0..3000).enumerate() {
        sum += result?;
        if count == 1000 || count == 2000 {
            server.restart();
        }
    }
    assert_eq!(sum, (0..3000).map(square).sum::<u64>());
    drop(pool); // the killed server may have forgotten that a chunk was acknowledged
    assert!(server.streams().is_empty(), "{:?}", server.streams());
    Ok(())
}

/// It has not written yet that they were acknowledged.
fn what_a_killed_broker_keeps_of_finished_tasks_is_removed() -> Outcome {
    let mut server = Server::start();
    let _agents = server.agents(&["a", "b"]);
    let pool = server.cluster().lease(LEASE * 5).storage(multiproc_cluster::Storage::File);
    let pool = pool.connect()?.pool("kept")?;
    for round in 0..6 {
        let tasks: Vec<_> = (0..200).map(|number| pool.submit(square, (number,)).unwrap()).collect();
        for (number, task) in (0..).zip(tasks) {
            if number == 30 * round {
                server.restart();
            }
            assert_eq!(task.get()?, number * number);
        }
    }
    wait_until("no chunk is left", || server.stored_bytes("MULTIPROC_") == 0);
    Ok(())
}

/// The host has them ready for one message while the broker is not there.
fn results_reach_a_broker_that_takes_only_smaller_messages_after_a_restart() -> Outcome {
    let mut server = Server::start();
    let _agents = server.agents(&["a"]);
    let pool = server.cluster().lease(LEASE * 5).storage(multiproc_cluster::Storage::File);
    let pool = pool.connect()?.pool("smaller")?;
    let folder = tempfile::tempdir()?;
    let mut task = pool.submit(wait_and_enlarge, (folder.path().to_owned(), 100_000))?;
    wait_for_begin(folder.path(), &[]);
    server.kill();
    fs::write(folder.path().join("go"), "")?;
    wait_until("the task is done", || folder.path().join("done").exists());
    server.set_config("max_payload: 65536");
    server.restart();
    let results = task.get_timeout(TEST_TIMEOUT)?;
    assert_eq!(results.map(|results| results.len()), Some(100_000));
    Ok(())
}

fn work_in_memory_ends_in_an_error_after_a_restart_of_the_broker() -> Outcome {
    let mut server = Server::start();
    let _agents = server.agents(&["a"]);
    let pool = server.pool("memory");
    assert_eq!(pool.apply(square, (3,))?, 9);
    let mut task = pool.submit(crate::work::sleep, (Duration::from_secs(3600),))?;
    server.restart();
    let error = task.get_timeout(TEST_TIMEOUT).unwrap_err();
    assert!(error.to_string().contains("the broker was restarted"), "{error}");
    assert!(pool.apply(square, (3,)).is_err(), "its stream is gone");
    assert_eq!(server.pool("again").apply(square, (3,))?, 9);
    Ok(())
}

fn a_broker_that_is_gone_ends_calls_in_an_error() -> Outcome {
    let mut server = Server::start();
    let _agents = server.agents(&["a"]);
    let pool = server.stored_pool("gone");
    assert_eq!(pool.apply(square, (3,))?, 9);
    let mut task = pool.submit(crate::work::sleep, (Duration::from_secs(3600),))?;
    server.kill();
    let since = Instant::now();
    let error = task.get_timeout(TEST_TIMEOUT).unwrap_err();
    assert!(error.is_disconnected() && error.to_string().contains("has not answered"), "{error}");
    assert!(since.elapsed() >= LEASE / 2, "{:?}", since.elapsed());
    server.restart();
    wait_until("the pool is of use again", || {
        pool.submit(square, (5,)).is_ok_and(|task| task.get().is_ok_and(|number| number == 25))
    });
    Ok(())
}

fn a_host_that_is_cut_off_is_given_up_and_serves_again() -> Outcome {
    let server = Server::start();
    let folder = tempfile::tempdir()?;
    let link = Link::to(&server);
    let far = agent(&link.url(), "far", &std::env::current_exe()?);
    let pool = server.pool("cut");
    let mut task = pool.submit(begin_and_wait, (folder.path().to_owned(),))?;
    assert_eq!(wait_for_begin(folder.path(), &[]), far.pid());
    let mut near = server.agent("near");
    pool.wait_for_hosts(2, TEST_TIMEOUT)?;
    link.cut();
    wait_for_begin(folder.path(), &[far.pid()]);
    link.mend();
    fs::write(folder.path().join("go"), "")?;
    assert_eq!(task.get_timeout(TEST_TIMEOUT)?, Some(near.pid()));
    near.kill();
    wait_until("the far host serves", || pool.apply(square, (3,)).is_ok_and(|number| number == 9));
    Ok(())
}

fn a_short_cut_of_the_caller_loses_nothing() -> Outcome {
    let server = Server::start();
    let _agents = server.agents(&["a", "b"]);
    let link = Link::to(&server);
    let cluster = multiproc_cluster::Cluster::builder(&link.url()).lease(LEASE * 5);
    let pool = cluster.connect()?.pool("cut-caller")?;
    let mut sum = 0;
    for (count, result) in pool.imap_unordered(slow_square, 0..3000).enumerate() {
        sum += result?;
        if count == 1000 {
            link.cut();
            std::thread::sleep(LEASE);
            link.mend();
        }
    }
    assert_eq!(sum, (0..3000).map(square).sum::<u64>());
    Ok(())
}

/// The caller is silent for the host, but as the broker is: it is not gone.
fn a_broker_that_hangs_for_a_while_costs_no_pool() -> Outcome {
    let server = Server::start();
    let _agents = server.agents(&["a"]);
    let pool = server.pool("hangs");
    assert_eq!(pool.apply(square, (3,))?, 9);
    let mut task = pool.submit(crate::work::sleep, (Duration::from_secs(3600),))?;
    server.wait_for_chunks("the host has it", 1);
    server.stop();
    let error = task.get_timeout(TEST_TIMEOUT).unwrap_err();
    assert!(error.to_string().contains("has not answered"), "{error}");
    std::thread::sleep(LEASE * 2); // by now, the host has asked the caller twice
    server.resume();
    wait_until("the pool is of use again", || pool.apply(square, (5,)).is_ok_and(|number| number == 25));
    Ok(())
}

fn agents_leave_a_pool_whose_stream_is_lost() -> Outcome {
    agents_leave(async |context, stream| {
        context.delete_stream(stream).await.unwrap();
    })
}

fn agents_leave_a_pool_whose_consumer_is_lost() -> Outcome {
    agents_leave(async |context, stream| {
        context.delete_consumer_from_stream("agents", stream).await.unwrap();
    })
}

/// They ask for no more chunks, though the caller keeps the pool.
fn agents_leave(lose: impl AsyncFn(&Context, String)) -> Outcome {
    let server = Server::start();
    let _agents = server.agents(&["a"]);
    let pool = server.pool("lost");
    assert_eq!(pool.apply(square, (3,))?, 9);
    let stream = server.streams().remove(0);
    server.as_client(async |context| lose(&context, stream).await);
    wait_until("the caller notices", || pool.apply(square, (3,)).is_err());
    server.as_client(async |context| {
        let mut pulls = context.client().subscribe("$JS.API.CONSUMER.MSG.NEXT.>").await.unwrap();
        let deadline = Instant::now() + TEST_TIMEOUT;
        // A slot without an answer asks again after half a lease and a second.
        while tokio::time::timeout(LEASE * 2, pulls.next()).await.is_ok() {
            assert!(Instant::now() < deadline, "the host still asks for chunks");
        }
    });
    Ok(())
}

/// For so long the caller may send one again.
fn the_broker_knows_a_repeated_message_for_a_lease() -> Outcome {
    let server = Server::start();
    let lease = Duration::from_secs(1000);
    let _pool = server.cluster().lease(lease).connect()?.pool("repeated")?;
    let stream = server.streams().remove(0);
    let window = server.as_client(async |context| {
        context.get_stream(stream).await.unwrap().cached_info().config.duplicate_window
    });
    assert!(window >= lease, "{window:?}");
    Ok(())
}

//! What a caller withdraws ends at the hosts and leaves the broker, whenever that happens.

use std::path::Path;
use std::time::Duration;

use multiproc_cluster::Cluster;

use crate::link::Link;
use crate::server::{Server, Settings};
use crate::support::{LEASE, OBJECT_LEN, Outcome, TEST_TIMEOUT, trials, wait_for_begin, wait_until};
use crate::work::{HOUR, begin_and_sleep_if_some, begin_and_wait, enlarge, sleep, square, wait_and_enlarge};

trials![
    a_task_that_is_cancelled_at_once_does_not_run_on,
    a_cancel_agrees_with_the_result_that_it_races_with,
    what_a_dead_broker_held_does_not_run_when_it_is_back,
    a_task_that_is_cancelled_while_the_broker_is_away_ends,
    the_arguments_of_a_cancelled_task_are_removed,
    the_results_of_a_cancelled_task_are_removed,
    a_withdrawn_chunk_of_several_items_ends_at_once,
    a_store_that_is_made_while_the_pool_is_dropped_goes_with_it,
    the_results_that_a_lost_host_has_stored_are_removed,
    the_parts_of_what_the_disk_does_not_take_are_removed,
    the_parts_of_results_whose_host_dies_are_removed,
];

/// Whenever the withdrawal comes: before the chunk is sent, while it travels, and when it has begun.
fn a_task_that_is_cancelled_at_once_does_not_run_on() -> Outcome {
    let server = Server::start();
    let _agents = server.agents(&["a"]);
    let pool = server.cluster().lease(LEASE * 10).connect()?.pool("cancelled")?;
    assert_eq!(pool.apply(square, (3,))?, 9);
    for number in 0..60 {
        let task = pool.submit(sleep, (HOUR,))?;
        std::thread::sleep(Duration::from_micros(100) * (number % 30)); // another moment each time
        assert!(task.cancel());
    }
    let mut task = pool.submit(square, (4,))?;
    assert_eq!(task.get_timeout(TEST_TIMEOUT)?, Some(16), "its workers are busy");
    wait_until("no chunk is left", || server.stored_bytes("MULTIPROC_") == 0);
    Ok(())
}

/// The task has one end, and both hear of the same one.
fn a_cancel_agrees_with_the_result_that_it_races_with() -> Outcome {
    let server = Server::start();
    let _agents = server.agents(&["a", "b"]);
    let pool = server.cluster().lease(LEASE * 10).connect()?.pool("race")?;
    for number in 0..150 {
        let mut task = pool.submit(square, (number,))?;
        let canceller = task.canceller();
        let pause = Duration::from_micros(100) * u32::try_from(number % 50)?; // another moment each time
        let cancel = std::thread::spawn(move || {
            std::thread::sleep(pause);
            canceller.cancel()
        });
        let result = task.get_timeout(TEST_TIMEOUT);
        let is_cancelled = cancel.join().unwrap();
        match result {
            Ok(result) => assert_eq!((result, is_cancelled), (Some(number * number), false)),
            Err(error) => assert!(error.is_cancelled() && is_cancelled, "{error}"),
        }
    }
    assert_eq!(pool.stats().pending, 0);
    wait_until("no chunk is left", || server.stored_bytes("MULTIPROC_") == 0);
    Ok(())
}

fn what_a_dead_broker_held_does_not_run_when_it_is_back() -> Outcome {
    let mut server = Server::start();
    let _agents = server.agents(&["a"]);
    let pool = server.stored_pool("away");
    let tasks: Vec<_> = (0..8).map(|_| pool.submit(sleep, (HOUR,))).collect::<Result<_, _>>()?;
    server.wait_for_chunks("the host has all it takes", 2);
    server.kill();
    for mut task in tasks {
        assert!(task.get_timeout(TEST_TIMEOUT).unwrap_err().is_disconnected());
    }
    server.restart();
    wait_until("the host is free", || {
        pool.submit(square, (5,))
            .is_ok_and(|mut task| task.get_timeout(LEASE * 5).is_ok_and(|square| square.is_some()))
    });
    Ok(())
}

/// It is away for less than a lease, so the host sees no reason to ask whether the task is still wanted.
fn a_task_that_is_cancelled_while_the_broker_is_away_ends() -> Outcome {
    let mut server = Server::start();
    let _agents = server.agents(&["a"]);
    let pool = server.cluster().lease(LEASE * 10).storage(multiproc_cluster::Storage::File);
    let pool = pool.connect()?.pool("pause")?;
    let tasks: Vec<_> = (0..4).map(|_| pool.submit(sleep, (HOUR,))).collect::<Result<_, _>>()?;
    server.wait_for_chunks("the host has all it takes", 2);
    server.kill();
    for task in tasks {
        assert!(task.cancel());
    }
    server.restart();
    let mut task = pool.submit(square, (6,))?;
    assert_eq!(task.get_timeout(TEST_TIMEOUT)?, Some(36), "its workers are busy");
    Ok(())
}

/// Chunks grow while the items are short. Then an item comes that takes an hour.
fn a_withdrawn_chunk_of_several_items_ends_at_once() -> Outcome {
    let server = Server::start();
    let _agents = server.agents(&["a"]);
    let pool = server.cluster().lease(LEASE * 10).connect()?.pool("several")?;
    let folders = [tempfile::tempdir()?, tempfile::tempdir()?, tempfile::tempdir()?];
    let [long, one, other] = [0, 1, 2].map(|number| folders[number].path().to_owned());
    let has_begun = |folder: &Path| std::fs::read_dir(folder).is_ok_and(|files| files.count() > 0);
    let input = (0..).map(|number| (number == 2000).then(|| long.clone()));
    let mut results = pool.imap_unordered(begin_and_sleep_if_some, input);
    while !has_begun(&long) {
        results.next().unwrap()?; // the other worker goes on
    }
    drop(results);
    let tasks = [&one, &other].map(|folder| pool.submit(begin_and_wait, (folder.clone(),)));
    wait_until("both workers are free", || has_begun(&one) && has_begun(&other));
    for folder in [&one, &other] {
        std::fs::write(folder.join("go"), "")?;
    }
    for task in tasks {
        task?.get()?;
    }
    Ok(())
}

fn the_arguments_of_a_cancelled_task_are_removed() -> Outcome {
    let server = Server::start();
    let pool = server.cluster().lease(LEASE * 30).connect()?.pool("cancelled")?; // without a host, they stay
    let task = pool.submit(enlarge, (vec![1; 2_000_000], 1))?;
    wait_until("the chunk is sent", || server.stored_bytes("MULTIPROC_") > 0);
    assert!(server.stored_bytes("OBJ_") > 2_000_000);
    assert!(task.cancel());
    wait_until("they are removed", || server.stored_bytes("OBJ_") == 0);
    wait_until("no chunk is left", || server.stored_bytes("MULTIPROC_") == 0);
    Ok(())
}

/// Whenever the drop comes: before the store is asked for, while it is made, and after.
fn a_store_that_is_made_while_the_pool_is_dropped_goes_with_it() -> Outcome {
    let server = Server::start();
    let cluster = server.cluster().connect()?;
    for number in 0..30 {
        let pool = cluster.pool("dropped")?;
        let _ = pool.submit(enlarge, (vec![1; OBJECT_LEN], 1))?;
        std::thread::sleep(Duration::from_micros(100) * (number % 20)); // another moment each time
        drop(pool);
    }
    assert!(server.streams().is_empty(), "{:?}", server.streams());
    Ok(())
}

/// It dies before it can hand them in, because the caller is cut off for so long that it connects again.
fn the_results_that_a_lost_host_has_stored_are_removed() -> Outcome {
    let server = Server::start();
    let folder = tempfile::tempdir()?;
    let first = server.agent("first");
    let link = Link::to(&server);
    let pool = Cluster::builder(&link.url()).lease(LEASE * 10).connect()?.pool("lost")?;
    assert_eq!(pool.apply(enlarge, (Vec::new(), OBJECT_LEN))?.1.len(), OBJECT_LEN); // so there is a store
    let mut task = pool.submit(wait_and_enlarge, (folder.path().to_owned(), OBJECT_LEN))?;
    assert_eq!(wait_for_begin(folder.path(), &[]), first.pid());
    wait_until("the caller knows", || task.is_running());
    let connections = link.connections();
    link.cut();
    std::fs::write(folder.path().join("go"), "")?;
    wait_until("the results are stored", || server.objects() == 1);
    wait_until("the caller connects again", || link.connections() > connections);
    drop(first);
    let _second = server.agent("second");
    link.mend();
    assert!(task.get_timeout(TEST_TIMEOUT)?.is_some_and(|bytes| bytes.len() == OBJECT_LEN));
    wait_until("they are removed", || server.stored_bytes("OBJ_") == 0);
    Ok(())
}

/// The first ones fit.
fn the_parts_of_what_the_disk_does_not_take_are_removed() -> Outcome {
    let limits = "max_file_store: 1000000".to_owned();
    let server = Server::with(Settings { limits, ..Settings::default() });
    let _agent = server.agent("a");
    let pool = server.stored_pool("parts");
    pool.wait_for_hosts(1, TEST_TIMEOUT)?;
    for (arguments, results) in [(vec![1; OBJECT_LEN], 1), (Vec::new(), OBJECT_LEN)] {
        let error = pool.apply(enlarge, (arguments, results)).unwrap_err();
        assert!(error.to_string().contains("object store"), "{error}");
        assert!(server.streams().iter().any(|name| name.starts_with("OBJ_")));
        wait_until("they are removed", || server.stored_bytes("OBJ_") == 0);
    }
    Ok(())
}

fn the_parts_of_results_whose_host_dies_are_removed() -> Outcome {
    const LEN: usize = 16 * OBJECT_LEN;
    let server = Server::start();
    let folder = tempfile::tempdir()?;
    let first = server.agent("first");
    let pool = server.pool("parts");
    let mut task = pool.submit(wait_and_enlarge, (folder.path().to_owned(), LEN))?;
    assert_eq!(wait_for_begin(folder.path(), &[]), first.pid());
    wait_until("the caller knows", || task.is_running());
    std::fs::write(folder.path().join("go"), "")?;
    wait_until("some parts are stored", || server.stored_bytes("OBJ_") > 0);
    drop(first);
    let _second = server.agent("second");
    assert!(task.get_timeout(TEST_TIMEOUT)?.is_some_and(|bytes| bytes.len() == LEN));
    wait_until("they are removed", || server.stored_bytes("OBJ_") == 0);
    Ok(())
}

/// Whenever the withdrawal comes: before the results are stored, while they are, and after.
fn the_results_of_a_cancelled_task_are_removed() -> Outcome {
    let server = Server::with(Settings { config: "max_payload: 65536".to_owned(), ..Settings::default() });
    let _agents = server.agents(&["a"]);
    let pool = server.cluster().lease(LEASE * 10).connect()?.pool("results")?;
    assert_eq!(pool.apply(enlarge, (Vec::new(), OBJECT_LEN))?.1.len(), OBJECT_LEN);
    for number in 0..20 {
        let folder = tempfile::tempdir()?;
        let task = pool.submit(wait_and_enlarge, (folder.path().to_owned(), OBJECT_LEN))?;
        wait_until("it has begun", || std::fs::read_dir(folder.path()).is_ok_and(|files| files.count() > 0));
        std::fs::write(folder.path().join("go"), "")?;
        wait_until("it is done", || folder.path().join("done").exists());
        std::thread::sleep(Duration::from_millis(2) * number); // another moment each time
        task.cancel();
    }
    assert!(server.streams().iter().any(|name| name.starts_with("OBJ_")));
    wait_until("they are removed", || server.stored_bytes("OBJ_") == 0);
    Ok(())
}

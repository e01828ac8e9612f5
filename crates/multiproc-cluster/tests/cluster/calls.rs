//! The calls: values, errors, order, large payloads, cancellation.

use std::time::Duration;

use multiproc::{Error, Result};
use multiproc_cluster::HostLoss;

use crate::server::{Server, Settings};
use crate::support::{LEASE, OBJECT_LEN, Outcome, TEST_TIMEOUT, trials, wait_for_begin, wait_until};
use crate::work::{HOUR, begin_and_wait, divide, enlarge, fail, run_until_cancelled, sleep, square};

trials![
    values_and_errors_are_those_of_a_local_pool,
    results_come_in_order_or_as_they_arrive,
    an_input_is_taken_only_so_far_ahead,
    large_payloads_arrive_and_leave_nothing,
    large_payloads_arrive_through_a_server_of_small_messages,
    many_large_results_leave_nothing_while_the_pool_lives,
    large_payloads_that_are_removed_leave_room_on_the_disk,
    a_deleted_object_store_is_made_again,
    a_result_is_taken_once,
    what_a_lost_stream_leaves_unsent_is_an_error_of_the_call,
    durations_without_bound_are_refused_or_waited_for,
    the_workers_of_an_agent_have_none_of_its_variables,
    a_timeout_and_a_cancelled_task_end_their_worker,
    a_dropped_iterator_withdraws_the_rest_and_a_dropped_pool_leaves_no_stream,
    retries_are_those_of_a_local_pool,
    arguments_that_cannot_leave_the_host_are_errors,
    results_that_the_broker_does_not_take_are_errors,
    calls_take_tuples_of_arguments,
    a_call_waits_for_its_next_result_for_a_time,
    a_refused_call_has_one_error_to_come,
    a_cancelled_task_may_end_by_itself_in_its_grace,
    statistics_count_results_and_what_is_pending,
    statistics_name_a_lost_host,
    chunks_of_large_results_fit_into_messages,
];

type Facts = (multiproc::ErrorKind, Option<u64>, Option<i32>, Option<i32>);

fn facts<T>(result: Result<T>) -> Result<T, Facts> {
    result.map_err(|error| (error.kind(), error.index(), error.signal(), error.exit_code()))
}

fn values_and_errors_are_those_of_a_local_pool() -> Outcome {
    let server = Server::start();
    let _agents = server.agents(&["a", "b"]);
    let pool = server.pool("values");
    let local = multiproc::Pool::new(2)?;

    assert_eq!(pool.map(square, 0..5000)?, local.map(square, 0..5000)?);
    assert_eq!(pool.map(square, Vec::new())?, Vec::<u64>::new());
    assert_eq!(pool.apply(u64::pow, (2, 10))?, 1024);

    let remote = pool.map_results(fail, 0..5)?;
    for error in remote.iter().filter_map(|result| result.as_ref().err()) {
        assert!(["a", "b"].map(Some).contains(&error.host()), "{error}");
        assert!(error.to_string().contains("(on host "), "{error}");
    }
    let text = |result: Result<Result<u64, _>>| match facts(result) {
        Ok(Ok(number)) => format!("{number}"),
        Ok(Err(error)) => format!("the task's error: {}", multiproc::TaskError::to_string(&error)),
        Err(facts) => format!("{facts:?}"),
    };
    let remote: Vec<_> = remote.into_iter().map(text).collect();
    let here: Vec<_> = local.map_results(fail, 0..5)?.into_iter().map(text).collect();
    assert_eq!(remote, here);
    Ok(())
}

fn results_come_in_order_or_as_they_arrive() -> Outcome {
    let server = Server::start();
    let _agents = server.agents(&["a", "b"]);
    let pool = server.pool("order");
    let uneven = |number: u64| {
        std::thread::sleep(Duration::from_millis(if number.is_multiple_of(10) { 20 } else { 0 }));
        number
    };
    assert!(pool.imap(uneven, 0..200).map(Result::unwrap).eq(0..200));
    let mut numbers: Vec<u64> = pool.imap_unordered(uneven, 0..200).collect::<Result<_>>()?;
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(0..200));
    Ok(())
}

fn an_input_is_taken_only_so_far_ahead() -> Outcome {
    let server = Server::start();
    let _agents = server.agents(&["a"]);
    let pool = server.pool("window");
    let taken = std::cell::Cell::new(0_u64);
    let input = (0..10_000).inspect(|_| taken.set(taken.get() + 1));
    let mut results = pool.options().buffer_size(5).imap(square, input);
    for number in 0..20 {
        assert_eq!(results.next().unwrap()?, number * number);
        assert!(taken.get() <= number + 1 + 5, "{} were taken for {number}", taken.get());
    }
    Ok(())
}

fn large_payloads_arrive_and_leave_nothing() -> Outcome {
    large_payloads(Settings::default())
}

fn large_payloads_arrive_through_a_server_of_small_messages() -> Outcome {
    large_payloads(Settings { config: "max_payload: 65536".to_owned(), ..Settings::default() })
}

fn large_payloads(settings: Settings) -> Outcome {
    let server = Server::with(settings);
    let _agents = server.agents(&["a", "b"]);
    let pool = server.pool("large");
    let large = vec![1_u8; 3_000_000];
    let tasks: Vec<_> =
        (0..4).map(|_| pool.submit(enlarge, (large.clone(), 2_000_000))).collect::<Result<_>>()?;
    for task in tasks {
        let (length, result) = task.get()?;
        assert_eq!((length, result.len()), (3_000_000, 2_000_000));
    }
    assert!(server.streams().iter().any(|name| name.starts_with("OBJ_")));
    wait_until("the objects are removed", || server.stored_bytes("OBJ_") == 0);
    drop(pool);
    assert!(server.streams().is_empty(), "{:?}", server.streams());
    Ok(())
}

/// Not even a note that an object was there: a pool may live for long.
fn many_large_results_leave_nothing_while_the_pool_lives() -> Outcome {
    let server = Server::with(Settings { config: "max_payload: 65536".to_owned(), ..Settings::default() });
    let _agents = server.agents(&["a", "b"]);
    let pool = server.pool("many");
    let large = |number: u64| vec![number; 100_000];
    for (number, result) in (0..100).zip(pool.imap(large, 0..100)) {
        assert_eq!(result?, vec![number; 100_000]);
    }
    assert!(server.streams().iter().any(|name| name.starts_with("OBJ_")));
    wait_until("the objects are removed", || server.stored_bytes("OBJ_") == 0);
    let store = server.streams().into_iter().find(|name| name.starts_with("OBJ_")).unwrap();
    let consumers = server.as_client(async |context| {
        context.get_stream(store).await.unwrap().cached_info().state.consumer_count
    });
    assert_eq!(consumers, 0);
    assert_eq!(pool.apply(square, (3,))?, 9);
    Ok(())
}

/// Debian's server counts what a purge removes as used.
fn large_payloads_that_are_removed_leave_room_on_the_disk() -> Outcome {
    let limits = "max_file_store: 12000000".to_owned();
    let server = Server::with(Settings { limits, ..Settings::default() });
    let _agent = server.agent("a");
    let pool = server.stored_pool("room");
    for _ in 0..8 {
        assert_eq!(pool.apply(enlarge, (vec![1; OBJECT_LEN], OBJECT_LEN))?.1.len(), OBJECT_LEN);
    }
    drop(pool);
    assert!(server.streams().is_empty());
    Ok(())
}

fn a_deleted_object_store_is_made_again() -> Outcome {
    let server = Server::start();
    let _agents = server.agents(&["a"]);
    let pool = server.cluster().lease(LEASE * 10).connect()?.pool("again")?;
    for (arguments, results) in [(0, OBJECT_LEN), (OBJECT_LEN, 0), (0, OBJECT_LEN)] {
        assert_eq!(pool.apply(enlarge, (vec![1; arguments], results))?.1.len(), results);
        let names = server.streams();
        let store = names.into_iter().find(|name| name.starts_with("OBJ_")).unwrap();
        server.as_client(async |context| context.delete_stream(store).await.unwrap());
    }
    Ok(())
}

fn a_result_is_taken_once() -> Outcome {
    let server = Server::start();
    let _agents = server.agents(&["a"]);
    let pool = server.pool("once");
    let mut task = pool.submit(square, (5,))?;
    assert_eq!(task.get_timeout(TEST_TIMEOUT)?, Some(25));
    assert!(task.is_ready());
    assert!(task.get_timeout(Duration::ZERO).unwrap_err().to_string().contains("already taken"));
    assert!(task.get().unwrap_err().to_string().contains("already taken"));
    Ok(())
}

fn what_a_lost_stream_leaves_unsent_is_an_error_of_the_call() -> Outcome {
    let server = Server::start();
    let _agents = server.agents(&["a"]);
    let pool = server.pool("lost");
    let stream = server.streams().into_iter().find(|name| name.starts_with("MULTIPROC_")).unwrap();
    let lose_stream = || server.as_client(async |context| context.delete_stream(&stream).await.unwrap());
    let input = (0..).take_while(|&number: &u64| {
        if number == 10_000 {
            lose_stream();
        }
        true
    });
    assert!(pool.map_results(square, input).is_err());
    Ok(())
}

fn durations_without_bound_are_refused_or_waited_for() -> Outcome {
    let server = Server::start();
    let refused = server.cluster().lease(Duration::MAX).connect().unwrap_err();
    assert!(refused.to_string().contains("`lease` must be from"), "{refused}");
    let pool = server.pool("durations");
    let _agents = server.agents(&["a"]);
    Ok(pool.wait_for_hosts(1, Duration::MAX)?)
}

fn the_workers_of_an_agent_have_none_of_its_variables() -> Outcome {
    fn variables() -> Vec<String> {
        std::env::vars().map(|(name, _)| name).filter(|name| name.starts_with("MULTIPROC_AGENT")).collect()
    }
    let server = Server::start();
    let _agents = server.agents(&["a"]);
    assert_eq!(server.pool("variables").apply(variables, ())?, [""; 0]);
    Ok(())
}

fn a_timeout_and_a_cancelled_task_end_their_worker() -> Outcome {
    let server = Server::start();
    let _agents = server.agents(&["a"]);
    let pool = server.pool("limits");
    let limited = pool.options().timeout(Duration::from_secs(10)).map_results(fail, [0, 5, 6])?;
    assert!(limited[1].as_ref().is_err_and(Error::is_timeout), "{limited:?}");
    assert!(limited[0].is_ok() && limited[2].is_ok());

    // The host has two workers: if these went on, nothing else would run.
    let tasks: Vec<_> =
        (0..2).map(|_| pool.submit(sleep, (Duration::from_secs(3600),))).collect::<Result<_>>()?;
    std::thread::sleep(Duration::from_millis(300));
    for task in tasks {
        assert!(task.cancel() && !task.cancel());
        assert!(task.get().unwrap_err().is_cancelled());
    }
    let mut task = pool.submit(square, (3,))?;
    assert_eq!(task.get_timeout(TEST_TIMEOUT)?, Some(9));
    Ok(())
}

fn a_dropped_iterator_withdraws_the_rest_and_a_dropped_pool_leaves_no_stream() -> Outcome {
    let server = Server::start();
    let _agents = server.agents(&["a"]);
    let pool = server.pool("dropped");
    let mut results = pool.imap(crate::work::slow_square, 0..100_000);
    assert_eq!(results.next().unwrap()?, 0);
    drop(results);
    assert_eq!(pool.apply(square, (4,))?, 16);
    wait_until("the chunks are removed", || server.stored_bytes("MULTIPROC_") == 0);
    drop(pool);
    assert!(server.streams().is_empty(), "{:?}", server.streams());
    Ok(())
}

fn retries_are_those_of_a_local_pool() -> Outcome {
    let server = Server::start();
    let _agents = server.agents(&["a"]);
    let error = server.pool("retries").options().retries(2).apply(fail, (3,)).unwrap_err();
    assert_eq!((error.signal(), error.attempts().len()), (Some(6), 2));
    Ok(())
}

fn arguments_that_cannot_leave_the_host_are_errors() -> Outcome {
    let server = Server::start();
    let pool = server.pool("descriptors");
    let (end, _other) = multiproc::pipe::<u8, u8>()?;
    let take = |_: multiproc::Connection<u8, u8>| ();
    assert!(pool.apply(take, (end,)).unwrap_err().is_codec());
    assert!(server.cluster().connect()?.pool("a.b").is_err());
    Ok(())
}

fn calls_take_tuples_of_arguments() -> Outcome {
    let server = Server::start();
    let _agents = server.agents(&["a"]);
    let pool = server.pool("tuples");
    assert_eq!(pool.starmap(u64::pow, [(2, 10), (3, 2)])?, [1024, 9]);
    let pair = |pair: (u32, String)| format!("{}{}", pair.1, pair.0);
    assert_eq!(pool.starmap(pair, [((1, "a".to_owned()),)])?, ["a1"]);
    let results = pool.starmap_results(divide, [(4, 2), (1, 0)])?;
    assert!(matches!(results[..], [Ok(2), Err(_)]), "{results:?}");
    Ok(())
}

fn a_call_waits_for_its_next_result_for_a_time() -> Outcome {
    let server = Server::start();
    let _agents = server.agents(&["a"]);
    let pool = server.cluster().lease(LEASE * 10).connect()?.pool("times")?;
    let mut results = pool.imap_unordered(sleep, [Duration::ZERO, HOUR]);
    assert!(results.next_timeout(TEST_TIMEOUT).is_some_and(|result| result.is_ok()));
    assert!(results.next_timeout(Duration::from_millis(20)).is_none());
    assert_eq!(results.len(), 1);
    Ok(())
}

fn a_refused_call_has_one_error_to_come() -> Outcome {
    let server = Server::start();
    let mut results = server.pool("refused").options().buffer_size(0).imap(square, 0..3);
    assert_eq!(results.size_hint(), (1, Some(1)));
    assert!(results.next_timeout(TEST_TIMEOUT).unwrap().is_err());
    assert_eq!(results.size_hint(), (0, Some(0)));
    assert!(results.next().is_none());
    Ok(())
}

fn a_cancelled_task_may_end_by_itself_in_its_grace() -> Outcome {
    let server = Server::start();
    let _agents = server.agents(&["a"]);
    let pool = server.cluster().lease(LEASE * 10).connect()?.pool("grace")?;
    let folder = tempfile::tempdir()?;
    let task = pool.options().grace(HOUR).submit(run_until_cancelled, (folder.path().to_owned(),))?;
    wait_until("it has begun", || folder.path().join("begun").exists());
    wait_until("the caller knows", || task.is_running());
    let canceller = task.canceller();
    let cancelled = std::thread::spawn(move || canceller.cancel());
    assert!(cancelled.join().unwrap() && !task.is_running());
    assert!(task.get().unwrap_err().is_cancelled());
    wait_until("it ends by itself", || folder.path().join("ended").exists());
    Ok(())
}

fn statistics_count_results_and_what_is_pending() -> Outcome {
    let server = Server::start();
    let _agents = server.agents(&["a", "b"]);
    let pool = server.cluster().lease(LEASE * 10).connect()?.pool("statistics")?;
    pool.wait_for_hosts(2, TEST_TIMEOUT)?;
    assert_eq!(pool.map_results(fail, [0, 1, 4, 6])?.len(), 4);
    let total = pool.stats().total();
    assert_eq!((total.tasks_done, total.tasks_failed, total.tasks_lost), (2, 2, 0));
    let task = pool.submit(sleep, (HOUR,))?;
    assert_eq!(pool.stats().pending, 1);
    assert!(task.cancel());
    assert_eq!(pool.stats().pending, 0);
    Ok(())
}

/// The other host asks for the chunk. Both ask before they begin it, so the caller knows the first.
fn statistics_name_a_lost_host() -> Outcome {
    let server = Server::start();
    let mut agents = server.agents(&["a", "b"]);
    let pool = server.pool("losses");
    pool.wait_for_hosts(2, TEST_TIMEOUT)?;
    let folder = tempfile::tempdir()?;
    let loss = pool.options().on_host_loss(HostLoss::Retry(0));
    let mut task = loss.submit(begin_and_wait, (folder.path().to_owned(),))?;
    let first = wait_for_begin(folder.path(), &[]);
    agents.retain(|agent| agent.pid() != first);
    let error = task.get_timeout(TEST_TIMEOUT).unwrap_err();
    let stats = pool.stats();
    let lost: Vec<_> = stats.hosts.iter().filter(|host| host.tasks_lost > 0).collect();
    assert!(lost.len() == 1 && error.host() == Some(&lost[0].name), "{error}: {stats}");
    assert_eq!((stats.total().tasks_lost, stats.pending), (1, 0));
    Ok(())
}

/// Their items take no time, so that the time alone would make chunks of many megabytes.
fn chunks_of_large_results_fit_into_messages() -> Outcome {
    let server = Server::start();
    let _agents = server.agents(&["a"]);
    let pool = server.pool("sizes");
    for result in pool.imap_unordered(|_: u32| vec![7_u8; 20_000], 0..2000) {
        assert_eq!(result?.len(), 20_000);
    }
    assert_eq!(server.streams().len(), 1, "some were too large: {:?}", server.streams());
    Ok(())
}

/// The error of each item would not fit into the message.
fn results_that_the_broker_does_not_take_are_errors() -> Outcome {
    let limits = "max_memory_store: 200000".to_owned();
    let config = "max_payload: 32768".to_owned();
    let server = Server::with(Settings { config, limits, ..Settings::default() });
    let _agents = server.agents(&["a"]);
    let pool = server.pool("refusing");
    // Chunks have grown by then, unless the machine is busy. One result is refused in any chunk.
    let large = |number: u64| match number {
        0..1000 => Vec::new(),
        1999 => vec![7_u8; 300_000],
        _ => vec![7; 2000],
    };
    let results = pool.options().map_results(large, 0..8000)?;
    assert_eq!(results.len(), 8000);
    let refused: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).collect();
    let is_of_host = |error: &Error| error.host() == Some("a") && error.to_string().contains("object store");
    assert!(refused.iter().any(|error| is_of_host(error)), "{:?}", refused.first());
    assert!(refused.iter().all(|error| error.index().is_some()), "{:?}", refused.first());
    Ok(())
}

//! Whatever is killed, each handle resolves within the lease and five seconds.

use std::cell::Cell;
use std::thread;
use std::time::{Duration, Instant};

use multiproc_cluster::{Cluster, HostLoss, Pool, Storage, TaskHandle};
use nix::sys::signal::Signal;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::clock::Clock;
use crate::link::Link;
use crate::server::{Server, Settings};
use crate::support::{Outcome, Running, TEST_TIMEOUT, trials, wait_until};
use crate::work::{HOUR, enlarge, sleep, slow_square, square};

trials![
    each_handle_resolves_within_the_lease_and_five_seconds,
    each_call_of_many_chunks_ends_within_the_lease_and_five_seconds,
    a_chunk_that_the_broker_has_lost_comes_again_while_others_wait,
];

/// The default. A shorter one would hide a wait for two leases.
const LEASE: Duration = Duration::from_secs(10);

/// The cases run at once: each takes about a lease.
fn each_handle_resolves_within_the_lease_and_five_seconds() -> Outcome {
    let cases: [(&str, fn()); 11] = [
        ("the only host is killed, and later the broker, for almost a lease", host_and_broker_are_killed),
        ("the only host is killed", || {
            Case::new(Storage::Memory).resolves(&["no host", "host a was lost"], |case| case.agent.kill());
        }),
        ("the only host hangs", || {
            Case::new(Storage::Memory)
                .resolves(&["no host", "host a was lost"], |case| case.agent.signal(Signal::SIGSTOP));
        }),
        ("the broker is killed", || {
            Case::new(Storage::Memory).resolves(&["has not answered"], |case| case.server.kill());
        }),
        ("the broker hangs, with more requests than the client takes", || {
            Case::new(Storage::File).resolves(&["has not answered", "does not take the work"], |case| {
                case.server.stop();
                for _ in 0..3000 {
                    case.tasks.push(case.pool.submit(sleep, (HOUR,)).unwrap());
                }
            });
        }),
        ("the caller is cut off", || {
            let case = Case::new(Storage::Memory);
            let link = Link::to(&case.server);
            let pool = Cluster::builder(&link.url()).lease(LEASE).connect().unwrap().pool("far").unwrap();
            let case = Case { pool, ..case };
            assert_eq!(case.pool.apply(square, (3,)).unwrap(), 9);
            case.resolves(&["has not answered"], |_| link.cut());
        }),
        ("the consumer is deleted", || {
            Case::new(Storage::Memory).resolves(&["consumer was deleted"], |case| {
                let stream = case.server.streams().remove(0);
                case.server.as_client(async |context| {
                    context.delete_consumer_from_stream("agents", stream).await.unwrap();
                });
            });
        }),
        ("the stream is deleted", || {
            Case::new(Storage::File).resolves(&["has no stream"], |case| {
                let stream = case.server.streams().remove(0);
                case.server.as_client(async |context| context.delete_stream(stream).await.unwrap());
            });
        }),
        ("the object of arguments is deleted", objects_are_deleted),
        ("the disk is full for arguments", the_disk_is_full),
        ("the disk is full for results", the_disk_is_too_small),
    ];
    thread::scope(|scope| {
        for (name, case) in cases {
            thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, case).unwrap();
        }
    });
    Ok(())
}

/// A call has a window of eight chunks without a host: it ends within the time of one of them.
fn each_call_of_many_chunks_ends_within_the_lease_and_five_seconds() -> Outcome {
    let cases: [(&str, fn()); 4] = [
        ("there is no host", no_host_comes),
        ("the only host is killed", the_host_of_a_call_is_killed),
        ("the broker is killed", the_broker_of_a_call_is_killed),
        ("the disk is full", the_disk_is_full_for_a_call),
    ];
    thread::scope(|scope| {
        for (name, case) in cases {
            thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, case).unwrap();
        }
    });
    Ok(())
}

fn no_host_comes() {
    let server = Server::start();
    let pool = server.cluster().lease(LEASE).connect().unwrap().pool("bounds").unwrap();
    let clock = Clock::start();
    let results = pool.map_results(square, 0..100).unwrap();
    clock.check(LEASE);
    assert_eq!(results.len(), 100);
    let is_unserved = |error: multiproc::Error| error.to_string().contains("no host serves");
    assert!(results.into_iter().all(|result| result.is_err_and(is_unserved)));
    // A host that comes later serves the next call.
    let _agent = server.agent("late");
    pool.wait_for_hosts(1, TEST_TIMEOUT).unwrap();
    assert_eq!(pool.map(square, 0..3).unwrap(), [0, 1, 4]);
}

fn the_host_of_a_call_is_killed() {
    let mut case = Case::new(Storage::Memory);
    let mut results = case.pool.imap_unordered(sleep, (0..100).map(Duration::from_secs));
    assert!(results.next().is_some_and(|result| result.is_ok()));
    case.agent.kill();
    let clock = Clock::start();
    let failed = results.filter(Result::is_err).count();
    clock.check(LEASE);
    assert!(failed > 90, "{failed}");
}

fn the_broker_of_a_call_is_killed() {
    let mut case = Case::new(Storage::File);
    let mut results = case.pool.imap_unordered(sleep, (0..1000).map(Duration::from_secs));
    assert!(results.next().is_some_and(|result| result.is_ok()));
    case.server.kill();
    let clock = Clock::start();
    let failed = results.filter(Result::is_err).count();
    clock.check(LEASE);
    assert!(failed > 900, "{failed}");
}

/// Of what is refused; what the broker has taken waits for the host.
fn the_disk_is_full_for_a_call() {
    let limits = "max_file_store: 300000".to_owned();
    let case = Case::with(Storage::File, Settings { limits, ..Settings::default() });
    let busy = case.occupy();
    let clock = Clock::start();
    let input = (0..60).map(|_| vec![1; 100_000]);
    let length = |bytes: Vec<u8>| bytes.len();
    let mut results = case.pool.imap_unordered(length, input);
    for _ in 0..50 {
        let error = results.next().unwrap().unwrap_err();
        assert!(error.to_string().contains("does not take the work"), "{error}");
    }
    clock.check(LEASE);
    drop(busy);
}

/// The call has no end, so there is always a chunk that no host has.
fn a_chunk_that_the_broker_has_lost_comes_again_while_others_wait() -> Outcome {
    let server = Server::start();
    let agent = server.agent("a");
    // Long enough for the stop of the only host.
    let pool = server.cluster().lease(LEASE * 5).connect().unwrap().pool("gap").unwrap();
    let sent = Cell::new(0_u64);
    let mut results = pool.imap_unordered(slow_square, (0..).inspect(|&number| sent.set(number)));
    let mut squares = vec![results.next().unwrap()?];
    agent.signal(Signal::SIGSTOP);
    wait_until("some chunks wait at the broker", || {
        squares.extend(results.next_timeout(Duration::ZERO).map(Result::unwrap)); // sends what there is room for
        server.chunks().1 > 0
    });
    let name = server.streams().remove(0);
    server.as_client(async |context| {
        let stream = context.get_stream(name).await.unwrap();
        let last = stream.cached_info().state.last_sequence;
        assert!(stream.delete_message(last).await.unwrap());
        assert!(stream.consumer_info("agents").await.unwrap().delivered.stream_sequence < last);
    });
    agent.signal(Signal::SIGCONT);
    let (last, deadline) = (sent.get(), Instant::now() + TEST_TIMEOUT);
    let is_early = |&square: &u64| square <= last * last;
    let mut early = squares.into_iter().filter(is_early).count() as u64;
    while early <= last {
        assert!(Instant::now() < deadline, "{} of {} items have a result", early, last + 1);
        early += u64::from(is_early(&results.next().unwrap()?));
    }
    Ok(())
}

/// A broker, a host with two workers, and tasks that run there or wait.
struct Case {
    pool: Pool,
    tasks: Vec<TaskHandle<()>>,
    agent: Running,
    server: Server,
}

impl Case {
    fn new(storage: Storage) -> Self {
        Self::with(storage, Settings::default())
    }

    fn with(storage: Storage, settings: Settings) -> Self {
        let server = Server::with(settings);
        let agent = server.agent("a");
        let pool = server.cluster().lease(LEASE).storage(storage).connect().unwrap().pool("bounds").unwrap();
        assert_eq!(pool.apply(square, (3,)).unwrap(), 9);
        Self { pool, tasks: Vec::new(), agent, server }
    }

    /// Submits tasks, does the harm, and sees each handle resolve with an error that says so: each with one of the
    /// texts, and some with the first.
    fn resolves(mut self, expected: &[&str], harm: impl FnOnce(&mut Self)) {
        let losses = [HostLoss::default(), HostLoss::Fail];
        for loss in losses.into_iter().cycle().take(6) {
            self.tasks.push(self.pool.options().on_host_loss(loss).submit(sleep, (HOUR,)).unwrap());
        }
        self.server.wait_for_chunks("some run, and some wait", 2);
        let clock = Clock::start();
        harm(&mut self);
        let mut texts = Vec::new();
        for task in self.tasks.drain(..) {
            texts.push(resolved(&clock, task).unwrap_err().to_string());
        }
        let is_expected = |found: &String| expected.iter().any(|text| found.contains(text));
        assert!(texts.iter().all(is_expected), "{texts:?}");
        assert!(texts.iter().any(|found| found.contains(expected[0])), "{texts:?}");
    }

    /// Keeps the host busy until the tasks are cancelled: one for each worker.
    fn occupy(&self) -> [TaskHandle<()>; 2] {
        let tasks = [(); 2].map(|()| self.pool.submit(sleep, (HOUR,)).unwrap());
        self.server.wait_for_chunks("the host has them", 2);
        tasks
    }
}

/// The time counts from the last of the two.
fn host_and_broker_are_killed() {
    let mut case = Case::new(Storage::File);
    let tasks = [HostLoss::default(), HostLoss::Fail]
        .map(|loss| case.pool.options().on_host_loss(loss).submit(sleep, (HOUR,)).unwrap());
    case.server.wait_for_chunks("the host has them", 2);
    case.agent.kill();
    thread::sleep(LEASE * 8 / 10);
    case.server.kill();
    let clock = Clock::start();
    thread::sleep(LEASE * 8 / 10);
    case.server.restart();
    for task in tasks {
        let error = resolved(&clock, task).unwrap_err().to_string();
        assert!(["no host", "host a was lost"].iter().any(|text| error.contains(text)), "{error}");
    }
}

/// The arguments of a task that waits for a worker go.
fn objects_are_deleted() {
    let case = Case::new(Storage::File);
    let busy = case.occupy();
    let task = case.pool.submit(enlarge, (vec![1; 2_000_000], 1)).unwrap();
    wait_until("the arguments are stored", || case.server.stored_bytes("OBJ_") > 2_000_000);
    let names = case.server.streams();
    let store = names.into_iter().find(|name| name.starts_with("OBJ_")).unwrap();
    case.server.as_client(async |context| context.delete_stream(store).await.unwrap());
    let clock = Clock::start();
    for task in busy {
        assert!(task.cancel());
    }
    let error = resolved(&clock, task).unwrap_err();
    assert!(error.to_string().contains("object store"), "{error}");
}

/// To `JetStream`, its limit is as a full disk.
fn small_disk() -> Settings {
    Settings { limits: "max_file_store: 1000000".to_owned(), ..Settings::default() }
}

/// What is in already is done when the host is free.
fn the_disk_is_full() {
    let case = Case::with(Storage::File, small_disk());
    let busy = case.occupy();
    let clock = Clock::start();
    let submit = |_| case.pool.submit(enlarge, (vec![1; 100_000], 1)).unwrap();
    let tasks: Vec<_> = (0..30).map(submit).collect();
    let refused = || tasks.iter().filter(|task| task.is_ready()).count();
    wait_until("what does not fit is refused", || refused() >= 15);
    clock.check(LEASE);
    for task in busy {
        assert!(task.cancel());
    }
    let (done, failed): (Vec<_>, Vec<_>) = tasks.into_iter().map(TaskHandle::get).partition(Result::is_ok);
    assert!(!done.is_empty() && failed.len() >= 15, "{} and {}", done.len(), failed.len());
    for error in failed.into_iter().filter_map(Result::err) {
        assert!(error.to_string().contains("does not take the work"), "{error}");
    }
}

fn the_disk_is_too_small() {
    let case = Case::with(Storage::File, small_disk());
    let clock = Clock::start();
    let large = case.pool.submit(enlarge, (Vec::new(), 2_000_000)).unwrap();
    let error = resolved(&clock, large).unwrap_err();
    assert!(error.to_string().contains("object store"), "{error}");
}

/// Waits for the result.
fn resolved<R: Serialize + DeserializeOwned>(clock: &Clock, mut task: TaskHandle<R>) -> multiproc::Result<R> {
    let result = task.get_timeout(TEST_TIMEOUT).map(|result| result.expect("the handle does not resolve"));
    clock.check(LEASE);
    result
}

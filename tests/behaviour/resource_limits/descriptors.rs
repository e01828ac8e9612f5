//! Pools and children without free descriptors: failures, waiting, and resources held meanwhile.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use multiproc::pool::TaskHandle;
use multiproc::queue::{Sender, bounded};
use multiproc::server::Limit;
use multiproc::{Connection, Pool, Result, Server, pipe, wait_any_timeout};
use nix::errno::Errno;
use nix::sys::resource::{Resource, Usage, UsageWho, getrlimit, getrusage, setrlimit};
use nix::sys::signal::Signal;
use nix::sys::time::TimeValLike;

use super::{LARGE, limited};
use crate::support::{
    Latch, METHODS, Outcome, TEST_TIMEOUT, alone, descriptors, eventually, trials, wait_for_state, with,
};

trials![
    a_large_item_without_a_descriptor_is_an_error_in_time,
    results_that_a_pool_cannot_receive_are_errors_and_cost_no_worker,
    items_that_a_worker_cannot_receive_are_errors_and_cost_no_worker,
    memory_that_is_used_again_keeps_to_a_new_limit,
    tasks_that_wait_hold_few_descriptors,
    results_that_wait_hold_few_mappings_and_descriptors,
    results_that_wait_for_the_first_hold_few_mappings_and_descriptors,
    a_result_waits_for_a_descriptor,
    a_childs_result_can_be_had_when_there_is_a_descriptor,
    a_reply_that_needs_a_descriptor_blocks_no_caller,
    a_reply_waits_for_a_descriptor,
    a_long_shortage_is_an_error_only_of_the_get_that_meets_it,
    a_caller_waits_for_a_descriptor_to_connect_again,
    a_lack_of_memory_is_an_error_only_of_the_get_that_meets_it,
    to_wait_for_a_reply_without_a_descriptor_takes_no_time_of_a_cpu,
];

/// Results that cannot be received fail alone: others arrive, the workers live, and later all works.
fn results_that_a_pool_cannot_receive_are_errors_and_cost_no_worker() -> Outcome {
    alone(|| {
        let pool = Pool::new(2)?;
        let result = |number: u32| vec![7_u8; if number.is_multiple_of(2) { LARGE.len() } else { 3 }];
        assert_eq!(pool.map(result, 0..4)?.len(), 4);
        let pids = pool.worker_pids();
        let outcomes = limited(Resource::RLIMIT_NOFILE, 3, || pool.map_results(result, 0..20))?;
        for (number, outcome) in (0..).zip(outcomes) {
            match outcome {
                Ok(bytes) => assert!(number % 2 == 1 && bytes == [7; 3], "{number}"),
                Err(error) => {
                    assert_eq!((number % 2, error.index()), (0, Some(number)), "{error}");
                    let text = error.to_string();
                    assert!(
                        text.starts_with("cannot receive a packet's descriptors: Too many open"),
                        "{text}"
                    );
                }
            }
        }
        assert!(pool.map(result, [0])? == [LARGE]);
        assert_eq!(pool.worker_pids(), pids);
        Ok(())
    })
}

/// As above, with the limit in the worker.
fn items_that_a_worker_cannot_receive_are_errors_and_cost_no_worker() -> Outcome {
    alone(|| {
        let pool = Pool::new(1)?;
        let pids = pool.worker_pids();
        let set_limit = |limit| {
            let (before, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
            setrlimit(Resource::RLIMIT_NOFILE, limit, most).unwrap();
            before
        };
        let before = pool.apply(set_limit, (3,))?;
        let (sender, receiver) = bounded::<u32>(1)?;
        let send = |sender: Sender<u32>| sender.send(1).unwrap();
        let length = |bytes: Vec<u8>| bytes.len();
        let too_much = [
            pool.apply(send, (sender.clone(),)).unwrap_err(),
            pool.apply(length, (LARGE.to_vec(),)).unwrap_err(),
            pool.apply(|| LARGE.to_vec(), ()).unwrap_err(),
        ];
        for error in too_much {
            let origin = (error.os_error(), error.pid());
            assert_eq!(origin, (Some(Errno::EMFILE as i32), Some(pids[0])), "{error}");
        }
        assert_eq!(pool.apply(set_limit, (before,))?, 3);
        pool.apply(send, (sender,))?;
        assert_eq!(receiver.iter().collect::<Result<Vec<_>>>()?, [1]);
        assert_eq!(pool.apply(length, (LARGE.to_vec(),))?, LARGE.len());
        assert_eq!(pool.worker_pids(), pids);
        Ok(())
    })
}

/// A cached memfd must not be written beyond a new limit: SIGXFSZ would kill.
fn memory_that_is_used_again_keeps_to_a_new_limit() -> Outcome {
    alone(|| {
        let pool = Pool::new(1)?;
        let much = vec![7_u8; 1 << 20];
        let length = |bytes: Vec<u8>| bytes.len();
        assert_eq!(pool.apply(length, (much.clone(),))?, 1 << 20);
        // What needs more memory is refused; what fits into that of the first is not.
        let more = [&much[..], &[7]].concat();
        let apply =
            |bytes: &[u8]| limited(Resource::RLIMIT_FSIZE, 4096, || pool.apply(length, (bytes.to_vec(),)));
        assert_eq!(apply(&much)?, 1 << 20);
        let error = apply(&more).unwrap_err();
        assert_eq!(error.os_error(), Some(Errno::EFBIG as i32), "{error}");
        assert_eq!(pool.apply(length, (more,))?, (1 << 20) + 1);
        Ok(())
    })
}

/// Far more pending tasks than the library may hold descriptors or mappings for.
const MANY: u32 = 600;
const FEW: usize = 200;

fn mappings() -> usize {
    fs::read_to_string("/proc/self/maps").unwrap().lines().count()
}

/// Tasks that no worker has taken hold memory; and none is refused when there is no descriptor at all.
fn tasks_that_wait_hold_few_descriptors() -> Outcome {
    alone(|| {
        let pool = Pool::new(2)?;
        let (latches, mut theirs): (Vec<_>, Vec<_>) =
            (0..2).map(|_| pipe::<(), ()>()).collect::<Result<Vec<_>>>()?.into_iter().unzip();
        let stay = |latch: Connection<(), ()>| drop(latch.recv());
        let staying: Vec<_> =
            theirs.drain(..).map(|latch| pool.submit(stay, (latch,))).collect::<Result<_>>()?;
        let before = (descriptors().len(), mappings());
        // A text, since an unoptimised program encodes the bytes of a `Vec` one by one.
        let text = "7".repeat(LARGE.len());
        let sum = |number: u32, text: String| {
            let is_whole = text.len() == LARGE.len() && text.starts_with('7') && text.ends_with('7');
            number + u32::from(is_whole)
        };
        let submit = |number| pool.submit(sum, (number, text.clone()));
        let mut tasks: Vec<_> = (0..MANY).map(submit).collect::<Result<_>>()?;
        let held = (descriptors().len() - before.0, mappings().saturating_sub(before.1));
        assert!(held.0 < FEW && held.1 < FEW, "{held:?}");
        tasks.extend(limited(Resource::RLIMIT_NOFILE, 3, || submit(MANY)));
        assert_eq!(tasks.len(), MANY as usize + 1);
        drop(latches);
        staying.into_iter().try_for_each(TaskHandle::get)?;
        for (number, task) in (0..).zip(tasks) {
            assert_eq!(task.get()?, number + 1);
        }
        Ok(())
    })
}

/// Results that have arrived, and are not taken yet.
fn results_that_wait_hold_few_mappings_and_descriptors() -> Outcome {
    alone(|| {
        let pool = Pool::new(2)?;
        for size in [40_000, 100_000, 300_000] {
            let before = (descriptors().len(), mappings());
            let large = |size: usize, number: u32| [vec![7_u8; size], number.to_le_bytes().to_vec()].concat();
            let tasks: Vec<_> =
                (0..MANY).map(|number| pool.submit(large, (size, number))).collect::<Result<_>>()?;
            eventually("all results are there", || tasks.iter().all(TaskHandle::is_ready));
            let held = (descriptors().len().saturating_sub(before.0), mappings().saturating_sub(before.1));
            assert!(held.0 < FEW && held.1 < FEW, "{size} bytes: {held:?}");
            for (number, task) in (0..).zip(tasks) {
                assert!(task.get()? == large(size, number), "{size} bytes, {number}");
            }
        }
        Ok(())
    })
}

/// The result of an item, which the first one gives when its latch is dropped.
fn large_result((number, size, latch): (u32, usize, Option<Latch>)) -> Vec<u8> {
    if let Some(latch) = latch {
        let _ = latch.recv();
    }
    [vec![7_u8; size], number.to_le_bytes().to_vec()].concat()
}

/// The first item of a `map` takes long, and the results of the others wait for its own. (An `imap` is only a few
/// items ahead of what it has given.)
fn results_that_wait_for_the_first_hold_few_mappings_and_descriptors() -> Outcome {
    alone(|| {
        let pool = Pool::builder().workers(2).chunk_size(1).build()?;
        let mut done = 0;
        for size in [40_000, 300_000] {
            let (latch, first) = pipe()?;
            let mut first = Some(first);
            let items: Vec<_> = (0..MANY).map(|number| (number, size, first.take())).collect();
            let before = (descriptors().len(), mappings());
            thread::scope(|scope| -> Result<()> {
                let results = scope.spawn(|| pool.map(large_result, items));
                // Some others may be in the hands of the first one's worker.
                let most = done + 2 * FEW as u64;
                eventually("most are there", || pool.stats().total().tasks_done >= most);
                let held =
                    (descriptors().len().saturating_sub(before.0), mappings().saturating_sub(before.1));
                assert!(held.0 < FEW && held.1 < FEW, "{size} bytes: {held:?}");
                drop(latch);
                let results = results.join().unwrap()?;
                assert_eq!(results.len(), MANY as usize);
                assert!(
                    (0..).zip(results).all(|(number, result)| result == large_result((number, size, None)))
                );
                Ok(())
            })?;
            done += u64::from(MANY);
        }
        Ok(())
    })
}

/// It is not lost at once: its task has run, and will not run again.
fn a_result_waits_for_a_descriptor() -> Outcome {
    alone(|| {
        let pool = Pool::new(2)?;
        let pids = pool.worker_pids();
        let result = |number: u32| [number.to_le_bytes().to_vec(), LARGE.to_vec()].concat();
        assert!(pool.apply(result, (5,))? == result(5));
        let begun = Instant::now();
        let (tasks, early) = limited(Resource::RLIMIT_NOFILE, 3, || -> Result<_> {
            let mut tasks: Vec<_> =
                (0..4).map(|number| pool.submit(result, (number,))).collect::<Result<_>>()?;
            let soon = Duration::from_millis(50);
            let early: Result<Vec<_>> = tasks.iter_mut().map(|task| task.get_timeout(soon)).collect();
            Ok((tasks, early))
        })?;
        if begun.elapsed() >= Duration::from_secs(1) {
            return Ok(()); // the machine was too busy: the shortage may have lasted too long
        }
        assert!(early?.iter().all(Option::is_none));
        for (number, task) in (0..).zip(tasks) {
            assert!(task.get()? == result(number));
        }
        assert_eq!(pool.worker_pids(), pids);
        Ok(())
    })
}

/// The state of a server.
struct Nothing;

fn a_reply_that_needs_a_descriptor_blocks_no_caller() -> Outcome {
    alone(|| {
        let server = Server::spawn(|| Nothing, ())?;
        let large = server.submit(|_: &mut Nothing, length: usize| vec![7_u8; length], (1 << 20,))?;
        wait_for_state(server.pid(), 'S'); // it has replied
        let small = limited(Resource::RLIMIT_NOFILE, 3, || {
            assert!(!large.is_ready());
            server.submit(|_: &mut Nothing| 5, ())
        })?;
        assert!(large.get()? == vec![7; 1 << 20]);
        assert_eq!(small.get()?, 5);
        Ok(())
    })
}

/// A `get` that meets the shortage fails no call: neither its own, nor those whose replies come later.
fn a_reply_waits_for_a_descriptor() -> Outcome {
    alone(|| {
        let server = Server::spawn(|| Nothing, ())?;
        let mut large = server.submit(|_: &mut Nothing, length: usize| vec![7_u8; length], (1 << 20,))?;
        let small = server.submit(|_: &mut Nothing| 5, ())?;
        wait_for_state(server.pid(), 'S'); // it has replied
        let begun = Instant::now();
        let early = limited(Resource::RLIMIT_NOFILE, 3, || large.get_timeout(Duration::from_millis(50)));
        if begun.elapsed() >= Duration::from_secs(1) {
            return Ok(()); // the machine was too busy: the shortage may have lasted too long
        }
        assert!(early?.is_none());
        assert!(large.get()? == vec![7; 1 << 20]);
        assert_eq!(small.get()?, 5);
        Ok(())
    })
}

fn a_long_shortage_is_an_error_only_of_the_get_that_meets_it() -> Outcome {
    alone(|| {
        let server = Server::spawn(|| Nothing, ())?;
        let mut large = server.submit(|_: &mut Nothing, length: usize| vec![7_u8; length], (1 << 20,))?;
        let small = server.submit(|_: &mut Nothing| 5, ())?;
        wait_for_state(server.pid(), 'S'); // it has replied
        let outcome = limited(Resource::RLIMIT_NOFILE, 3, || large.get_timeout(TEST_TIMEOUT));
        assert_eq!(outcome.unwrap_err().os_error(), Some(Errno::EMFILE as i32));
        assert!(large.get()? == vec![7; 1 << 20]);
        assert_eq!(small.get()?, 5);
        Ok(())
    })
}

/// As the last but one, of calls that wait while the server is made again.
fn a_caller_waits_for_a_descriptor_to_connect_again() -> Outcome {
    alone(|| {
        let limit = Limit::new(1, Duration::from_secs(3600));
        let server = Server::builder().restart(limit).spawn(|| Nothing, ())?;
        let first = server.pid();
        let running = server.submit(|_: &mut Nothing| -> u32 { std::process::abort() }, ())?;
        let mut behind = server.submit(|_: &mut Nothing| 5, ())?;
        let other = server.submit(|_: &mut Nothing| 6, ())?;
        eventually("there is another process", || server.pid() != first);
        let begun = Instant::now();
        let (early, is_ready) = limited(Resource::RLIMIT_NOFILE, 3, || {
            (behind.get_timeout(Duration::from_millis(50)), other.is_ready())
        });
        if begun.elapsed() >= Duration::from_secs(1) {
            return Ok(()); // the machine was too busy: the shortage may have lasted too long
        }
        assert!(early?.is_none() && !is_ready);
        assert_eq!((behind.get_timeout(TEST_TIMEOUT)?, other.get()?), (Some(5), 6));
        assert_eq!(running.get().unwrap_err().signal(), Some(Signal::SIGABRT as i32));
        Ok(())
    })
}

fn a_lack_of_memory_is_an_error_only_of_the_get_that_meets_it() -> Outcome {
    const LENGTH: usize = 64 << 20; // the allocator has no such piece
    alone(|| {
        let server = Server::spawn(|| Nothing, ())?;
        let mut large = server.submit(|_: &mut Nothing, length: usize| vec![7_u8; length], (LENGTH,))?;
        let small = server.submit(|_: &mut Nothing| 5, ())?;
        wait_for_state(server.pid(), 'S'); // it has replied
        let (outcome, is_ready) =
            limited(Resource::RLIMIT_AS, 1, || (large.get_timeout(TEST_TIMEOUT), small.is_ready()));
        assert_eq!(outcome.unwrap_err().os_error(), Some(Errno::ENOMEM as i32));
        assert!(!is_ready);
        assert!(large.get()? == vec![7; LENGTH]);
        assert_eq!(small.get()?, 5);
        Ok(())
    })
}

fn to_wait_for_a_reply_without_a_descriptor_takes_no_time_of_a_cpu() -> Outcome {
    alone(|| {
        let server = Server::spawn(|| Nothing, ())?;
        let large = server.submit(|_: &mut Nothing, length: usize| vec![7_u8; length], (1 << 20,))?;
        wait_for_state(server.pid(), 'S'); // it has replied
        let cpu_time = || getrusage(UsageWho::RUSAGE_SELF).unwrap();
        let before = cpu_time();
        let ready =
            limited(Resource::RLIMIT_NOFILE, 3, || wait_any_timeout(&[&large], Duration::from_secs(1)));
        let after = cpu_time();
        assert_eq!(ready?, [0; 0]);
        let used = |usage: Usage| usage.user_time() + usage.system_time();
        assert!((used(after) - used(before)).num_milliseconds() < 500);
        assert_eq!(wait_any_timeout(&[&large], TEST_TIMEOUT)?, [0]);
        assert!(large.get()? == vec![7; 1 << 20]);
        Ok(())
    })
}

fn a_childs_result_can_be_had_when_there_is_a_descriptor() -> Outcome {
    alone(|| {
        for method in METHODS {
            let mut child = with(method).spawn(|| LARGE.to_vec(), ())?;
            eventually("it has ended", || !child.is_alive());
            let outcome = limited(Resource::RLIMIT_NOFILE, 3, || child.join_timeout(TEST_TIMEOUT));
            assert_eq!(outcome.unwrap_err().os_error(), Some(Errno::EMFILE as i32));
            assert!(child.join_timeout(TEST_TIMEOUT)?.unwrap() == LARGE);
            assert!(child.join_timeout(TEST_TIMEOUT).is_err(), "only once");
        }
        Ok(())
    })
}

fn a_large_item_without_a_descriptor_is_an_error_in_time() -> Outcome {
    alone(|| {
        let pool = Pool::new(1)?;
        let length = |bytes: Vec<u8>| bytes.len();
        assert_eq!(pool.apply(length, (vec![0; 40_000],))?, 40_000);
        assert_eq!(pool.apply(|text: String| text.len(), ("another header".to_owned(),))?, 14);
        let failed = limited(Resource::RLIMIT_NOFILE, 3, || {
            pool.submit(length, (vec![0; 40_000],)).and_then(|mut handle| handle.get_timeout(TEST_TIMEOUT))
        });
        assert_eq!(failed.unwrap_err().os_error(), Some(Errno::EMFILE as i32));
        assert_eq!(pool.apply(length, (vec![0; 40_000],))?, 40_000);
        Ok(())
    })
}

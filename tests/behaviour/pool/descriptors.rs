//! Results with descriptors: files, shared memory, ends of queues.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::time::Duration;

use multiproc::queue::{Sender, bounded};
use multiproc::{Fd, Pool, Result, SharedSlice, TaskError, sync};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::blocked_task;
use crate::support::{Outcome, TEST_TIMEOUT, alone, descriptors, eventually, trials};

trials![
    a_file_shared_memory_and_an_end_of_a_queue_are_results,
    results_with_and_without_descriptors_keep_their_order,
    a_result_counts_whose_worker_is_killed_right_after,
    a_result_with_descriptors_has_a_time_limit,
    a_result_that_is_never_taken_is_closed,
    results_beyond_the_descriptors_of_the_process_are_errors,
    inline_results_have_descriptors,
    a_task_that_was_cancelled_while_it_waited_holds_nothing,
];

type Text = Fd<File>;

fn file(text: &str) -> Result<Text, TaskError> {
    let mut file = File::from(memfd_create("text", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(text.as_bytes())?;
    Ok(Fd::from(file))
}

fn text(file: Text) -> String {
    let (mut file, mut text) = (file.into_inner(), String::new());
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    text
}

fn a_file_shared_memory_and_an_end_of_a_queue_are_results() -> Outcome {
    let pool = Pool::new(1)?;
    assert_eq!(text(pool.apply(|| file("result"), ())??), "result");
    let slice = pool.apply(|| SharedSlice::from_slice(&vec![7_u64; 100_000]), ())??;
    assert_eq!(slice.iter().sum::<u64>(), 700_000);
    let event = pool.submit(sync::Event::new, ())?.get()??;
    assert!(!event.is_set());
    let (sender, receiver) = bounded::<u32>(1)?;
    let returned: Sender<u32> = pool.apply(|sender: Sender<u32>| sender, (sender,))?;
    returned.send(7)?;
    assert_eq!(receiver.recv()?, 7);
    drop(returned);
    assert!(receiver.recv().unwrap_err().is_disconnected(), "the worker has closed its own");
    Ok(())
}

/// Every third number with a file, every fifth with a large value.
fn mixed(number: u32) -> Result<(u32, Option<Text>, String), TaskError> {
    let file = number.is_multiple_of(3).then(|| file(&number.to_string())).transpose()?;
    Ok((number, file, "x".repeat(if number.is_multiple_of(5) { 100_000 } else { 3 })))
}

fn are_in_order(
    results: impl IntoIterator<Item = Result<(u32, Option<Text>, String), TaskError>>,
) -> Result<u32> {
    let mut expected = 0;
    for result in results {
        let (number, file, padding) = result.map_err(multiproc::Error::from)?;
        assert_eq!(number, expected);
        assert_eq!(file.map(text), number.is_multiple_of(3).then(|| number.to_string()));
        assert_eq!(padding.len(), if number.is_multiple_of(5) { 100_000 } else { 3 });
        expected += 1;
    }
    Ok(expected)
}

fn results_with_and_without_descriptors_keep_their_order() -> Outcome {
    let pool = Pool::new(2)?;
    assert_eq!(are_in_order(pool.map(mixed, 0..300)?)?, 300);
    let lazily: Result<Vec<_>> = pool.imap(mixed, 0..300).collect();
    assert_eq!(are_in_order(lazily?)?, 300);
    Ok(())
}

fn a_result_counts_whose_worker_is_killed_right_after() -> Outcome {
    let pool = Pool::new(1)?;
    for round in 0..20 {
        let with_pid = |round: u32| Ok::<_, TaskError>((std::process::id(), file(&round.to_string())?));
        let task = pool.submit(with_pid, (round,))?;
        let next = pool.submit(|| nix::sys::signal::raise(nix::sys::signal::SIGKILL).is_ok(), ())?;
        let (pid, file) = task.get()??;
        let error = next.get().unwrap_err();
        assert_eq!((error.signal(), error.pid()), (Some(9), Some(pid)));
        assert_eq!(text(file), round.to_string());
    }
    Ok(())
}

fn a_result_with_descriptors_has_a_time_limit() -> Outcome {
    let pool = Pool::new(1)?;
    let options = pool.options().timeout(TEST_TIMEOUT);
    assert_eq!(text(options.apply(|| file("in time"), ())??), "in time");
    let options = pool.options().timeout(Duration::from_millis(20));
    let late = || {
        std::thread::sleep(TEST_TIMEOUT);
        file("late")
    };
    assert!(options.apply(late, ()).unwrap_err().is_timeout());
    Ok(())
}

fn a_result_that_is_never_taken_is_closed() -> Outcome {
    alone(|| {
        let pool = Pool::new(1)?;
        assert_eq!(text(pool.apply(|| file("the first"), ())??), "the first");
        let before = descriptors();
        for _ in 0..10 {
            drop(pool.submit(|| file("dropped"), ())?);
            let mut results = pool.imap(|number: u32| file(&number.to_string()), 0..20);
            assert!(results.next().is_some());
        }
        pool.apply(|| (), ())?;
        eventually("all are closed", || descriptors() == before);
        Ok(())
    })
}

fn results_beyond_the_descriptors_of_the_process_are_errors() -> Outcome {
    alone(|| {
        let pool = Pool::new(2)?;
        assert_eq!(text(pool.apply(|| file("the first"), ())??), "the first");
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, descriptors().len() as u64 + 10, hard).unwrap();
        let results = pool.map_results(|number: u32| file(&number.to_string()), 0..30)?;
        let (fine, failed): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
        assert!((1..30).contains(&fine.len()), "{}", fine.len());
        for error in failed.into_iter().filter_map(Result::err) {
            assert_eq!(error.os_error(), Some(nix::errno::Errno::EMFILE as i32), "{error}");
        }
        drop(fine);
        assert_eq!(text(pool.apply(|| file("the pool is fine"), ())??), "the pool is fine");
        Ok(())
    })
}

fn inline_results_have_descriptors() -> Outcome {
    let pool = Pool::builder().workers(1).inline(true).build()?;
    assert_eq!(are_in_order(pool.map(mixed, 0..50)?)?, 50);
    let (sender, receiver) = bounded::<u32>(1)?;
    drop(pool.apply(|sender: Sender<u32>| sender, (sender,))?);
    assert!(receiver.recv().unwrap_err().is_disconnected());
    Ok(())
}

/// Though what waits in front of it goes on waiting.
fn a_task_that_was_cancelled_while_it_waited_holds_nothing() -> Outcome {
    let pool = Pool::new(1)?;
    let (task, latch) = blocked_task(&pool)?;
    let waiting = (0..5).map(|number| pool.submit(|number: u32| number, (number,)));
    let waiting = waiting.collect::<Result<Vec<_>>>()?;
    let (sender, receiver) = bounded::<u32>(1)?;
    let sends = pool.submit(|sender: Sender<u32>| sender.send(7).is_ok(), (sender,))?;
    assert!(sends.cancel());
    let end = receiver.recv_timeout(TEST_TIMEOUT).unwrap_err();
    assert!(end.is_disconnected(), "{end}");
    drop(latch);
    task.get()?;
    for (number, task) in (0..).zip(waiting) {
        assert_eq!(task.get()?, number);
    }
    Ok(())
}

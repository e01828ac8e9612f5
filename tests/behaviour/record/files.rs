//! Each task that fails leaves one file, and what does not fail leaves none.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, abort};
use std::thread::{self, sleep};
use std::time::Duration;

use multiproc::queue::{Sender, bounded};
use multiproc::sync::Event;
use multiproc::{Pool, Result};

use super::Directory;
use crate::support::{METHODS, Outcome, trials};

trials![
    each_failed_task_leaves_a_file_of_its_own,
    a_task_that_takes_too_long_is_recorded,
    every_attempt_is_in_the_file_of_the_last,
    files_and_their_size_are_limited,
    a_long_message_and_many_attempts_are_cut,
    arguments_of_an_initializer_count_towards_the_limit,
    arguments_with_descriptors_are_not_recorded,
    arguments_beside_those_that_share_memory_are_recorded,
    a_file_that_cannot_be_written_is_reported_once_and_loses_nothing,
    tasks_that_end_with_their_pool_are_not_recorded,
    nothing_is_written_unless_it_is_asked_for,
    an_ended_pool_has_recorded_and_delivered_everything,
    a_relative_directory_is_one_of_where_the_program_began,
    a_copy_made_while_a_task_is_recorded_records_one,
];

fn task(number: u64) -> u64 {
    match number % 10 {
        3 => abort(),
        7 => panic!("number {number}"),
        _ => number,
    }
}

fn text(path: &Path) -> Outcome<String> {
    Ok(String::from_utf8_lossy(&fs::read(path)?).into_owned())
}

fn mode(path: &Path) -> Outcome<u32> {
    Ok(fs::metadata(path)?.permissions().mode() & 0o777)
}

fn each_failed_task_leaves_a_file_of_its_own() -> Outcome {
    for method in METHODS {
        let directory = Directory::new();
        let pool = Pool::builder().workers(3).start_method(method).record(directory.path()).build()?;
        let mut paths = Vec::new();
        for (number, result) in (0..60).zip(pool.map_results(task, 0..60)?) {
            let Err(error) = result else {
                assert!(![3, 7].contains(&(number % 10)), "{number}");
                continue;
            };
            let path = error.record().unwrap().to_owned();
            let text = text(&path)?;
            assert!(text.contains(&format!("\nerror: {error}\n")), "{text}");
            assert!(text.contains("::task\narguments: 8 bytes\n"), "{text}");
            if error.is_panic() {
                assert!(format!("{error:#}").ends_with(&format!("\nrecorded in {}", path.display())));
            }
            assert_eq!(mode(&path)?, 0o600);
            paths.push(path);
        }
        paths.sort();
        let mut files = directory.files();
        files.sort();
        assert_eq!((paths.len(), &paths), (12, &files));
        assert_eq!(mode(directory.path())?, 0o700);
        drop(pool);
    }
    Ok(())
}

fn a_task_that_takes_too_long_is_recorded() -> Outcome {
    let directory = Directory::new();
    let pool = Pool::builder().workers(1).record(directory.path()).build()?;
    let error = pool.options().timeout(Duration::from_millis(50)).apply(sleep, (Duration::from_secs(3600),));
    let error = error.unwrap_err();
    assert!(error.is_timeout(), "{error}");
    assert!(text(error.record().unwrap())?.contains("which took longer than 50ms"));
    Ok(())
}

fn every_attempt_is_in_the_file_of_the_last() -> Outcome {
    let directory = Directory::new();
    let pool = Pool::builder().workers(1).record(directory.path()).build()?;
    let error = pool.options().retries(2).apply(task, (3,)).unwrap_err();
    assert_eq!((error.attempts().len(), directory.files().len()), (2, 1));
    let text = text(error.record().unwrap())?;
    for attempt in error.attempts() {
        assert!(text.contains(&format!("\nbefore: {attempt}\n")), "{text}");
    }
    Ok(())
}

fn files_and_their_size_are_limited() -> Outcome {
    let directory = Directory::new();
    let pool = Pool::builder().workers(2).record(directory.path()).record_limits(3, 1000).build()?;
    let results = pool.map_results(|bytes: Vec<u8>| panic!("{} bytes", bytes.len()), vec![vec![1; 990]; 9]);
    let results: Vec<Result<()>> = results?;
    let recorded =
        results.iter().filter(|result| result.as_ref().is_err_and(|error| error.record().is_some()));
    assert_eq!((recorded.count(), directory.files().len()), (3, 3));
    assert!(results.iter().all(|result| result.as_ref().is_err_and(multiproc::Error::is_panic)));
    drop(pool);

    let directory = Directory::new();
    let pool = Pool::builder().workers(2).record(directory.path()).record_limits(3, 1000).build()?;
    for length in [200_000, 2_000_000] {
        let error = pool.apply(|bytes: Vec<u8>| assert!(bytes.is_empty()), (vec![1; length],)).unwrap_err();
        let path = error.record().unwrap();
        assert!(fs::metadata(path)?.len() < 100_000); // a panic may have its backtrace
        let text = text(path)?;
        assert!(text.contains("\narguments: not recorded: they take 20") && text.contains("limit is 1000"));
    }
    Ok(())
}

fn a_long_message_and_many_attempts_are_cut() -> Outcome {
    let directory = Directory::new();
    let pool = Pool::builder().workers(1).record(directory.path()).build()?;
    let fail = |length: usize| panic!("{}", "x".repeat(length));
    let error = pool.apply::<_, _, ()>(fail, (10 << 20,)).unwrap_err();
    assert!(error.to_string().len() > 10 << 20, "the caller's error is whole");
    let path = error.record().unwrap();
    assert!(fs::metadata(path)?.len() < 300_000);
    assert!(text(path)?.contains("… (cut: it has 10485760 bytes)\n"));

    let error = pool.options().retries(40).apply(task, (3,)).unwrap_err();
    assert_eq!(error.attempts().len(), 40);
    let path = error.record().unwrap();
    assert!(fs::metadata(path)?.len() < 400_000, "each attempt has up to 32 KB");
    let text = text(path)?;
    assert!(text.contains("\nbefore: 30 earlier attempts, which are not recorded\n"), "{text}");
    for (index, attempt) in error.attempts().iter().enumerate() {
        assert_eq!(text.contains(&format!("\nbefore: {attempt}\n")), index >= 30, "{text}");
    }
    Ok(())
}

fn arguments_of_an_initializer_count_towards_the_limit() -> Outcome {
    let directory = Directory::new();
    let builder = Pool::builder().workers(1).initializer(|_: Vec<u8>| (), (vec![1; 200_000],));
    let pool = builder.record(directory.path()).record_limits(3, 1000).build()?;
    let error = pool.apply(|number: u8| assert_eq!(number, 4), (5,)).unwrap_err();
    let path = error.record().unwrap();
    assert!(fs::metadata(path)?.len() < 100_000);
    assert!(text(path)?.contains("\narguments: not recorded: they take 20"), "{}", text(path)?);
    Ok(())
}

fn arguments_with_descriptors_are_not_recorded() -> Outcome {
    let directory = Directory::new();
    let (sender, _receiver) = bounded::<u32>(1)?;
    let pool = Pool::builder().workers(1).record(directory.path()).build()?;
    let crash = |sender: Sender<u32>| -> () {
        drop(sender);
        abort()
    };
    let error = pool.apply(crash, (sender,)).unwrap_err();
    let path = error.record().unwrap();
    assert!(text(path)?.contains("\narguments: not recorded: they hold descriptors"));
    let mut replay = Command::new(env!("CARGO_BIN_EXE_recorded"));
    assert_eq!(replay.env("MULTIPROC_REPLAY", path).output()?.status.code(), Some(2));
    Ok(())
}

fn arguments_beside_those_that_share_memory_are_recorded() -> Outcome {
    let directory = Directory::new();
    let pool = Pool::builder().workers(1).chunk_size(10).record(directory.path()).build()?;
    let event = Event::new()?;
    let fail = |(event, number): (Option<Event>, u32)| assert!(number < 1, "{number}: {event:?}");
    pool.apply(fail, ((Some(event.clone()), 0),))?; // the first time the event travels by itself
    let results = pool.map_results(fail, [(Some(event.clone()), 0), (None, 1), (Some(event.clone()), 2)])?;
    let mut files = results.iter().filter_map(|result| text(result.as_ref().err()?.record()?).ok());
    assert!(!files.next().unwrap().contains("not recorded"));
    assert!(files.next().unwrap().contains("\narguments: not recorded: they hold descriptors"));
    let large = |_: Event, text: String| assert!(text.is_empty());
    let error = pool.starmap(large, [(event, "large".repeat(20_000))]).unwrap_err();
    assert!(text(error.record().unwrap())?.contains("\narguments: not recorded: they hold descriptors"));
    Ok(())
}

fn a_file_that_cannot_be_written_is_reported_once_and_loses_nothing() -> Outcome {
    let directory = Directory::new();
    let mut program = Command::new(env!("CARGO_BIN_EXE_recorded"));
    let output = program.arg("unwritable").env("MULTIPROC_RECORD", directory.path()).output()?;
    assert_eq!(String::from_utf8(output.stdout)?, "panic none\n".repeat(9));
    let errors = String::from_utf8(output.stderr)?;
    assert_eq!(errors.matches("multiproc: cannot record failed tasks").count(), 1, "{errors}");
    Ok(())
}

fn tasks_that_end_with_their_pool_are_not_recorded() -> Outcome {
    let directory = Directory::new();
    let pool = Pool::builder().workers(2).record(directory.path()).build()?;
    let task = pool.submit(sleep, (Duration::from_secs(3600),))?;
    let cancelled = pool.submit(sleep, (Duration::from_secs(3600),))?;
    crate::support::eventually("both run", || task.is_running() && cancelled.is_running());
    assert!(cancelled.cancel());
    pool.terminate();
    assert!(task.get().unwrap_err().record().is_none());
    drop(pool);
    assert!(directory.files().is_empty());
    Ok(())
}

fn nothing_is_written_unless_it_is_asked_for() -> Outcome {
    let pool = Pool::new(1)?;
    assert!(pool.apply(task, (3,)).unwrap_err().record().is_none());
    assert!(pool.apply(task, (7,)).unwrap_err().record().is_none());
    drop(pool);
    for method in ["fork-server", "spawn"] {
        for (how, kinds) in
            [("pool", &["exit", "panic"][..]), ("process", &["exit"]), ("limited", &["timeout"])]
        {
            let directory = Directory::new();
            fs::create_dir(directory.path())?;
            let mut program = Command::new(env!("CARGO_BIN_EXE_recorded"));
            program.arg(how).args(kinds).current_dir(directory.path()).env("FLAKY", "1");
            program.env_remove("MULTIPROC_RECORD").env("MULTIPROC_START_METHOD", method);
            let output = String::from_utf8(program.output()?.stdout)?;
            assert!(output.lines().eq(kinds.iter().map(|kind| format!("{kind} none"))), "{output}");
            assert_eq!(directory.files(), Vec::<PathBuf>::new());
        }
    }
    Ok(())
}

/// Other threads wait for results, too, and so write records.
fn an_ended_pool_has_recorded_and_delivered_everything() -> Outcome {
    for _ in 0..20 {
        let directory = Directory::new();
        let pool = Pool::builder().workers(2).record(directory.path()).build()?;
        let fail = |bytes: Vec<u8>| -> usize { panic!("{} bytes", bytes.len()) };
        let [one, other] = [1, 2].map(|_| pool.submit(fail, (vec![1; 4 << 20],)));
        let (one, other) = (one?, other?);
        let first = thread::spawn(move || one.get());
        pool.join();
        assert!(other.is_ready(), "it is recorded, and not delivered");
        assert_eq!(directory.files().len(), 2);
        for error in [first.join().unwrap(), other.get()] {
            assert!(fs::metadata(error.unwrap_err().record().unwrap())?.len() > 4 << 20, "a whole file");
        }
    }
    Ok(())
}

/// The processes of a program that changes its directory, and whose children do.
fn a_relative_directory_is_one_of_where_the_program_began() -> Outcome {
    for method in ["fork-server", "spawn"] {
        let start = Directory::new();
        fs::create_dir(start.path())?;
        let mut program = Command::new(env!("CARGO_BIN_EXE_recorded"));
        program.arg("elsewhere").env("MULTIPROC_RECORD", "records").env("MULTIPROC_START_METHOD", method);
        let output = String::from_utf8(program.current_dir(start.path()).output()?.stdout)?;
        let records = fs::canonicalize(start.path())?.join("records");
        assert_eq!(output.lines().count(), 2, "{output}");
        assert!(output.lines().all(|path| Path::new(path).starts_with(&records)), "{output}");
        assert_eq!(fs::read_dir(&records)?.count(), 2, "the others are elsewhere");
    }
    Ok(())
}

/// A copy of a process has no thread that ends the record that was being written at the fork.
fn a_copy_made_while_a_task_is_recorded_records_one() -> Outcome {
    for _ in 0..10 {
        let directory = Directory::new();
        let mut program = Command::new(env!("CARGO_BIN_EXE_recorded"));
        let output = program.arg("copies").env("MULTIPROC_RECORD", directory.path()).output()?;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

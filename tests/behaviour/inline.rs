//! Inline mode: tasks run in the process that starts them.

use std::cell::RefCell;
use std::os::fd::AsFd;
use std::process::{Command, id};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use multiproc::pool::State;
use multiproc::{Pool, Process, ProcessBuilder, Result, SharedSlice, TaskError, pipe, queue};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::support::{Latch, Outcome, TEST_TIMEOUT, block, trials};

trials![
    a_task_runs_in_the_calling_thread,
    every_call_gives_the_results_of_a_pool,
    tasks_run_one_after_the_other_and_as_late_as_possible,
    a_panic_and_an_error_are_those_of_one_task,
    large_arguments_and_ends_of_queues_travel,
    an_initializer_runs_once_and_its_error_is_that_of_every_call,
    what_a_pool_cannot_do_is_an_error,
    a_closed_pool_takes_no_more_work,
    a_task_may_have_a_pool_of_its_own,
    every_pool_has_a_state_of_its_own,
    every_thread_has_a_state_of_its_own,
    a_state_is_dropped_with_its_pool,
    a_pool_may_end_with_its_thread,
    a_task_that_has_the_state_cannot_call_its_pool,
    a_process_is_a_thread,
    a_process_talks_with_its_parent,
    a_process_that_runs_cannot_be_killed,
    a_panic_of_a_process_is_its_error,
    tasks_and_processes_can_be_awaited,
    the_environment_asks_for_it,
    an_exit_in_a_task_says_why_the_program_ends,
];

fn inline_pool() -> Result<Pool> {
    Pool::builder().inline(true).build()
}

fn inline_process() -> ProcessBuilder {
    Process::builder().inline(true)
}

fn thread_id() -> String {
    format!("{} {:?}", id(), thread::current().id())
}

fn a_task_runs_in_the_calling_thread() -> Outcome {
    let pool = inline_pool()?;
    assert_eq!(pool.apply(thread_id, ())?, thread_id());
    assert_eq!(pool.submit(thread_id, ())?.get()?, thread_id());
    assert_eq!(pool.map(|_: u32| thread_id(), 0..3)?, vec![thread_id(); 3]);
    assert_eq!(pool.worker_pids(), [0; 0]);
    Ok(())
}

fn every_call_gives_the_results_of_a_pool() -> Outcome {
    let pool = inline_pool()?;
    let square = |n: u64| n * n;
    let squares: Vec<u64> = (0..1000).map(square).collect();
    assert_eq!(pool.map(square, 0..1000)?, squares);
    assert_eq!(pool.imap(square, 0..1000).collect::<Result<Vec<_>>>()?, squares);
    assert_eq!(
        pool.imap_unordered(square, 0..1000).map(|n| n.unwrap()).sum::<u64>(),
        squares.iter().sum::<u64>()
    );
    assert_eq!(pool.starmap(u64::pow, [(2, 3), (3, 2)])?, [8, 9]);
    assert_eq!(pool.map_reduce(square, |a, b| a + b, 0..1000)?, Some(squares.iter().sum()));
    assert_eq!(pool.map(|text: String| text + "!", ["a".to_owned()])?, ["a!"]);
    assert_eq!(pool.options().retries(2).buffer_size(1).map(square, 0..3)?, [0, 1, 4]);
    let task = pool.submit(square, (5,))?;
    assert!(task.is_ready() && !task.cancel());
    assert_eq!(task.get()?, 25);
    pool.join();
    Ok(())
}

static RAN: AtomicU32 = AtomicU32::new(0);

fn tasks_run_one_after_the_other_and_as_late_as_possible() -> Outcome {
    let pool = inline_pool()?;
    let mut results = pool.imap(|n: u32| (n, RAN.fetch_add(1, Relaxed)), 0..);
    for number in 0..10 {
        assert_eq!(results.next().unwrap()?, (number, number));
        assert_eq!(RAN.load(Relaxed), number + 1, "no task runs before its result is asked for");
    }
    Ok(())
}

fn a_panic_and_an_error_are_those_of_one_task() -> Outcome {
    let pool = inline_pool()?;
    let half = |n: u32| -> Result<u32, TaskError> {
        assert!(n != 2, "two of them");
        if n == 3 {
            Err("an odd number")?;
        }
        Ok(n / 2)
    };
    let halves = pool.map_results(half, [0, 2, 3, 4])?;
    assert_eq!(halves[3].as_ref().unwrap().as_ref().unwrap(), &2);
    assert_eq!(halves[2].as_ref().unwrap().as_ref().unwrap_err().to_string(), "an odd number");
    let error = halves[1].as_ref().unwrap_err();
    let text = error.to_string();
    assert!(error.is_panic() && error.index() == Some(1) && error.pid() == Some(id()), "{text}");
    assert!(text.contains("two of them") && text.contains("inline.rs"), "{text}");
    assert!(pool.map(half, [2, 3]).unwrap_err().is_panic());
    Ok(())
}

fn large_arguments_and_ends_of_queues_travel() -> Outcome {
    let pool = inline_pool()?;
    let bytes = pool.apply(|bytes: Vec<u8>| bytes, (vec![7; 10 << 20],))?;
    assert_eq!((bytes.len(), bytes.last()), (10 << 20, Some(&7)));
    let (sender, receiver) = queue::bounded::<u32>(4)?;
    pool.apply(|sender: queue::Sender<u32>| sender.send(1).is_ok(), (sender,))?;
    assert_eq!(receiver.into_iter().collect::<Result<Vec<_>>>()?, [1], "the task's end is closed");
    let slice = SharedSlice::from_slice(&[1_u64, 2, 3])?;
    assert_eq!(pool.apply(|slice: SharedSlice<u64>| slice.iter().sum::<u64>(), (slice,))?, 6);
    Ok(())
}

fn an_initializer_runs_once_and_its_error_is_that_of_every_call() -> Outcome {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = |by: u32| {
        COUNT.fetch_add(by, Relaxed);
    };
    let pool = Pool::builder().workers(3).initializer(count, (2,)).inline(true).build()?;
    assert_eq!(pool.map(|_: u32| COUNT.load(Relaxed), 0..4)?, [2; 4]);
    let panics = || -> () { panic!("no licence") };
    let pool = Pool::builder().initializer(panics, ()).inline(true).build()?;
    for _ in 0..2 {
        let error = pool.apply(|| (), ()).unwrap_err();
        assert!(error.to_string().contains("no licence"), "{error}");
    }
    Ok(())
}

fn what_a_pool_cannot_do_is_an_error() -> Outcome {
    let pool = inline_pool()?;
    let error = pool.options().timeout(Duration::from_secs(1)).apply(|| (), ()).unwrap_err();
    assert!(error.to_string().contains("time in inline mode (MULTIPROC_INLINE)"), "{error}");
    let error = Pool::builder().inline(true).memory_limit(1 << 30).build().unwrap_err();
    assert!(error.to_string().contains("memory in inline mode (MULTIPROC_INLINE)"), "{error}");
    Ok(())
}

fn a_closed_pool_takes_no_more_work() -> Outcome {
    let pool = inline_pool()?;
    pool.resize(3)?;
    assert_eq!(pool.worker_pids(), [0; 0]);
    let task = pool.submit(|| 1, ())?;
    pool.close();
    assert!(pool.apply(|| 1, ()).unwrap_err().is_closed());
    assert_eq!(task.get()?, 1);
    assert!(pool.join_timeout(Duration::ZERO));
    pool.terminate();
    Ok(())
}

fn a_task_may_have_a_pool_of_its_own() -> Outcome {
    let pool = inline_pool()?;
    let sums = pool.map(
        |n: u32| -> Result<u32> {
            let inner = Pool::builder().inline(n == 0).workers(1).build()?;
            Ok(inner.map(|n: u32| n + 1, 0..4)?.iter().sum())
        },
        [0, 1],
    )?;
    assert_eq!(sums.into_iter().collect::<Result<Vec<_>>>()?, [10, 10]);
    Ok(())
}

/// Two pools of the same state, in the order in which they were made and otherwise.
fn every_pool_has_a_state_of_its_own() -> Outcome {
    let count = |state: &mut u32, by: u32| {
        *state += by;
        *state
    };
    let make = |start: u32| Pool::builder().inline(true).state(|start: u32| start, (start,)).build();
    let (tens, hundreds) = (make(10)?, make(100)?);
    assert_eq!(tens.apply(count, (1,))?, 11);
    assert_eq!(hundreds.apply(count, (1,))?, 101);
    drop(hundreds);
    assert_eq!(tens.apply(count, (1,))?, 12);
    let preloaded = Pool::builder().inline(true).preload(|| 1000_u32, ()).build()?;
    assert_eq!(preloaded.apply(count, (1,))?, 1001);
    // A task of one pool calls another.
    let outer = |state: &mut u32| {
        let inner = Pool::builder().inline(true).state(|| 7_u32, ()).build()?;
        *state += inner.apply(|state: &mut u32| *state, ())?;
        Ok::<u32, TaskError>(*state)
    };
    assert_eq!(tens.apply(outer, ())??, 19);
    Ok(())
}

fn every_thread_has_a_state_of_its_own() -> Outcome {
    static STARTS: AtomicU32 = AtomicU32::new(0);
    static RUNS: AtomicU32 = AtomicU32::new(0);
    let builder = Pool::builder().inline(true).initializer(|| _ = RUNS.fetch_add(1, Relaxed), ());
    let pool = builder.state(|| STARTS.fetch_add(1, Relaxed), ()).build()?;
    let own = |state: &mut u32| *state;
    assert_eq!(pool.map(|state: &mut u32, _: u32| *state, 0..3)?, [0; 3]);
    let in_thread = || thread::scope(|scope| scope.spawn(|| pool.apply(own, ())).join());
    assert_eq!(in_thread().unwrap()?, 1);
    assert_eq!(in_thread().unwrap()?, 2);
    assert_eq!(pool.apply(own, ())?, 0);
    assert_eq!(RUNS.load(Relaxed), 1, "the threads share what an initializer does");
    Ok(())
}

fn a_state_is_dropped_with_its_pool() -> Outcome {
    static DROPPED: AtomicU32 = AtomicU32::new(0);
    struct Counted;
    impl Drop for Counted {
        fn drop(&mut self) {
            DROPPED.fetch_add(1, Relaxed);
        }
    }
    let pool = Pool::builder().inline(true).state(|| Counted, ()).build()?;
    let task = pool.submit(|_: &mut Counted| 5, ())?;
    thread::scope(|scope| scope.spawn(|| pool.apply(|_: &mut Counted| 6, ())).join()).unwrap()?;
    assert_eq!(DROPPED.load(Relaxed), 1, "that of a thread which has ended");
    drop(pool);
    assert_eq!(DROPPED.load(Relaxed), 2, "though a handle is left");
    assert_eq!(task.get()?, 5);
    Ok(())
}

/// The variables of the library are gone when the thread drops the pool.
fn a_pool_may_end_with_its_thread() -> Outcome {
    thread_local! {
        static POOL: RefCell<Option<Pool<State<u32>>>> = const { RefCell::new(None) };
    }
    let keep_one = || {
        POOL.with_borrow_mut(|pool| {
            let made = Pool::builder().inline(true).state(|| 3_u32, ()).build()?;
            pool.insert(made).apply(|state: &mut u32| *state, ())
        })
    };
    assert_eq!(thread::spawn(keep_one).join().unwrap()?, 3);
    Ok(())
}

fn a_task_that_has_the_state_cannot_call_its_pool() -> Outcome {
    static POOL: OnceLock<Pool<State<u32>>> = OnceLock::new();
    let pool = Pool::builder().inline(true).state(|| 1_u32, ()).build()?;
    let pool = POOL.get_or_init(|| pool);
    let call = |_: &mut u32| POOL.get().map(|pool| pool.apply(|state: &mut u32| *state, ()));
    let error = pool.apply(call, ())?.unwrap().unwrap_err().to_string();
    assert!(error.contains("whose state the task has"), "{error}");
    assert_eq!(pool.apply(|state: &mut u32| *state, ())?, 1);
    Ok(())
}

fn a_process_is_a_thread() -> Outcome {
    let task = |n: u32| (id(), thread::current().name().map(str::to_owned), n + 1);
    let child = inline_process().name("Anna").spawn(task, (1,))?;
    assert_eq!((child.pid(), child.name()), (id(), "Anna"));
    let mut ended = [PollFd::new(child.as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut ended, PollTimeout::try_from(TEST_TIMEOUT)?)?, 1);
    assert_eq!((child.exit_code(), child.signal(), child.is_alive()), (Some(0), None, false));
    child.kill()?; // no error once it has ended
    assert_eq!(child.join()?, (id(), Some("Anna".to_owned()), 2));
    let child = inline_process().name("A\0nna").spawn(task, (1,))?;
    assert_eq!(child.join()?.1, Some("Anna".to_owned()));
    Ok(())
}

/// As with a child, each of them waits for the other.
fn a_process_talks_with_its_parent() -> Outcome {
    let (ours, theirs) = pipe::<u32, u32>()?;
    let echo = |pipe: multiproc::Connection<u32, u32>| -> Result<u32> {
        let mut count = 0;
        while let Ok(number) = pipe.recv() {
            pipe.send(number + 1)?;
            count += 1;
        }
        Ok(count)
    };
    let child = inline_process().spawn(echo, (theirs,))?;
    for number in 0..3 {
        ours.send(number)?;
        assert_eq!(ours.recv()?, number + 1);
    }
    drop(ours);
    assert_eq!(child.join()??, 3);
    Ok(())
}

fn a_process_that_runs_cannot_be_killed() -> Outcome {
    let (latch, theirs): (Latch, Latch) = pipe()?;
    let mut child = inline_process().spawn(block, (theirs,))?;
    latch.recv()?;
    for refused in [child.kill(), child.terminate()] {
        let error = refused.unwrap_err();
        assert!(error.to_string().contains("in inline mode (MULTIPROC_INLINE)"), "{error}");
    }
    assert_eq!(child.join_timeout(Duration::from_millis(10))?, None);
    assert!(child.is_alive() && child.exit_code().is_none());
    drop(latch);
    assert_eq!(child.join_timeout(TEST_TIMEOUT)?, Some(()));
    assert!(child.join_timeout(TEST_TIMEOUT).unwrap_err().to_string().contains("joined already"));
    Ok(())
}

fn a_panic_of_a_process_is_its_error() -> Outcome {
    let mut child = inline_process().name("Anna").spawn(|| -> () { panic!("on purpose") }, ())?;
    let error = child.join_timeout(TEST_TIMEOUT).unwrap_err();
    let text = error.to_string();
    assert!(error.is_panic() && text.contains("on purpose") && text.contains("Anna"), "{text}");
    assert_eq!(child.exit_code(), Some(101));
    Ok(())
}

fn tasks_and_processes_can_be_awaited() -> Outcome {
    let pool = inline_pool()?;
    let (latch, theirs): (Latch, Latch) = pipe()?;
    let child = inline_process().spawn(block, (theirs,))?;
    latch.recv()?;
    smol::block_on(async {
        assert_eq!(pool.submit(u64::pow, (2, 5))?.await?, 32);
        let end = thread::spawn(move || drop(latch));
        child.await?;
        end.join().unwrap();
        Ok(())
    })
}

fn program(value: &str) -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_inline"));
    program.env("MULTIPROC_INLINE", value);
    program
}

fn the_environment_asks_for_it() -> Outcome {
    for (value, expected) in [("1", "here"), ("0", "elsewhere"), ("yes", "MULTIPROC_INLINE is \"yes\"")] {
        let output = program(value).output()?;
        let text = String::from_utf8(output.stdout)?;
        assert!(text.contains(expected), "{value}: {text}");
    }
    Ok(())
}

fn an_exit_in_a_task_says_why_the_program_ends() -> Outcome {
    let output = program("1").arg("exit").output()?;
    assert_eq!(output.status.code(), Some(3));
    let text = String::from_utf8(output.stderr)?;
    assert!(text.contains("a task called exit in inline mode (MULTIPROC_INLINE)"), "{text}");
    assert!(program("1").output()?.stderr.is_empty(), "no task has called exit");
    Ok(())
}

//! **A scarce system**: descriptors, processes, memory and file sizes run out. Each call works, or says what
//! it could not have; nothing is left half made; and when there is enough again, all works.

use std::fs;
use std::hint::black_box;
use std::time::{Duration, Instant};

use multiproc::pool::TaskHandle;
use multiproc::queue::{Sender, bounded};
use multiproc::{Connection, Pool, Process, Result, SharedSlice, StartMethod, pipe};
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};

use crate::support::{
    Outcome, PATIENCE, alone, children, descriptors, eventually, open_without_children, send_signal, trials,
};

trials![
    with_few_descriptors_all_works_or_says_why,
    arguments_with_more_descriptors_than_a_child_can_hold_are_an_error,
    with_few_processes_all_works_or_says_why,
    with_small_files_all_works_or_says_why,
    with_little_memory_all_works_or_says_why,
    a_pool_without_workers_goes_on_when_it_can_have_some,
    results_that_a_pool_cannot_receive_are_errors_and_cost_no_worker,
    items_that_a_worker_cannot_receive_are_errors_and_cost_no_worker,
    memory_that_is_used_again_keeps_to_a_new_limit,
    tasks_that_wait_hold_few_descriptors,
    results_that_wait_hold_few_mappings_and_descriptors,
    a_result_waits_for_a_descriptor,
    a_childs_result_can_be_had_when_there_is_a_descriptor,
];

const METHODS: [StartMethod; 2] = [StartMethod::ForkServer, StartMethod::Spawn];

/// An action that uses the library, and a name for it.
type Action = (&'static str, fn(StartMethod) -> Result<()>);

/// One of everything.
const ACTIONS: [Action; 8] = [
    ("a process", |method| {
        let child = Process::builder().start_method(method).spawn(|n: u32| n + 1, (4,))?;
        assert_eq!(child.join()?, 5);
        Ok(())
    }),
    ("large arguments", |method| {
        let echo = |bytes: Vec<u8>| bytes;
        let child = Process::builder().start_method(method).spawn(echo, (LARGE.to_vec(),))?;
        assert!(child.join()? == LARGE);
        Ok(())
    }),
    ("a pool", |method| {
        let pool = Pool::builder().workers(2).start_method(method).build()?;
        assert_eq!(pool.map(|n: u32| n + 1, 0..100)?, (1..=100).collect::<Vec<_>>());
        Ok(())
    }),
    ("large items", |method| {
        let pool = Pool::builder().workers(2).start_method(method).build()?;
        let echo = |bytes: Vec<u8>| bytes;
        let results = pool.map(echo, (0..10).map(|_| LARGE.to_vec()))?;
        assert!(results.len() == 10 && results.iter().all(|result| result == LARGE));
        Ok(())
    }),
    ("items with descriptors", |method| {
        let pool = Pool::builder().workers(2).start_method(method).build()?;
        let (sender, receiver) = bounded(10)?;
        pool.starmap(
            |sender: Sender<u32>, n| sender.send(n).unwrap(),
            (0..10_u32).map(|n| (sender.clone(), n)),
        )?;
        drop(sender);
        assert_eq!(receiver.iter().count(), 10);
        Ok(())
    }),
    ("a queue", |method| {
        let (sender, receiver) = bounded(10)?;
        let send =
            |sender: Sender<Vec<u8>>| -> Result<()> { sender.send(LARGE.to_vec()).map_err(Into::into) };
        let child = Process::builder().start_method(method).spawn(send, (sender,))?;
        let received = receiver.recv();
        child.join()??;
        assert!(received? == LARGE);
        Ok(())
    }),
    ("a pipe", |method| {
        let (ours, theirs) = pipe::<u32, u32>()?;
        let answer = |end: Connection<u32, u32>| -> Result<()> {
            let number = end.recv()?;
            Ok(end.send(number + 1)?)
        };
        let child = Process::builder().start_method(method).spawn(answer, (theirs,))?;
        ours.send(1)?;
        let answer = ours.recv();
        child.join()??;
        assert_eq!(answer?, 2);
        Ok(())
    }),
    ("frozen data", |method| {
        let numbers = SharedSlice::from_slice(&[3_u64; 10_000])?;
        let sum = |numbers: SharedSlice<u64>| numbers.iter().sum();
        let sum: u64 = Process::builder().start_method(method).spawn(sum, (numbers,))?.join()?;
        assert_eq!(sum, 30_000);
        Ok(())
    }),
];

const LARGE: &[u8] = &[7; 100_000];

/// Sets this process's limit on a resource, as long as `act` runs; children have it, too.
fn limited<R>(resource: Resource, limit: u64, act: impl FnOnce() -> R) -> R {
    let (before, most) = getrlimit(resource).unwrap();
    setrlimit(resource, limit, most).unwrap();
    let result = act();
    setrlimit(resource, before, most).unwrap();
    result
}

/// How many descriptors are open, once children could be started. A fork server is there then.
fn open_when_all_is_well() -> Result<usize> {
    for method in METHODS {
        Process::builder().start_method(method).spawn(|| (), ())?.join()?;
    }
    eventually("there is no other child", || {
        children().iter().all(|(_, name)| name == "fork-server") && children().len() <= 1
    });
    Ok(open_without_children())
}

fn with_few_descriptors_all_works_or_says_why() -> Outcome {
    alone(|| {
        each_action_works_or_says_why(
            Resource::RLIMIT_NOFILE,
            || (6..=24).chain([32]).collect(),
            &[Errno::EMFILE],
        )
    })
}

/// Does everything under each of these limits in turn.
fn each_action_works_or_says_why(
    resource: Resource,
    limits: impl Fn() -> Vec<u64>,
    refusals: &[Errno],
) -> Result<()> {
    let before = open_when_all_is_well()?;
    for method in METHODS {
        let (mut worked, mut failed) = (0, 0);
        for (name, act) in ACTIONS {
            for limit in limits() {
                let fate = limited(resource, limit, || act(method));
                assert_eq!(open_when_all_is_well()?, before, "{method:?}, {name}, {limit}: {fate:?}");
                match fate {
                    Ok(()) => worked += 1,
                    Err(error) => {
                        let says_why = refusals.iter().any(|&errno| error.os_error() == Some(errno as i32))
                            && error.to_string().starts_with("cannot ");
                        assert!(says_why, "{method:?}, {name}, {limit}: {error}");
                        failed += 1;
                    }
                }
            }
        }
        assert!(worked > 0 && failed > 0, "{method:?}: {worked} have worked, {failed} not");
    }
    Ok(())
}

/// Here they are one and the same, and one descriptor; but for who receives them they are many.
fn arguments_with_more_descriptors_than_a_child_can_hold_are_an_error() -> Outcome {
    alone(|| {
        let before = open_when_all_is_well()?;
        let many = vec![SharedSlice::from_slice(&[3_u64; 10])?; 40];
        let count = |many: Vec<SharedSlice<u64>>| many.len();
        for method in METHODS {
            let start = || Process::builder().start_method(method).spawn(count, (many.clone(),))?.join();
            let error = limited(Resource::RLIMIT_NOFILE, 32, start).unwrap_err();
            assert_eq!(error.os_error(), Some(Errno::EMFILE as i32), "{method:?}: {error}");
            assert_eq!(start()?, 40);
        }
        drop(many);
        assert_eq!(open_when_all_is_well()?, before);
        Ok(())
    })
}

/// Root is not bound by this limit, and it counts all processes of a user: so this is another one, whom
/// nobody else is.
#[allow(unsafe_code)]
fn with_few_processes_all_works_or_says_why() -> Outcome {
    alone(|| {
        if Uid::effective().is_root() {
            let number = 1_000_000 + std::process::id();
            setgroups(&[]).unwrap();
            setgid(Gid::from_raw(number)).unwrap();
            setuid(Uid::from_raw(number)).unwrap();
        }
        each_action_works_or_says_why(Resource::RLIMIT_NPROC, || (1..=8).collect(), &[Errno::EAGAIN])
    })
}

fn with_small_files_all_works_or_says_why() -> Outcome {
    alone(|| {
        let limits = || vec![0, 4096, 50_000, 99_999, 1 << 20, 2 << 20, 3 << 20, 4 << 20, 8 << 20];
        each_action_works_or_says_why(Resource::RLIMIT_FSIZE, limits, &[Errno::EFBIG])
    })
}

/// A program without memory for a few bytes of its own can only end, so this one and its children have some
/// to spare.
fn with_little_memory_all_works_or_says_why() -> Outcome {
    alone(|| {
        for _ in 0..2 {
            drop(black_box(vec![1_u8; 8 << 20])); // the C library keeps it from the second time on
        }
        let limits = || (0..12).map(|n| size() + (n << 19)).collect();
        each_action_works_or_says_why(Resource::RLIMIT_AS, limits, &[Errno::ENOMEM, Errno::EAGAIN])
    })
}

/// How much address space this process takes up, in bytes.
fn size() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// While its workers are killed and no others can be had, its work fails, and says why; later it goes on.
fn a_pool_without_workers_goes_on_when_it_can_have_some() -> Outcome {
    alone(|| {
        let before = open_when_all_is_well()?;
        for method in METHODS {
            let pool = Pool::builder().workers(2).start_method(method).build()?;
            let errors = limited(Resource::RLIMIT_NOFILE, 3, || {
                for pid in pool.worker_pids() {
                    send_signal(pid, Signal::SIGKILL);
                }
                eventually("the workers are gone", || pool.worker_pids().is_empty());
                [pool.map(increase, 0..100).unwrap_err(), pool.apply(increase, (1,)).unwrap_err()]
            });
            for error in errors {
                assert_eq!(error.os_error(), Some(Errno::EMFILE as i32), "{error}");
                assert!(error.to_string().starts_with("cannot create "), "{error}");
            }
            eventually("the pool goes on", || pool.apply(increase, (1,)).is_ok());
            assert_eq!(pool.map(increase, 0..100)?, (1..=100).collect::<Vec<_>>());
            eventually("it has all of its workers", || pool.worker_pids().len() == 2);
            drop(pool);
            assert_eq!(open_when_all_is_well()?, before);
        }
        Ok(())
    })
}

fn increase(number: u32) -> u32 {
    number + 1
}

/// Results that cannot be received fail alone: others come, the workers live, and later all is as before.
fn results_that_a_pool_cannot_receive_are_errors_and_cost_no_worker() -> Outcome {
    alone(|| {
        let pool = Pool::new(2)?;
        let result = |number: u32| vec![7_u8; if number.is_multiple_of(2) { LARGE.len() } else { 3 }];
        assert_eq!(pool.map(result, 0..4)?.len(), 4);
        let pids = pool.worker_pids();
        let fates = limited(Resource::RLIMIT_NOFILE, 3, || pool.map_results(result, 0..20))?;
        for (number, fate) in (0..).zip(fates) {
            match fate {
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

/// As above, where a worker is the one who cannot.
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

/// Memory that is kept to be written again would be written beyond the limit, which kills.
fn memory_that_is_used_again_keeps_to_a_new_limit() -> Outcome {
    alone(|| {
        let pool = Pool::new(1)?;
        let much = vec![7_u8; 1 << 20];
        let length = |bytes: Vec<u8>| bytes.len();
        assert_eq!(pool.apply(length, (much.clone(),))?, 1 << 20);
        let error =
            limited(Resource::RLIMIT_FSIZE, 4096, || pool.apply(length, (much.clone(),))).unwrap_err();
        assert_eq!(error.os_error(), Some(Errno::EFBIG as i32), "{error}");
        assert_eq!(pool.apply(length, (much,))?, 1 << 20);
        Ok(())
    })
}

/// So many things that wait are far more than the library may hold descriptors or mappings for.
const MANY: u32 = 600;
const FEW: usize = 200;

fn mappings() -> usize {
    fs::read_to_string("/proc/self/maps").unwrap().lines().count()
}

/// Tasks that no worker has taken hold memory; and none is refused when there is no descriptor at all.
fn tasks_that_wait_hold_few_descriptors() -> Outcome {
    alone(|| {
        let pool = Pool::new(2)?;
        let (gates, mut theirs): (Vec<_>, Vec<_>) =
            (0..2).map(|_| pipe::<(), ()>()).collect::<Result<Vec<_>>>()?.into_iter().unzip();
        let stay = |gate: Connection<(), ()>| drop(gate.recv());
        let staying: Vec<_> =
            theirs.drain(..).map(|gate| pool.submit(stay, (gate,))).collect::<Result<_>>()?;
        let before = (descriptors().len(), mappings());
        let sum = |number: u32, bytes: Vec<u8>| number + u32::from(bytes[0]) + u32::from(bytes[99_999]);
        let submit = |number| pool.submit(sum, (number, LARGE.to_vec()));
        let mut tasks: Vec<_> = (0..MANY).map(submit).collect::<Result<_>>()?;
        let held = (descriptors().len() - before.0, mappings().saturating_sub(before.1));
        assert!(held.0 < FEW && held.1 < FEW, "{held:?}");
        tasks.extend(limited(Resource::RLIMIT_NOFILE, 3, || submit(MANY)));
        assert_eq!(tasks.len(), MANY as usize + 1);
        drop(gates);
        staying.into_iter().try_for_each(TaskHandle::get)?;
        for (number, task) in (0..).zip(tasks) {
            assert_eq!(task.get()?, number + 14);
        }
        Ok(())
    })
}

/// Those that have come, and are not asked for yet.
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
            return Ok(()); // the machine has stood still, and the shortage may have lasted for too long
        }
        assert!(early?.iter().all(Option::is_none));
        for (number, task) in (0..).zip(tasks) {
            assert!(task.get()? == result(number));
        }
        assert_eq!(pool.worker_pids(), pids);
        Ok(())
    })
}

fn a_childs_result_can_be_had_when_there_is_a_descriptor() -> Outcome {
    alone(|| {
        for method in METHODS {
            let mut child = Process::builder().start_method(method).spawn(|| LARGE.to_vec(), ())?;
            eventually("it has ended", || !child.is_alive());
            let fate = limited(Resource::RLIMIT_NOFILE, 3, || child.join_timeout(PATIENCE));
            assert_eq!(fate.unwrap_err().os_error(), Some(Errno::EMFILE as i32));
            assert!(child.join_timeout(PATIENCE)?.unwrap() == LARGE);
            assert!(child.join_timeout(PATIENCE).is_err(), "only once");
        }
        Ok(())
    })
}

//! Every kind of call under every limit of a resource.

use std::hint::black_box;

use multiproc::queue::{JoinableReceiver, Sender, Unfinished, bounded, joinable, unbounded};
use multiproc::sync::Mutex;
use multiproc::{
    ArrayChunk, Connection, Error, Pool, Result, Server, SharedArray, SharedSlice, StartMethod, pipe,
};
use nix::errno::Errno;
use nix::sys::resource::Resource;
use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};

use super::{LARGE, limited, open_when_all_is_well, size};
use crate::support::{METHODS, Outcome, alone, trials, with};

trials![
    with_few_descriptors_all_works_or_says_why,
    arguments_with_more_descriptors_than_a_child_can_hold_are_an_error,
    with_few_processes_all_works_or_says_why,
    with_small_files_all_works_or_says_why,
    with_little_memory_all_works_or_says_why,
];

/// An action that uses the library, and a name for it.
type Action = (&'static str, fn(StartMethod) -> Result<()>);

/// One of everything.
const ACTIONS: [Action; 13] = [
    ("a process", |method| {
        let child = with(method).spawn(|n: u32| n + 1, (4,))?;
        assert_eq!(child.join()?, 5);
        Ok(())
    }),
    ("large arguments", |method| {
        let echo = |bytes: Vec<u8>| bytes;
        let child = with(method).spawn(echo, (LARGE.to_vec(),))?;
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
        let child = with(method).spawn(send, (sender,))?;
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
        let child = with(method).spawn(answer, (theirs,))?;
        ours.send(1)?;
        let answer = ours.recv();
        child.join()??;
        assert_eq!(answer?, 2);
        Ok(())
    }),
    ("a shared slice", |method| {
        let numbers = SharedSlice::from_slice(&[3_u64; 10_000])?;
        let sum = |numbers: SharedSlice<u64>| numbers.iter().sum();
        let sum: u64 = with(method).spawn(sum, (numbers,))?.join()?;
        assert_eq!(sum, 30_000);
        Ok(())
    }),
    ("a lock", |method| {
        let numbers = Mutex::zeroed(10_000)?;
        let add = |numbers: Mutex<[u64]>| -> Result<()> {
            numbers.lock()?.copy_from_slice(0, &[1; 10_000]);
            Ok(())
        };
        with(method).spawn(add, (numbers.clone(),))?.join()??;
        assert_eq!(numbers.lock()?.iter().sum::<u64>(), 10_000);
        Ok(())
    }),
    ("a shared array", |method| {
        let mut array = SharedArray::zeroed(10_000)?;
        let fill = |mut chunk: ArrayChunk<u64>| chunk.as_mut().fill(1);
        for chunk in array.chunks_mut(5_000)? {
            with(method).spawn(fill, (chunk,))?.join()?;
        }
        assert_eq!(array.into_shared()?.iter().sum::<u64>(), 10_000);
        Ok(())
    }),
    ("a server", |method| {
        let server = Server::builder().start_method(method).spawn(|| 3_u32, ())?;
        assert_eq!(server.call(|number: &mut u32| *number + 1, ())?, 4);
        assert_eq!(server.stop()?, 3);
        Ok(())
    }),
    ("a joinable queue", |method| {
        let (sender, receiver) = joinable(10, Unfinished::Redeliver)?;
        let receive = |receiver: JoinableReceiver<Vec<u8>>| -> Result<usize> { Ok(receiver.recv()?.len()) };
        sender.send(LARGE.to_vec()).map_err(Error::from)?;
        assert_eq!(with(method).spawn(receive, (receiver,))?.join()??, LARGE.len());
        Ok(())
    }),
    ("an unbounded queue", |method| {
        let (sender, receiver) = unbounded()?;
        let send =
            |sender: Sender<Vec<u8>>| -> Result<()> { sender.send(LARGE.to_vec()).map_err(Into::into) };
        with(method).spawn(send, (sender,))?.join()??;
        assert!(receiver.recv()? == LARGE);
        Ok(())
    }),
];

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
                let outcome = limited(resource, limit, || act(method));
                assert_eq!(open_when_all_is_well()?, before, "{method:?}, {name}, {limit}: {outcome:?}");
                match outcome {
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

/// Here all are one descriptor; the receiver gets one for each.
fn arguments_with_more_descriptors_than_a_child_can_hold_are_an_error() -> Outcome {
    alone(|| {
        let before = open_when_all_is_well()?;
        let many = vec![SharedSlice::from_slice(&[3_u64; 10])?; 40];
        let count = |many: Vec<SharedSlice<u64>>| many.len();
        for method in METHODS {
            let start = || with(method).spawn(count, (many.clone(),))?.join();
            let error = limited(Resource::RLIMIT_NOFILE, 32, start).unwrap_err();
            assert_eq!(error.os_error(), Some(Errno::EMFILE as i32), "{method:?}: {error}");
            assert_eq!(start()?, 40);
        }
        drop(many);
        assert_eq!(open_when_all_is_well()?, before);
        Ok(())
    })
}

/// Root is exempt from this limit, which counts all processes of a user: so this process becomes a user
/// without other processes.
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

/// A program that cannot allocate a few bytes can only abort, so this one and its children keep some spare
/// memory.
fn with_little_memory_all_works_or_says_why() -> Outcome {
    alone(|| {
        for _ in 0..2 {
            drop(black_box(vec![1_u8; 8 << 20])); // the C library keeps it from the second time on
        }
        let limits = || (0..12).map(|n| size() + (n << 19)).collect();
        each_action_works_or_says_why(Resource::RLIMIT_AS, limits, &[Errno::ENOMEM, Errno::EAGAIN])
    })
}

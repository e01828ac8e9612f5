//! **A scarce system**: descriptors, processes, memory and file sizes run out. Each call works, or says what it could not
//! have; nothing is left half made; and when there is enough again, all works.

use multiproc::queue::bounded;
use multiproc::{Connection, Error, Frozen, Pool, Process, Result, StartMethod, pipe};
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::support::{Outcome, alone, children, eventually, open_without_children, trials};

trials![with_few_descriptors_all_works_or_says_why];

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
            |sender: multiproc::queue::Sender<u32>, n| sender.send(n).unwrap(),
            (0..10_u32).map(|n| (sender.clone(), n)),
        )?;
        drop(sender);
        assert_eq!(receiver.iter().count(), 10);
        Ok(())
    }),
    ("a queue", |method| {
        let (sender, receiver) = bounded(10)?;
        let send = |sender: multiproc::queue::Sender<Vec<u8>>| -> Result<()> {
            sender.send(LARGE.to_vec()).map_err(Into::into)
        };
        let child = Process::builder().start_method(method).spawn(send, (sender,))?;
        let received = receiver.recv();
        child.join()??;
        assert!(received? == LARGE);
        Ok(())
    }),
    ("a pipe", |method| {
        let (ours, theirs) = pipe::<u32, u32>()?;
        let answer = |end: Connection<u32, u32>| -> Result<()> {
            let number = end.recv()?.unwrap();
            end.send(number + 1)
        };
        let child = Process::builder().start_method(method).spawn(answer, (theirs,))?;
        ours.send(1)?;
        let answer = ours.recv();
        child.join()??;
        assert_eq!(answer?, Some(2));
        Ok(())
    }),
    ("frozen data", |method| {
        let numbers = Frozen::from_slice(&[3_u64; 10_000])?;
        let sum = |numbers: Frozen<u64>| numbers.iter().sum();
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

/// How many descriptors are open, once a child could be started. A fork server is there then.
fn open_when_all_is_well() -> Result<usize> {
    Process::spawn(|| (), ())?.join()?;
    eventually("there is no other child", || {
        children().iter().all(|(_, name)| name == "fork-server") && children().len() <= 1
    });
    Ok(open_without_children())
}

fn with_few_descriptors_all_works_or_says_why() -> Outcome {
    alone(|| {
        let before = open_when_all_is_well()?;
        for method in METHODS {
            for (name, act) in ACTIONS {
                for limit in 6..=40 {
                    let fate = limited(Resource::RLIMIT_NOFILE, limit, || act(method));
                    eprintln!("{method:?} {name} {limit}: {fate:?}");
                    if open_when_all_is_well()? != before {
                        eprintln!("LEFT");
                    }
                }
            }
        }
        Ok(())
    })
}

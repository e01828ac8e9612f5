//! Mappings run out: each call works, or says what it could not have, and what was there goes on.

use std::any::Any;
use std::hint::black_box;

use multiproc::queue::{Unfinished, bounded, joinable, unbounded};
use multiproc::sync::{Event, Mutex, Semaphore};
use multiproc::{Error, Pool, Process, Result, SharedArray, SharedSlice, pipe};
use nix::errno::Errno;
use tests::mappings::ManyMappings;

use crate::support::{Outcome, alone, trials};

trials![an_object_without_mappings_says_why, large_results_arrive_without_mappings];

/// As many mappings as nothing here needs.
const MANY: usize = 1000;
/// As few as some of the objects need: each has one, and the kernel allows one more than its limit.
const FEW: usize = 20;

/// Makes an object that has memory of its own.
type Make = (&'static str, fn() -> Result<Box<dyn Any>>);

const OBJECTS: [Make; 9] = [
    ("a queue", || Ok(Box::new(bounded::<u32>(10)?))),
    ("an unbounded queue", || Ok(Box::new(unbounded::<u32>()?))),
    ("a joinable queue", || Ok(Box::new(joinable::<u32>(10, Unfinished::Report)?))),
    ("a pipe", || Ok(Box::new(pipe::<u32, u32>()?))),
    ("a shared slice", || Ok(Box::new(SharedSlice::from_slice(&[1_u64; 10_000])?))),
    ("a shared array", || Ok(Box::new(SharedArray::<u64>::zeroed(10_000)?.into_shared()?))),
    ("a lock", || Ok(Box::new(Mutex::new(1_u64)?))),
    ("a semaphore", || Ok(Box::new(Semaphore::new(9)?))),
    ("an event", || Ok(Box::new(Event::new()?))),
];

/// Makes objects until one is refused.
fn make_all(name: &str, make: fn() -> Result<Box<dyn Any>>) -> (Vec<Box<dyn Any>>, Error) {
    let mut made = Vec::with_capacity(FEW + 1);
    let error = loop {
        match make() {
            Ok(object) => made.push(object),
            Err(error) => break error,
        }
        assert!(made.len() <= FEW + 1, "{name}: mappings do not run out");
    };
    (made, error)
}

/// A program that cannot allocate a few bytes can only abort, so this one keeps some.
fn many_mappings() -> ManyMappings {
    for _ in 0..2 {
        drop(black_box(vec![1_u8; 8 << 20])); // the C library keeps it from the second time on
    }
    ManyMappings::new()
}

fn an_object_without_mappings_says_why() -> Outcome {
    alone(|| {
        let mut mappings = many_mappings();
        mappings.leave(MANY);
        let pool = Pool::new(2)?;
        let (sender, receiver) = bounded(10)?;
        let all_goes_on = || -> Result<()> {
            assert_eq!(pool.map(|n: u32| n + 1, 0..100)?, (1..=100).collect::<Vec<_>>());
            sender.send("text".to_owned())?;
            assert_eq!(receiver.recv()?, "text");
            Ok(())
        };
        all_goes_on()?;
        for (name, make) in OBJECTS {
            mappings.leave(FEW);
            let (made, error) = make_all(name, make);
            assert_eq!(error.os_error(), Some(Errno::ENOMEM as i32), "{name}: {error}");
            assert!(error.to_string().starts_with("cannot "), "{name}: {error}");
            all_goes_on()?;
            drop(made);
            make()?;
        }
        mappings.leave(MANY);
        Process::spawn(|| (), ())?.join()
    })
}

/// The pool maps the memory of large results, and copies them where it cannot.
fn large_results_arrive_without_mappings() -> Outcome {
    alone(|| {
        let mut mappings = many_mappings();
        mappings.leave(MANY);
        let pool = Pool::new(2)?;
        let large = |number: u8| vec![number; 100_000];
        let all_arrive = || -> Result<()> {
            assert!(pool.map(large, 0..10)?.into_iter().eq((0..10).map(large)));
            Ok(())
        };
        all_arrive()?;
        mappings.leave(FEW);
        let (name, make) = OBJECTS[0];
        let (made, error) = make_all(name, make);
        assert_eq!(error.os_error(), Some(Errno::ENOMEM as i32), "{error}");
        all_arrive()?;
        drop(made);
        mappings.leave(MANY);
        all_arrive()
    })
}

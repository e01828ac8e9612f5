//! Methods that panic, and states that cannot be made.

use std::sync::atomic::Ordering::SeqCst;

use multiproc::server::Limit;
use multiproc::sync::Atomic;
use multiproc::{ErrorKind, Server, TaskError};

use super::Counter;
use crate::support::{Outcome, TEST_TIMEOUT, trials};

trials![
    a_panic_is_the_error_of_its_call,
    a_panic_poisons_the_state,
    a_state_that_was_repaired_goes_on,
    a_panic_while_the_state_is_made_is_the_error_of_every_call,
    a_state_that_cannot_be_made_is_the_error_of_every_call,
    a_state_that_cannot_be_made_at_once_is_tried_again,
];

fn a_panic_is_the_error_of_its_call() -> Outcome {
    let counter = Server::builder().name("counter").spawn(Counter::new, (0,))?;
    let error = counter.call(Counter::panic, ()).unwrap_err();
    assert!(error.is_panic());
    assert_eq!(error.pid(), Some(counter.pid()));
    let text = error.to_string();
    assert!(text.starts_with(&format!("server \"counter\" ({}) panicked at ", counter.pid())), "{text}");
    assert!(text.contains("server/mod.rs"), "{text}");
    assert!(text.ends_with("Counter::panic: this method always panics"), "{text}");
    Ok(())
}

fn a_panic_poisons_the_state() -> Outcome {
    let list = Server::spawn(Vec::<u32>::new, ())?;
    let panic = |list: &mut Vec<u32>| list[7];
    assert!(list.call(panic, ()).unwrap_err().is_panic());
    for _ in 0..2 {
        let error = list.call(Vec::push, (1,)).unwrap_err();
        assert_eq!((error.kind(), error.pid()), (ErrorKind::Poisoned, Some(list.pid())));
        assert!(error.to_string().contains("has panicked"), "{error}");
    }
    assert!(list.stop().unwrap_err().is_poisoned());
    Ok(())
}

fn a_state_that_was_repaired_goes_on() -> Outcome {
    let counter = Server::spawn(Counter::new, (0,))?;
    assert!(counter.call(Counter::panic, ()).unwrap_err().is_panic());
    assert!(counter.call(Counter::total, ()).unwrap_err().is_poisoned());
    counter.clear_poison()?;
    assert_eq!(counter.call(Counter::total, ())?, 1000, "it is as the panic left it");
    Ok(())
}

fn a_panic_while_the_state_is_made_is_the_error_of_every_call() -> Outcome {
    let make = |number: u64| -> Counter { panic!("no counter from {number}") };
    let counter = Server::spawn(make, (3,))?;
    for _ in 0..2 {
        let error = counter.call(Counter::total, ()).unwrap_err();
        assert!(error.is_panic() && error.to_string().contains("no counter from 3"), "{error}");
        assert_eq!(error.pid(), Some(counter.pid()));
    }
    Ok(())
}

fn a_state_that_cannot_be_made_is_the_error_of_every_call() -> Outcome {
    let make =
        |number: u64| -> Result<Counter, TaskError> { Err(format!("no counter from {number}").into()) };
    for builder in [Server::builder(), Server::builder().restart(Limit::new(2, TEST_TIMEOUT))] {
        let counter = builder.name("counter").try_spawn(make, (3,))?;
        for _ in 0..2 {
            let error = counter.call(Counter::total, ()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Task, "{error}");
            assert!(error.to_string().contains("no counter from 3"), "{error}");
            assert!(error.pid().is_some(), "{error}");
        }
    }
    let counter = Server::try_spawn(|number: u64| Ok::<_, TaskError>(Counter::new(number)), (3,))?;
    assert_eq!(counter.call(Counter::total, ())?, 3);
    Ok(())
}

fn a_state_that_cannot_be_made_at_once_is_tried_again() -> Outcome {
    let make = |tries: Atomic<u64>| match tries.fetch_add(1, SeqCst) {
        2 => Ok(Counter::new(7)),
        other => Err(TaskError::from(format!("try {other} fails"))),
    };
    let tries = Atomic::new(0_u64)?;
    let counter = Server::builder().restart(Limit::new(2, TEST_TIMEOUT)).try_spawn(make, (tries.clone(),))?;
    assert_eq!(counter.call(Counter::total, ())?, 7);
    assert_eq!(tries.load(SeqCst), 3);
    Ok(())
}

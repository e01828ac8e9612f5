use multiproc::{ErrorKind, Server};

use super::Counter;
use crate::support::{Outcome, trials};

trials![
    a_panic_is_the_error_of_its_call,
    a_panic_poisons_the_state,
    a_state_that_was_repaired_goes_on,
    a_panic_while_the_state_is_made_is_the_error_of_every_call,
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

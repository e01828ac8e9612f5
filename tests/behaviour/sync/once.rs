//! `Once`, `OnceCell`: one process makes the value, also when another one dies over it.

use std::sync::atomic::Ordering::SeqCst;

use multiproc::sync::{Atomic, Once, OnceCell};
use multiproc::{Process, Result};

use super::{Stage, corrupt, ends_soon, killed, started};
use crate::support::{Outcome, trials};

trials![
    one_process_makes_the_value_for_all,
    a_process_killed_while_it_makes_the_value_leaves_that_to_the_next,
    a_panic_leaves_it_to_the_next,
    a_failure_leaves_it_to_the_next,
    a_value_set_stays,
    an_initialiser_that_uses_its_own_cell_is_told,
    any_bytes_in_its_memory_are_a_cell,
];

fn one_process_makes_the_value_for_all() -> Outcome {
    let handles = (Once::new()?, OnceCell::new()?, Atomic::new(0_u32)?);
    let make = |(once, cell, runs): (Once, OnceCell<u64>, Atomic<u32>)| -> Result<u64> {
        once.call_once(|| {
            runs.fetch_add(1, SeqCst);
        })?;
        cell.get_or_init(|| u64::from(std::process::id()))
    };
    let children: Vec<_> = (0..5).map(|_| Process::spawn(make, (handles.clone(),))).collect::<Result<_>>()?;
    let pids: Vec<_> = children.iter().map(|child| u64::from(child.pid())).collect();
    let values: Vec<_> = children.into_iter().map(|child| child.join()?).collect::<Result<_>>()?;
    assert!(pids.contains(&values[0]));
    assert!(values.iter().all(|value| *value == values[0]));
    assert_eq!((handles.2.load(SeqCst), handles.0.is_completed()), (1, true));
    Ok(())
}

fn a_process_killed_while_it_makes_the_value_leaves_that_to_the_next() -> Outcome {
    let cell = OnceCell::new()?;
    let make = |cell: OnceCell<u32>, stage: Stage| {
        cell.get_or_init(|| {
            let _ = stage.send(());
            let _ = stage.recv();
            1
        })
    };
    let (child, _stage) = started(make, &cell)?;
    let waiter = Process::spawn(|cell: OnceCell<u32>| cell.get_or_init(|| 2), (cell.clone(),))?;
    assert_eq!(cell.get(), None);
    killed(child);
    assert_eq!(ends_soon(|| waiter.join())??, 2);
    assert_eq!(cell.get(), Some(2));
    Ok(())
}

fn a_panic_leaves_it_to_the_next() -> Outcome {
    let cell = OnceCell::new()?;
    let panic = |cell: OnceCell<u32>| cell.get_or_init(|| panic!("on purpose"));
    assert!(Process::spawn(panic, (cell.clone(),))?.join().unwrap_err().is_panic());
    assert_eq!(cell.get_or_init(|| 2)?, 2);
    Ok(())
}

fn a_failure_leaves_it_to_the_next() -> Outcome {
    let cell = OnceCell::new()?;
    assert_eq!(cell.get_or_try_init(|| Err("no"))?, Err("no"));
    assert_eq!(cell.get_or_try_init(|| Ok::<u8, &str>(2))?, Ok(2));
    assert_eq!(cell.get_or_try_init(|| Err("no"))?, Ok(2));
    Ok(())
}

fn a_value_set_stays() -> Outcome {
    let cell = OnceCell::new()?;
    Process::spawn(|cell: OnceCell<[u8; 3]>| cell.set([1, 2, 3]), (cell.clone(),))?.join()??;
    assert!(!cell.set([4; 3])?);
    assert_eq!(cell.get(), Some([1, 2, 3]));
    Ok(())
}

fn an_initialiser_that_uses_its_own_cell_is_told() -> Outcome {
    let cell = OnceCell::new()?;
    let inner = cell.clone();
    let made = cell.get_or_try_init(|| inner.get_or_init(|| 1_u8))?;
    assert_eq!(made.unwrap_err().os_error(), Some(nix::errno::Errno::EDEADLK as i32));
    Ok(())
}

fn any_bytes_in_its_memory_are_a_cell() -> Outcome {
    corrupt(&OnceCell::new()?, |cell: OnceCell<u64>| {
        let _ = cell.get();
    })
}

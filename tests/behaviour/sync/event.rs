//! `Event`: wake-ups, killed waiters, and overwritten memory.

use std::time::Duration;

use multiproc::sync::Event;
use multiproc::{Process, Result};

use super::{Stage, corrupt, ends_soon, started, takes_at_least};
use crate::support::{Outcome, trials, wait_for_state};

trials![
    set_and_clear_are_seen_by_other_processes,
    set_wakes_all_that_wait,
    a_wait_ends_although_the_event_is_cleared_at_once,
    a_wait_without_a_set_ends_on_time,
    a_killed_waiter_takes_no_other_ones_wake_up,
    an_event_set_by_a_killed_process_wakes_those_that_wait,
    any_bytes_in_its_memory_are_an_event,
];

fn set_and_clear_are_seen_by_other_processes() -> Outcome {
    let event = Event::new()?;
    assert!(!event.is_set());
    Process::spawn(|event: Event| event.set(), (event.clone(),))?.join()?;
    assert!(event.is_set());
    event.wait();
    Process::spawn(|event: Event| event.clear(), (event.clone(),))?.join()?;
    assert!(!event.is_set() && !event.wait_timeout(Duration::ZERO));
    Ok(())
}

fn wait(event: Event, stage: Stage) -> bool {
    let _ = stage.send(());
    event.wait_timeout(Duration::from_secs(50))
}

fn set_wakes_all_that_wait() -> Outcome {
    let event = Event::new()?;
    let children = (0..4).map(|_| started(wait, &event)).collect::<Result<Vec<_>>>()?;
    event.set();
    for (child, _) in children {
        assert!(child.join()?);
    }
    Ok(())
}

fn a_wait_ends_although_the_event_is_cleared_at_once() -> Outcome {
    let event = Event::new()?;
    let (child, _stage) = started(wait, &event)?;
    wait_for_state(child.pid(), 'S');
    event.set();
    event.clear();
    assert!(child.join()?);
    Ok(())
}

fn a_wait_without_a_set_ends_on_time() -> Outcome {
    let event = Event::new()?;
    let time = Duration::from_millis(30);
    assert!(!takes_at_least(time, || event.wait_timeout(time)));
    Ok(())
}

fn a_killed_waiter_takes_no_other_ones_wake_up() -> Outcome {
    let event = Event::new()?;
    let children = (0..3).map(|_| started(wait, &event)).collect::<Result<Vec<_>>>()?;
    wait_for_state(children[0].0.pid(), 'S');
    children[0].0.kill()?;
    event.set();
    let ends: Vec<_> = children.into_iter().map(|(child, _)| child.join().ok()).collect();
    assert_eq!(ends[1..], [Some(true), Some(true)]);
    Ok(())
}

fn an_event_set_by_a_killed_process_wakes_those_that_wait() -> Outcome {
    let set = |event: Event, stage: Stage| -> Result<()> {
        stage.send(())?;
        event.set();
        Ok(())
    };
    for _ in 0..20 {
        let event = Event::new()?;
        let (waiter, _) = started(wait, &event)?;
        let (setter, _stage) = started(set, &event)?;
        setter.kill()?; // before, while or after it sets the event
        let _ = setter.join();
        if !event.is_set() {
            event.set();
        }
        assert!(ends_soon(|| waiter.join())?);
    }
    Ok(())
}

fn any_bytes_in_its_memory_are_an_event() -> Outcome {
    let event = Event::new()?;
    corrupt(&event, |event: Event| {
        event.set();
        let _ = event.wait_timeout(Duration::from_millis(1));
        event.clear();
    })
}

//! Priorities of tasks that wait for a worker.

use std::thread;

use multiproc::pool::TaskHandle;
use multiproc::queue::{Sender, unbounded};
use multiproc::{Pool, Result};

use super::{blocked_task, square};
use crate::support::{Outcome, TEST_TIMEOUT, eventually, trials};

trials![
    tasks_of_a_higher_priority_begin_first_and_equal_ones_in_their_order,
    a_call_of_a_higher_priority_goes_ahead_of_waiting_items,
    all_tasks_run_whatever_their_priority,
];

/// The end of a queue keeps the task out of the worker's hands until the worker is idle.
fn tell(number: u32, sender: Sender<u32>) {
    sender.send(number).unwrap();
}

fn tasks_of_a_higher_priority_begin_first_and_equal_ones_in_their_order() -> Outcome {
    let pool = Pool::new(1)?;
    let (sender, receiver) = unbounded()?;
    let (running, latch) = blocked_task(&pool)?;
    let mut tasks = Vec::new();
    for (number, priority) in (0..).zip([0, -1, 1, 0, -128, 127, 1, 0]) {
        tasks.push(pool.options().priority(priority).submit(tell, (number, sender.clone()))?);
    }
    drop((sender, latch));
    running.get()?;
    let order: Vec<u32> = receiver.iter_timeout(TEST_TIMEOUT).take(8).collect::<Result<_>>()?;
    assert_eq!(order, [5, 2, 6, 0, 3, 7, 1, 4]);
    tasks.into_iter().try_for_each(TaskHandle::get)?;
    Ok(())
}

fn a_call_of_a_higher_priority_goes_ahead_of_waiting_items() -> Outcome {
    let pool = Pool::new(1)?;
    let (running, latch) = blocked_task(&pool)?;
    let (sender, receiver) = unbounded()?;
    let items = (0..1_000).map(|number| (number, sender.clone()));
    thread::scope(|scope| {
        let low = scope.spawn(|| pool.options().priority(-1).starmap(tell, items));
        eventually("its items wait", || pool.stats().pending > 1);
        let high = pool.options().priority(1).submit(tell, (1_000, sender.clone()))?;
        drop(latch);
        let order: Vec<u32> = receiver.iter_timeout(TEST_TIMEOUT).take(1_001).collect::<Result<_>>()?;
        assert_eq!(order[0], 1_000);
        assert!(order[1..].iter().copied().eq(0..1_000));
        low.join().unwrap()?;
        running.get()?;
        high.get()
    })?;
    Ok(())
}

fn all_tasks_run_whatever_their_priority() -> Outcome {
    let pool = Pool::new(2)?;
    let tasks = (0..2_000_u64)
        .map(|number| {
            let priority = i8::try_from(number * 37 % 256).unwrap_or(-1);
            pool.options().priority(priority).submit(square, (number,))
        })
        .collect::<Result<Vec<_>>>()?;
    let squares = pool.options().priority(3).map(square, 0..10_000)?;
    assert!(squares.into_iter().eq((0..10_000).map(square)));
    for (number, task) in (0..).zip(tasks) {
        assert_eq!(task.get()?, square(number));
    }
    Ok(())
}

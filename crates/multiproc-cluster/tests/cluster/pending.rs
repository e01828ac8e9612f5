//! How many submitted tasks a pool has without a result.

use std::sync::mpsc::channel;
use std::time::Duration;

use multiproc_cluster::TaskHandle;

use crate::server::Server;
use crate::support::{Outcome, TEST_TIMEOUT, trials, wait_until};
use crate::work::{HOUR, sleep, square};

trials![
    a_submission_waits_for_room_or_gives_the_arguments_back,
    a_task_with_its_result_leaves_room_for_the_next,
    a_call_of_many_submissions_does_not_fill_the_broker,
    a_lost_broker_ends_a_submission_that_waits,
];

fn a_submission_waits_for_room_or_gives_the_arguments_back() -> Outcome {
    let server = Server::start();
    let _agent = server.agent("a");
    let refused = server.cluster().max_pending(0).connect().unwrap_err();
    assert!(refused.to_string().contains("`max_pending`"), "{refused}");
    let pool = server.cluster().max_pending(2).connect()?.pool("pending")?;
    let tasks = [pool.submit(sleep, (HOUR,))?, pool.submit(sleep, (HOUR,))?];
    let refused = pool.try_submit(square, (3,)).unwrap_err();
    assert!(refused.error().is_full(), "{}", refused.error());
    assert_eq!(refused.into_item(), (3,));
    let refused = pool.submit_timeout(square, (4,), Duration::from_millis(20)).unwrap_err();
    assert!(refused.error().is_full(), "{}", refused.error());
    // Neither of these is counted, nor waits: they take their input as they need it.
    assert!(tasks[0].cancel());
    let task = pool.submit_timeout(square, refused.into_item(), TEST_TIMEOUT)?;
    assert_eq!(pool.apply(square, (5,))?, 25);
    assert_eq!(pool.map(square, 0..3)?, [0, 1, 4]);
    assert_eq!(task.get()?, 16);
    let (submitted, done) = channel();
    std::thread::scope(|scope| {
        let filler = pool.submit(sleep, (HOUR,));
        scope.spawn(|| submitted.send(pool.submit(square, (6,)).and_then(TaskHandle::get)).unwrap());
        assert!(done.recv_timeout(Duration::from_millis(50)).is_err(), "it does not wait");
        assert!(filler.unwrap().cancel());
        assert_eq!(done.recv_timeout(TEST_TIMEOUT).unwrap().unwrap(), 36);
    });
    Ok(())
}

fn a_task_with_its_result_leaves_room_for_the_next() -> Outcome {
    let server = Server::start();
    let _agent = server.agent("a");
    let pool = server.cluster().max_pending(1).connect()?.pool("turns")?;
    for turn in 0..500 {
        let task = pool
            .try_submit(square, (turn,))
            .map_err(|refused| format!("turn {turn}: {}", refused.error()))?;
        assert_eq!(task.get()?, turn * turn);
    }
    Ok(())
}

/// With the default. A host takes some; the broker has the others.
fn a_call_of_many_submissions_does_not_fill_the_broker() -> Outcome {
    let server = Server::start();
    let pool = server.cluster().lease(HOUR).connect()?.pool("many")?;
    let mut tasks = Vec::new();
    while let Ok(task) = pool.try_submit(square, (1,)) {
        tasks.push(task);
        assert!(tasks.len() <= 10_000, "there is no bound");
    }
    assert_eq!(tasks.len(), 10_000);
    let _agent = server.agent("a");
    for task in tasks {
        assert_eq!(task.get()?, 1);
    }
    Ok(())
}

fn a_lost_broker_ends_a_submission_that_waits() -> Outcome {
    let mut server = Server::start();
    let pool = server.cluster().max_pending(1).connect()?.pool("lost")?;
    let task = pool.submit(square, (1,))?;
    std::thread::scope(|scope| {
        let next = scope.spawn(|| pool.submit(square, (2,)));
        server.kill();
        assert!(task.get().is_err());
        wait_until("the submission ends", || next.is_finished());
        assert!(next.join().unwrap().is_ok_and(|task| task.get().is_err()));
    });
    Ok(())
}

//! What the original made is refused to a copy, which takes nothing away from it.

use multiproc::{Pool, Process, Result, as_completed, pipe, wait_any_timeout};

use super::{in_fork, slowly, square};
use crate::support::{Outcome, TEST_TIMEOUT, alone, block, trials};

trials![
    a_copy_that_drops_an_iterator_takes_nothing_away,
    a_copy_that_ends_the_pool_takes_nothing_away,
    a_copy_that_drops_the_pool_joins_its_own,
    a_copy_of_the_process_can_do_nothing_with_its_pool,
    a_copy_does_not_end_a_child,
    a_copy_that_waits_for_a_task_is_told_that_it_is_one,
    a_copy_that_waits_for_any_result_is_told_that_it_is_one,
    a_copy_that_joins_an_inline_process_is_told_that_it_is_one,
];

fn a_copy_that_drops_an_iterator_takes_nothing_away() -> Outcome {
    alone(|| {
        let pool = Pool::new(2)?;
        let mut results = pool.imap(slowly, 0..60);
        assert_eq!(results.next().transpose()?, Some(0));
        let mut results = Some(results);
        assert!(in_fork(|| results.take().is_some()));
        for (result, number) in results.into_iter().flatten().zip(1..) {
            assert_eq!(result?, number);
        }
        Ok(())
    })
}

#[allow(unsafe_code)]
fn a_copy_that_ends_the_pool_takes_nothing_away() -> Outcome {
    alone(|| {
        for end in [|pool: Pool| pool.terminate(), Pool::join] {
            let pool = Pool::builder().workers(1).chunk_size(20).build()?;
            let mut results = pool.imap(slowly, 0..60);
            assert_eq!(results.next().transpose()?, Some(0));
            assert!(in_fork(|| {
                // SAFETY: this process ends before the pool is used or dropped again.
                end(unsafe { std::ptr::read(&raw const pool) });
                true
            }));
            assert_eq!(results.collect::<Result<Vec<_>>>()?, (1..60).collect::<Vec<_>>());
        }
        Ok(())
    })
}

/// The C library gives a later thread of the copy the handle of a thread that the copy lacks.
#[allow(unsafe_code)]
fn a_copy_that_drops_the_pool_joins_its_own() -> Outcome {
    alone(|| {
        let pool = Pool::new(1)?;
        assert!(in_fork(|| {
            let Ok(own) = Pool::new(1) else { return false };
            // SAFETY: this process ends before the pool is used or dropped again.
            drop(unsafe { std::ptr::read(&raw const pool) });
            let result = own.apply(square, (3,));
            own.join();
            result.is_ok_and(|number| number == 9)
        }));
        assert_eq!(pool.apply(square, (3,))?, 9);
        Ok(())
    })
}

fn a_copy_of_the_process_can_do_nothing_with_its_pool() -> Outcome {
    alone(|| {
        let pool = Pool::new(2)?;
        let task = pool.submit(slowly, (3,))?;
        let mut results = pool.imap(slowly, 0..60);
        assert!(in_fork(|| {
            let is_refused = pool.apply(square, (3,)).is_err() && !task.cancel();
            pool.close();
            is_refused && pool.worker_pids().is_empty() && results.by_ref().all(|result| result.is_err())
        }));
        assert_eq!(task.get()?, 3);
        assert_eq!(results.collect::<Result<Vec<_>>>()?, (0..60).collect::<Vec<_>>());
        assert_eq!(pool.map(square, 0..3)?, [0, 1, 4]);
        Ok(())
    })
}

fn a_copy_does_not_end_a_child() -> Outcome {
    alone(|| {
        let (latch, theirs) = pipe()?;
        let child = Process::spawn(block, (theirs,))?;
        assert!(in_fork(|| {
            let refused = [child.kill(), child.terminate()];
            refused
                .iter()
                .all(|refused| refused.as_ref().is_err_and(|e| e.to_string().contains("forked copy")))
        }));
        drop(latch);
        child.join()?;
        Ok(())
    })
}

fn a_copy_that_waits_for_a_task_is_told_that_it_is_one() -> Outcome {
    alone(|| {
        let pool = Pool::new(1)?;
        let mut task = pool.submit(slowly, (3,))?;
        assert!(in_fork(|| {
            let time_up = task.get_timeout(TEST_TIMEOUT);
            time_up.is_err_and(|error| error.to_string().contains("forked copy"))
        }));
        assert_eq!(task.get()?, 3);
        Ok(())
    })
}

fn a_copy_that_waits_for_any_result_is_told_that_it_is_one() -> Outcome {
    alone(|| {
        let pool = Pool::new(1)?;
        let tasks = (0..3).map(|number| pool.submit(slowly, (number,))).collect::<Result<Vec<_>>>()?;
        let last = pool.submit(slowly, (3,))?;
        let mut results = as_completed(tasks);
        assert!(in_fork(|| {
            results.by_ref().filter(|(_, result)| result.is_err()).count() == 3
                && wait_any_timeout(&[&last], TEST_TIMEOUT).is_ok_and(|ready| ready == [0])
        }));
        assert_eq!(results.filter(|(_, result)| result.is_ok()).count(), 3);
        assert_eq!(last.get()?, 3);
        Ok(())
    })
}

fn a_copy_that_joins_an_inline_process_is_told_that_it_is_one() -> Outcome {
    alone(|| {
        let (latch, theirs) = pipe()?;
        let mut child = Process::builder().inline(true).spawn(block, (theirs,))?;
        assert!(in_fork(|| {
            let refused = child.join_timeout(TEST_TIMEOUT);
            refused.is_err_and(|error| error.to_string().contains("forked copy"))
        }));
        drop(latch);
        child.join()?;
        Ok(())
    })
}

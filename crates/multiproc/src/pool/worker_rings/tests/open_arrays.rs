//! Results of an array that the worker still writes.

use std::cell::{Cell, RefCell};

use super::*;

/// Takes the results of an array that is being written, after each number of them: two may end at one byte,
/// since the end of an array is rounded.
fn results_of_an_open_array_are_taken<T: Copy>(result: T) {
    let (pool, mut worker) = sides();
    let pool = RefCell::new(pool);
    worker.claim_runs();
    let submit = |count: u32| {
        let mut pool = pool.borrow_mut();
        assert!(pool.write_values(&values(&vec![1; count as usize]), 3).is_empty());
        pool.submit(count).unwrap();
    };
    let take = |scope| {
        pool.borrow_mut().take_results(scope).unwrap().map_or(0, |taken| {
            assert_eq!(all(taken.results).len(), taken.count as usize);
            taken.count
        })
    };
    let release = || {
        let mut pool = pool.borrow_mut();
        let position = pool.position();
        pool.release(position);
    };
    for first in 1..11 {
        submit(12);
        let (ran, mut taken) = (Cell::new(0), 0);
        let early = Cell::new(0);
        while worker.next().is_some() {
            let run = |_: &[u8]| {
                if ran.replace(ran.get() + 1) == first {
                    pool.borrow().check().unwrap();
                    early.set(take(Scope::Completed));
                    pool.borrow().check().unwrap();
                }
                Ok(result)
            };
            worker.set_interval(1_000); // it claims several at once only when it has seen that they are small
            assert!(worker.run_array((3, size_of::<T>()), run) > 0);
            pool.borrow().check().unwrap();
            taken += early.take() + take(Scope::Completed);
        }
        worker.update_visible(Duration::ZERO);
        assert_eq!(taken + take(Scope::Visible), 12);
        release();
    }
    // The last result alone, after those that were taken.
    for count in 2..40 {
        submit(count);
        let ran = Cell::new(0);
        while worker.next().is_some() {
            let run = |_: &[u8]| {
                if ran.replace(ran.get() + 1) == count - 1 {
                    take(Scope::Completed);
                }
                Ok(result)
            };
            worker.set_interval(1_000);
            assert!(worker.run_array((3, size_of::<T>()), run) > 0);
        }
        worker.update_visible(Duration::ZERO);
        pool.borrow().check().unwrap();
        take(Scope::Visible);
        assert_eq!(pool.borrow().results_taken(), pool.borrow().written());
        release();
    }
}

#[test]
fn results_of_an_open_array_are_taken_whatever_their_size() {
    results_of_an_open_array_are_taken(true);
    results_of_an_open_array_are_taken(1_u16);
    results_of_an_open_array_are_taken('a');
    results_of_an_open_array_are_taken(1.0_f64);
    results_of_an_open_array_are_taken(1_u128);
}

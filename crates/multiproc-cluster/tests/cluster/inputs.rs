//! Inputs that block or panic, and those of many sizes.

use std::cell::Cell;
use std::iter::{once, repeat};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::Duration;

use multiproc::Result;

use crate::server::Server;
use crate::support::{LEASE, Outcome, TEST_TIMEOUT, trials, wait_until};
use crate::work::{begin_and_wait, square};

trials![
    a_result_that_is_there_comes_before_another_item_of_a_slow_input,
    a_panic_of_the_input_comes_after_the_results_of_the_items_before,
    items_of_many_sizes_make_chunks_that_fit_into_messages,
    an_ordered_call_takes_no_more_than_its_window_while_its_first_item_takes_long,
];

/// The second result may not be there when it is asked for, so there are several attempts.
fn a_result_that_is_there_comes_before_another_item_of_a_slow_input() -> Outcome {
    let server = Server::start();
    let _agents = server.agents(&["a"]);
    let pool = server.pool("slow");
    wait_until("a result comes before the third item is taken", || {
        let taken = Cell::new(0);
        let input = (0..3).inspect(|_| {
            thread::sleep(Duration::from_millis(20)); // longer than a chunk waits for more items
            taken.set(taken.get() + 1);
        });
        let mut results = pool.options().buffer_size(2).imap(square, input);
        assert_eq!(results.next().unwrap().unwrap(), 0);
        wait_until("both tasks are done", || pool.stats().pending == 0);
        assert_eq!(results.next().unwrap().unwrap(), 1);
        let taken_by_then = taken.get();
        assert_eq!(results.next().unwrap().unwrap(), 4);
        taken_by_then == 2
    });
    Ok(())
}

fn a_panic_of_the_input_comes_after_the_results_of_the_items_before() -> Outcome {
    let server = Server::start();
    let _agents = server.agents(&["a"]);
    let pool = server.pool("panics");
    let input = || (0..1000).inspect(|&number| assert!(number != 700, "no more"));
    let mut results = pool.imap(square, input());
    let before = catch_unwind(AssertUnwindSafe(|| results.by_ref().take(700).collect::<Result<Vec<_>>>()));
    let before = before.map_err(|_| "the panic comes before the results")??;
    assert!(before.into_iter().eq((0..700).map(square)));
    let panic = catch_unwind(AssertUnwindSafe(|| results.next())).expect_err("there is no panic");
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"no more"));
    assert!(results.next().is_none());
    assert!(catch_unwind(AssertUnwindSafe(|| pool.map(square, input()))).is_err());
    Ok(())
}

/// The caller keeps the results of all other items that it has taken.
fn an_ordered_call_takes_no_more_than_its_window_while_its_first_item_takes_long() -> Outcome {
    let server = Server::start();
    let folder = tempfile::tempdir()?;
    let agents = server.agents(&["a"]);
    let pool = server.cluster().lease(LEASE * 10).connect()?.pool("window")?;
    pool.wait_for_hosts(1, TEST_TIMEOUT)?;
    let [first, gone] = [folder.path().to_owned(), folder.path().join("gone")];
    let taken = Cell::new(0);
    let input = once(first).chain(repeat(gone)).inspect(|_| taken.set(taken.get() + 1));
    let mut results = pool.imap(begin_and_wait, input);
    wait_until("all other items have results", || {
        assert!(results.next_timeout(Duration::ZERO).is_none(), "a result comes before its turn");
        taken.get() > 1 && pool.stats().pending == 1
    });
    let most = taken.get();
    for _ in 0..20 {
        assert!(results.next_timeout(Duration::from_millis(5)).is_none());
    }
    assert_eq!(taken.get(), most);
    std::fs::write(folder.path().join("go"), "")?;
    for _ in 0..most {
        assert_eq!(results.next().unwrap()?, agents[0].pid());
    }
    Ok(())
}

/// They take no time, so that the time alone would make chunks of megabytes.
fn items_of_many_sizes_make_chunks_that_fit_into_messages() -> Outcome {
    const COUNT: usize = 600;
    let server = Server::start();
    let _agents = server.agents(&["a"]);
    let pool = server.pool("sizes");
    let size = |number: usize| if number.is_multiple_of(7) { 100_000 } else { 10_000 + number };
    let length = |bytes: Vec<u8>| bytes.len();
    let mut results = pool.imap(length, (0..COUNT).map(|number| vec![7; size(number)]));
    for number in 0..COUNT {
        assert_eq!(results.len(), COUNT - number);
        assert_eq!(results.next().unwrap()?, size(number));
    }
    assert_eq!(results.len(), 0);
    assert_eq!(server.streams().len(), 1, "some were too large: {:?}", server.streams());
    Ok(())
}

//! Arguments and results that cannot be encoded or decoded.

use multiproc::pool::TaskHandle;
use multiproc::{Pool, Result};

use crate::support::{BadValue, Outcome, trials};

trials![
    an_argument_that_does_not_encode_is_the_error_of_its_item,
    an_argument_that_does_not_decode_is_the_error_of_its_item,
    a_result_that_does_not_encode_is_the_error_of_its_item_and_no_worker_is_lost,
    a_result_that_does_not_decode_is_the_error_of_its_item,
];

/// Five items, the one in the middle bad.
fn with_bad_value(bad_value: BadValue) -> [BadValue; 5] {
    [BadValue::Fine(0), BadValue::Fine(1), bad_value, BadValue::Fine(3), BadValue::Fine(4)]
}

/// In each kind of call, item 2 fails with an error that begins like this, and all others arrive.
fn only_the_bad_value_fails<F>(function: F, bad_value: BadValue, beginning: &str) -> Result<()>
where
    F: multiproc::RemoteFn<(BadValue,), Output = BadValue>,
{
    let pool = Pool::new(2)?;
    let items = || with_bad_value(bad_value);
    let error = pool.map(function, items()).unwrap_err();
    for outcomes in [
        pool.map_results(function, items())?,
        pool.starmap_results(function, items().map(|item| (item,)))?,
        pool.imap(function, items()).collect(),
    ] {
        assert_eq!(outcomes.len(), 5);
        for (i, (outcome, item)) in outcomes.into_iter().zip(items()).enumerate() {
            match outcome {
                Ok(value) => assert_eq!((value, i != 2), (item, true)),
                Err(same) => {
                    assert_eq!((i, same.index(), same.is_codec()), (2, error.index(), true), "{same}");
                }
            }
        }
    }
    assert_eq!(pool.imap_unordered(function, items()).filter(Result::is_err).count(), 1);
    assert!(pool.apply(function, (bad_value,)).unwrap_err().is_codec());
    assert!(pool.submit(function, (bad_value,)).and_then(TaskHandle::get).unwrap_err().is_codec());
    assert_eq!(error.index(), Some(2));
    assert!(error.to_string().starts_with(beginning), "{error}");
    Ok(())
}

fn an_argument_that_does_not_encode_is_the_error_of_its_item() -> Outcome {
    Ok(only_the_bad_value_fails(|item: BadValue| item, BadValue::Unencodable, "cannot encode the arguments")?)
}

fn an_argument_that_does_not_decode_is_the_error_of_its_item() -> Outcome {
    Ok(only_the_bad_value_fails(|item: BadValue| item, BadValue::Undecodable, "cannot decode the arguments")?)
}

fn a_result_that_does_not_encode_is_the_error_of_its_item_and_no_worker_is_lost() -> Outcome {
    let pool = Pool::new(2)?;
    let pids = pool.worker_pids();
    let keep_odd = |number: u32| if number % 2 == 1 { BadValue::Fine(number) } else { BadValue::Unencodable };
    for round in 0..20 {
        for (number, outcome) in (0..).zip(pool.map_results(keep_odd, 0..10)?) {
            match outcome {
                Ok(value) => assert_eq!(value, BadValue::Fine(number)),
                Err(error) => {
                    assert_eq!((error.index(), number % 2), (Some(number.into()), 0), "{error}");
                    assert!(error.to_string().starts_with("cannot encode the result"), "{error}");
                }
            }
        }
        assert_eq!(pool.worker_pids(), pids, "in round {round}");
    }
    Ok(())
}

fn a_result_that_does_not_decode_is_the_error_of_its_item() -> Outcome {
    let pool = Pool::new(2)?;
    let outcomes = pool.map_results(
        |number| if number == 2 { BadValue::Undecodable } else { BadValue::Fine(number) },
        0..5,
    )?;
    for (number, outcome) in (0..).zip(outcomes) {
        match outcome {
            Ok(value) => assert_eq!((value, number != 2), (BadValue::Fine(number), true)),
            Err(error) => assert_eq!((error.index(), error.is_codec()), (Some(2), true), "{error}"),
        }
    }
    Ok(())
}

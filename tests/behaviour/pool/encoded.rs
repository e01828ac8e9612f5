//! What a pool on many hosts builds on: functions by name, arguments and results as bytes.

use multiproc::pool::encoded::{self, FunctionId};
use multiproc::{Error, ErrorKind, Pool, RemoteFn, Result, pipe};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::support::{Outcome, trials};

trials![
    encoded_items_have_the_results_of_plain_ones,
    encoded_items_fail_as_plain_ones,
    unknown_functions_and_bad_arguments_are_errors_of_the_items,
    descriptors_cannot_be_encoded,
];

fn name_length(name: String, more: Option<u32>) -> (usize, Option<u32>) {
    (name.len(), more)
}

fn halve(number: u64) -> u64 {
    match number {
        7 => panic!("seven is odd"),
        8 => std::process::abort(),
        _ => number / 2,
    }
}

fn run<F, Args, R>(pool: &Pool, function: F, items: &[Args]) -> Result<Vec<Result<R>>>
where
    F: RemoteFn<Args, Output = R>,
    Args: Serialize + DeserializeOwned,
    R: Serialize + DeserializeOwned,
{
    let mut encoded = Vec::new();
    for item in items {
        let mut bytes = Vec::new();
        encoded::encode(item, &mut bytes, "the arguments")?;
        encoded.push(bytes);
    }
    let results = pool.options().imap_encoded(FunctionId::of(function)?, encoded);
    Ok(results.map(|result| encoded::decode(&result?, "the result")).collect())
}

fn encoded_items_have_the_results_of_plain_ones() -> Outcome {
    let pool = Pool::new(2)?;
    let numbers: Vec<(u64,)> = (100..2000).map(|number| (number,)).collect();
    let halves = run(&pool, halve, &numbers)?.into_iter().collect::<Result<Vec<u64>>>()?;
    assert!(halves.into_iter().eq((100..2000).map(|number| number / 2)));

    let names = [(String::new(), None), ("abc".to_owned(), Some(5)), ("x".repeat(100_000), None)];
    let lengths = run(&pool, name_length, &names)?.into_iter().collect::<Result<Vec<_>>>()?;
    assert_eq!(lengths, [(0, None), (3, Some(5)), (100_000, None)]);

    let mut args = Vec::new();
    encoded::encode(&(42_u64,), &mut args, "the arguments")?;
    let task = pool.options().submit_encoded(FunctionId::of(halve)?, args)?;
    assert_eq!(encoded::decode::<u64>(&task.get()?, "the result")?, 21);
    Ok(())
}

fn encoded_items_fail_as_plain_ones() -> Outcome {
    let pool = Pool::new(2)?;
    let facts = |results: Vec<Result<u64>>| -> Vec<_> {
        let fact = |error: Error| (error.kind(), error.index(), error.signal());
        results.into_iter().map(|result| result.map_err(fact)).collect()
    };
    let plain = facts(pool.map_results(halve, [6, 7, 8, 9])?);
    assert_eq!(plain[1], Err((ErrorKind::Panic, Some(1), None)));
    assert_eq!(plain, facts(run(&pool, halve, &[(6,), (7,), (8,), (9,)])?));
    Ok(())
}

fn unknown_functions_and_bad_arguments_are_errors_of_the_items() -> Outcome {
    let pool = Pool::new(1)?;
    let mut words = Vec::new();
    encoded::encode(&FunctionId::of(halve)?, &mut words, "a name")?;
    for byte in words.iter_mut().skip(1).take(2) {
        *byte ^= 0x28;
    }
    let unknown: FunctionId = encoded::decode(&words, "a name")?;
    let error = pool.options().submit_encoded(unknown, vec![0; 8])?.get().unwrap_err();
    assert!(error.is_codec() && error.to_string().contains("no such function"), "{error}");

    let lengths = FunctionId::of(name_length)?;
    let results: Vec<_> =
        pool.options().imap_encoded(lengths, [vec![], vec![0xff; 9], vec![0, 0, 0]]).collect();
    assert!(results[..2].iter().all(|result| result.as_ref().is_err_and(Error::is_codec)), "{results:?}");
    Ok(())
}

fn descriptors_cannot_be_encoded() -> Outcome {
    let (end, _other) = pipe::<(), ()>()?;
    let mut bytes = vec![1];
    let error = encoded::encode(&(end,), &mut bytes, "the arguments").unwrap_err();
    assert!(error.is_codec(), "{error}");
    assert_eq!(bytes, [1]);
    Ok(())
}

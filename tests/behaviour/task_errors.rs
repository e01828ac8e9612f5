//! **Errors of tasks**: `?` converts any error, and its chain of texts arrives.

use std::error::Error as StdError;
use std::fs::File;
use std::num::ParseIntError;

use multiproc::{ErrorKind, Pool, Process, StartMethod, TaskError, queue};

use crate::support::{Outcome, trials};

trials![
    any_error_arrives_as_its_chain_of_texts,
    a_pool_gives_each_item_its_error,
    an_error_travels_through_a_queue,
    an_error_passes_through_several_processes,
    an_error_of_a_task_is_one_of_the_library,
    a_cyclic_chain_is_truncated,
];

#[derive(Debug)]
enum ShopError {
    Price(ParseIntError),
}

impl StdError for ShopError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        let Self::Price(source) = self;
        Some(source)
    }
}

impl std::fmt::Display for ShopError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("no price")
    }
}

fn parse(price: &str) -> Result<u8, ShopError> {
    price.parse().map_err(ShopError::Price)
}

fn read() -> anyhow::Result<File> {
    use anyhow::Context;
    File::open("/no/such/file").context("cannot open the shelf").context("cannot open the shop")
}

fn boxed() -> Result<u8, Box<dyn StdError>> {
    Ok(parse("two")?)
}

fn sell(item: u8) -> Result<u8, TaskError> {
    match item {
        0 => drop(File::open("/no/such/file")?),
        1 => drop(read()?),
        2 => drop(boxed()?),
        3 => Err("sold out")?,
        4 => return Err(format!("item {item} is sold out").into()),
        5 => drop(parse("five")?),
        6 => drop(queue::bounded::<u8>(0)?),
        7 => return sell(3),
        _ => return Ok(item),
    }
    Err("an error was lost")?
}

const NO_FILE: &str = "No such file or directory (os error 2)";
const NO_NUMBER: &str = "invalid digit found in string";

const CHAINS: [&[&str]; 8] = [
    &[NO_FILE],
    &["cannot open the shop", "cannot open the shelf", NO_FILE],
    &["no price", NO_NUMBER],
    &["sold out"],
    &["item 4 is sold out"],
    &["no price", NO_NUMBER],
    &["queue capacity must be at least 1"],
    &["sold out"],
];

/// What a `main` that returns `anyhow::Result` does.
fn sell_elsewhere(item: u8, method: StartMethod) -> anyhow::Result<u8> {
    let child = Process::builder().start_method(method).spawn(sell, (item,))?;
    Ok(child.join()??)
}

fn any_error_arrives_as_its_chain_of_texts() -> Outcome {
    for method in [StartMethod::ForkServer, StartMethod::Spawn] {
        for (item, texts) in (0..).zip(CHAINS) {
            let error = sell_elsewhere(item, method).unwrap_err();
            assert_eq!(error.chain().map(ToString::to_string).collect::<Vec<_>>(), texts);
        }
        assert_eq!(sell_elsewhere(8, method)?, 8);
    }
    Ok(())
}

fn a_pool_gives_each_item_its_error() -> Outcome {
    for method in [StartMethod::ForkServer, StartMethod::Spawn] {
        let pool = Pool::builder().workers(2).start_method(method).build()?;
        let check = |item: usize, sold: Result<u8, TaskError>| match CHAINS.get(item) {
            Some(texts) => assert_eq!(chain(&sold.unwrap_err()), *texts),
            None => assert_eq!(usize::from(sold.unwrap()), item),
        };
        for (item, sold) in pool.map_results(sell, 0..10)?.into_iter().enumerate() {
            check(item, sold?);
        }
        for (item, sold) in pool.imap(sell, 0..10).enumerate() {
            check(item, sold?);
        }
        for item in 0..10 {
            check(item.into(), pool.apply(sell, (item,))?);
            check(item.into(), pool.submit(sell, (item,))?.get()?);
        }
        let all: Result<Vec<u8>, TaskError> = pool.map(sell, [9, 8, 3, 0])?.into_iter().collect();
        assert_eq!(all.unwrap_err().to_string(), "sold out");
    }
    Ok(())
}

fn an_error_travels_through_a_queue() -> Outcome {
    let (sender, receiver) = queue::bounded(16)?;
    let send = |sender: queue::Sender<_>| (0..8).try_for_each(|item| Ok(sender.send(sell(item))?));
    let child = Process::spawn(send, (sender,))?;
    let chains: Vec<_> =
        receiver.iter().map(|sold| Ok(chain(&sold?.unwrap_err()))).collect::<multiproc::Result<_>>()?;
    assert_eq!(chains, CHAINS);
    let sent: multiproc::Result<()> = child.join()?;
    Ok(sent?)
}

fn an_error_passes_through_several_processes() -> Outcome {
    fn order(item: u8) -> Result<u8, TaskError> {
        Process::spawn(sell, (item,))?.join()?
    }
    fn order_with_context(item: u8) -> Result<u8, TaskError> {
        use anyhow::Context;
        Ok(Process::spawn(order, (item,))?.join()?.context("cannot order")?)
    }
    let error = Process::spawn(order_with_context, (1,))?.join()?.unwrap_err();
    assert_eq!(chain(&error), [&["cannot order"], CHAINS[1]].concat());
    assert_eq!(format!("{error:?}"), chain(&error).join(": "));
    Ok(())
}

fn an_error_of_a_task_is_one_of_the_library() -> Outcome {
    fn order(item: u8) -> multiproc::Result<u8> {
        Ok(Process::spawn(sell, (item,))?.join()??)
    }
    let error = Process::spawn(order, (1,))?.join()?.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Task);
    assert_eq!(chain(&error), CHAINS[1]);
    Ok(())
}

#[derive(Debug)]
struct Endless;

impl StdError for Endless {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(self)
    }
}

impl std::fmt::Display for Endless {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("again")
    }
}

fn a_cyclic_chain_is_truncated() -> Outcome {
    let error = Process::spawn(|| -> Result<(), TaskError> { Err(Endless)? }, ())?.join()?.unwrap_err();
    assert_eq!(chain(&error), ["again"; 33]);
    Ok(())
}

fn chain(error: &(dyn StdError + 'static)) -> Vec<String> {
    std::iter::successors(Some(error), |error| (*error).source()).map(ToString::to_string).collect()
}

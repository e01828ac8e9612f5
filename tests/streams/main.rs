//! **Streams**: the results of `imap` and the items of a queue awaited, under tokio and smol. Needs the
//! feature `async`: `cargo test -p tests --features async --test streams`

#![allow(clippy::unwrap_used, reason = "a test ends where something does not go as it should")]

mod queue;
mod results;

use std::future::Future;
use std::task::{Context, Waker};

use multiproc::{Connection, Result};
use smol::stream::{Stream, StreamExt};

multiproc::init_for_tests!();

type Outcome = std::result::Result<(), Box<dyn std::error::Error>>;

/// A pipe whose other end blocks a task until this one is dropped.
type Latch = Connection<(), ()>;

/// Runs in a child: says that it has begun, and blocks until the latch is dropped.
fn block(latch: Latch) {
    let _ = latch.send(());
    let _ = latch.recv();
}

/// Runs the future to its end under every executor that the tests know.
fn under_every_executor<F: Future>(future: impl Fn() -> F) -> Vec<F::Output> {
    let one_thread = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    vec![one_thread.block_on(future()), threads.block_on(future()), smol::block_on(future())]
}

/// The rest of a stream; the first error ends it.
async fn rest<T>(stream: impl Stream<Item = Result<T>>) -> Result<Vec<T>> {
    let mut stream = Box::pin(stream);
    let mut items = Vec::new();
    while let Some(item) = stream.next().await {
        items.push(item?);
    }
    Ok(items)
}

/// Polls once with a waker that does nothing; returns whether nothing is there yet.
fn is_pending(stream: &mut (impl Stream + Unpin)) -> bool {
    stream.poll_next(&mut Context::from_waker(Waker::noop())).is_pending()
}

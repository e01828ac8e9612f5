//! W11: the result of a submitted task, by `await` and by `get`.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake};
use std::thread::{self, Thread};
use std::time::Duration;

use anyhow::Result;
use bench::measure::{Measured, Scale, back_to_back, repeated};
use bench::work::{check, cube};
use multiproc::Pool;

/// The tasks of 300 µs.
const TASKS: usize = 2000;

pub(super) fn hot(scale: Scale) -> Result<Measured> {
    let pool = Pool::new(2)?;
    back_to_back(scale, || check("result", 27, block_on(pool.submit(cube, (3,))?.into_future())?))
}

pub(super) fn hot_by_get(scale: Scale) -> Result<Measured> {
    let pool = Pool::new(2)?;
    back_to_back(scale, || check("result", 27, pool.submit(cube, (3,))?.get()?))
}

pub(super) fn longer(scale: Scale) -> Result<Measured> {
    let pool = Pool::new(2)?;
    repeated(scale, TASKS, || Ok(block_on(pool.submit(wait, ())?.into_future())?))
}

pub(super) fn longer_by_get(scale: Scale) -> Result<Measured> {
    let pool = Pool::new(2)?;
    repeated(scale, TASKS, || Ok(pool.submit(wait, ())?.get()?))
}

fn wait() {
    thread::sleep(Duration::from_micros(300));
}

/// The least that an executor does.
fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Arc::new(Unpark(thread::current())).into();
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

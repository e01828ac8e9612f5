//! W5: there and back over a pipe; and one large object handed over again and again.

use anyhow::{Context, Result};
use bench::measure::{Scale, back_to_back, from_sleep as paused};
use bench::program::Measured;
use bench::stream::{mixed, unmixed};
use bench::work::check;
use multiproc::{Connection, Error, Process, pipe};

pub(super) fn hot(scale: Scale) -> Result<Measured> {
    ping(|call| back_to_back(scale, call))
}

pub(super) fn from_sleep(scale: Scale) -> Result<Measured> {
    ping(|call| paused(scale, call))
}

fn ping(measure: impl FnOnce(&mut dyn FnMut() -> Result<()>) -> Result<Measured>) -> Result<Measured> {
    let (library, theirs) = pipe::<u64, u64>()?;
    let child = Process::spawn(echo, (theirs,))?;
    let mut number = 0;
    let measured = measure(&mut || {
        number += 1;
        library.send(mixed(number))?;
        let answer = library.recv().context("the child is gone")?;
        check("answer", number + 1, unmixed(answer))
    })?;
    drop(library);
    child.join()??;
    Ok(measured)
}

fn echo(connection: Connection<u64, u64>) -> Result<(), Error> {
    for message in connection.iter() {
        let message = message?;
        connection.send(mixed(unmixed(message) + 1))?;
    }
    Ok(())
}

/// The bytes a second that a copy would have moved.
#[allow(clippy::cast_precision_loss)] // of bytes, far fewer than 2^52
pub(super) fn shared_slice(scale: Scale) -> Result<Measured> {
    use std::time::Instant;

    use bench::stream::flow;
    use bench::work::{self, MIB};
    use multiproc::SharedSlice;

    type Shown = Option<SharedSlice<u8>>;

    /// Answers once after the first, and once at the end, with the number of objects and the sum of their
    /// last bytes.
    fn show(objects: Connection<(u64, u64), Shown>) -> Result<(), Error> {
        let (mut count, mut sum) = (0, 0);
        while let Some(bytes) = objects.recv()? {
            count += 1;
            sum += u64::from(bytes[bytes.len() - 1]);
            if count == 1 {
                objects.send((count, sum))?;
            }
        }
        Ok(objects.send((count, sum))?)
    }

    let (library, theirs) = pipe::<Shown, (u64, u64)>()?;
    let child = Process::spawn(show, (theirs,))?;
    let bytes = work::bytes(MIB);
    let last = u64::from(bytes[MIB - 1]);
    let start = Instant::now();
    let shared_slice = SharedSlice::from_slice(&bytes)?;
    let created = start.elapsed();
    library.send(Some(shared_slice.clone()))?;
    library.recv().context("the child is gone")?;
    let mapped = start.elapsed().saturating_sub(created);

    let start = Instant::now();
    let count = 1 + flow(scale, MIB, |_| Ok(library.send(Some(shared_slice.clone()))?))?;
    library.send(None)?;
    let (seen, sum) = library.recv().context("the child is gone")?;
    let time = start.elapsed();
    check("number of objects", count, seen)?;
    check("sum of their last bytes", count * last, sum)?;
    child.join()??;
    let value = ((count - 1) * MIB as u64) as f64 / time.as_secs_f64() / 1e9;
    let [created, mapped] = [created, mapped].map(|time| time.as_secs_f64() * 1e6);
    Ok(Measured::new(value)
        .with(format!("made in {created:.0} µs, first handed over and mapped in {mapped:.0} µs")))
}

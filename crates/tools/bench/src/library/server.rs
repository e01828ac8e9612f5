//! W9: calls of a server, and the same work by a pool's `apply`.

use anyhow::Result;
use bench::measure::{self, Measured, Scale, back_to_back};
use bench::work::{check, cube};
use multiproc::Server;

pub(super) fn hot(scale: Scale) -> Result<Measured> {
    let server = Server::spawn(|| (), ())?;
    let method = |(): &mut (), number: u64| cube(number);
    back_to_back(scale, || check("result", 27, server.call(method, (3,))?))
}

pub(super) fn from_sleep(scale: Scale) -> Result<Measured> {
    let server = Server::spawn(|| (), ())?;
    let method = |(): &mut (), number: u64| cube(number);
    measure::from_sleep(scale, || check("result", 27, server.call(method, (3,))?))
}

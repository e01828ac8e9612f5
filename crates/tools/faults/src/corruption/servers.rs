//! Servers of which the memory is overwritten.

use std::time::Duration;

use anyhow::Result;
use multiproc::server::Limit;
use multiproc::{Process, Server};
use tests::corrupter::Random;

use super::bounds::Bounds;
use super::{Rest, TIME, end};

/// What a call may take until it learns that the server has ended.
const SERVER_END: Duration = Duration::from_secs(5);

fn add(sum: &mut u64, number: u64) -> u64 {
    *sum = sum.wrapping_add(number);
    *sum
}

fn repeat(_: &mut u64, text: String) -> String {
    text.repeat(20)
}

/// A child that calls a server, and the parent.
pub(super) fn use_server(random: &mut Random, _: &Bounds) -> Result<Rest> {
    let builder = Server::builder().capacity([1, 100][usize::try_from(random.below(2))?]);
    let builder = match random.below(2) {
        0 => builder,
        _ => builder.restart(Limit::new(2, Duration::from_secs(3600))),
    };
    let server = builder.spawn(|| 0, ())?;
    let call = |server: Server<u64>, count: u64| {
        (0..count).for_each(|number| drop(server.call_timeout(add, (number,), TIME)));
    };
    let child = Process::spawn(call, (server.clone(), random.below(300)))?;
    Ok(Box::new(move |random, bounds| {
        for number in 0..random.below(100) {
            call_once(&server, number, random, bounds)?;
        }
        end(child, bounds)?;
        // Without a time limit, as the server ends. It does not end by itself while it waits for a lock.
        if bounds.only_with_limits() || random.below(2) == 0 {
            drop(bounds.at_once("Server::kill", || server.kill())?);
            if !bounds.only_with_limits() {
                let call = || server.call(add, (1,));
                drop(bounds.within(SERVER_END, "Server::call of a killed server", call)?);
            }
        }
        bounds.within(SERVER_END, "Server::drop", || drop(server))
    }))
}

fn call_once(server: &Server<u64>, number: u64, random: &mut Random, bounds: &Bounds) -> Result<()> {
    match random.below(7) {
        0 | 1 => {
            let call = || server.call_timeout(add, (number,), TIME);
            drop(bounds.within(TIME, "Server::call_timeout", call)?);
        }
        2 => {
            let text = "text".repeat(20_000);
            let call = || server.call_timeout(repeat, (text,), TIME);
            drop(bounds.within(TIME, "Server::call_timeout with a long text", call)?);
        }
        3 => drop(bounds.at_once("Server::try_submit", || server.try_submit(add, (number,)).map(drop))?),
        4 => {
            let submitted = bounds.at_once("Server::try_submit", || server.try_submit(add, (number,)))?;
            if let Ok(mut call) = submitted {
                drop(bounds.within(TIME, "CallHandle::get_timeout", || call.get_timeout(TIME))?);
            }
        }
        5 => _ = bounds.at_once("Server::is_alive", || (server.is_alive(), server.pid()))?,
        _ => _ = bounds.at_once("Server::waiting", || server.waiting())?,
    }
    Ok(())
}

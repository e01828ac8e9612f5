//! **Pipe**: two ends, each of which sends one type of message and receives another.

mod disconnect;
mod messages;
mod waiting;

use libtest_mimic::Trial;
use multiproc::{Connection, Result};

pub(crate) fn trials() -> Vec<Trial> {
    [disconnect::trials(), messages::trials(), waiting::trials()].into_iter().flatten().collect()
}

/// Sends back every message.
fn echo(messages: Connection<Vec<u8>, Vec<u8>>) -> Result<()> {
    for bytes in messages.iter() {
        let bytes = bytes?;
        messages.send(bytes)?;
    }
    Ok(())
}

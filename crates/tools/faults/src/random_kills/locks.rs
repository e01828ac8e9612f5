//! Processes that work under locks, semaphores, events and the like.

use anyhow::{Result, bail};
use multiproc::Process;

use super::kill_round::KillRound;
use crate::locks::{Locks, PARTIES};

pub(super) fn all(round: &mut KillRound) -> Result<()> {
    let locks = Locks::new()?;
    let mut children = Vec::new();
    for _ in 0..PARTIES {
        children.push(Process::spawn(Locks::work, (locks.clone(),))?);
    }
    let pids: Vec<_> = children.iter().map(Process::pid).collect();
    let work = || {
        let ends: Vec<_> = children.into_iter().map(Process::join).collect();
        (ends, locks.use_all())
    };
    let (ends, used) = round.run(|| pids.clone(), work);
    used?;
    for end in ends {
        match end {
            Ok(Ok(())) => {}
            Ok(Err(error)) => bail!("a child fails: {error}"),
            Err(error) => round.expect_killed(&error)?,
        }
    }
    Ok(())
}

//! Locks, semaphores, events and the like, under which several processes work.

use anyhow::{Result, bail};
use multiproc::Process;
use multiproc::failpoints::now;

use super::{AllowedFailures, Observed};
use crate::locks::{Locks, PARTIES};

pub(super) fn all(allowed: AllowedFailures) -> Result<Observed> {
    let mut observed = Observed::default();
    let Some(locks) = observed.tolerate(Locks::new(!allowed.is_none()), allowed)? else {
        return Ok(observed);
    };
    let children: Vec<_> = (0..PARTIES).map(|_| Process::spawn(Locks::work, (locks.clone(),))).collect();
    for child in children {
        match observed.tolerate(child.and_then(Process::join), allowed)? {
            Some(Err(error)) if !allowed.is_refusal(&error) => bail!("a child fails: {error}"),
            _ => {}
        }
    }
    locks.use_all()?;
    observed.settled = Some(now());
    Ok(observed)
}

//! Queues and pipes.

use anyhow::{Result, bail, ensure};
use multiproc::faults::now;
use multiproc::{Process, queue};

use super::{Allowed, Cost};
use crate::ledger::Ledger;
use crate::traffic::{self, Question};

const PRODUCERS: u32 = 2;
const CONSUMERS: u32 = 2;

/// Producers and consumers in processes of their own.
pub(super) fn queue(allowed: Allowed) -> Result<Cost> {
    let mut cost = Cost::default();
    let ledger = Ledger::create()?;
    let Some((sender, receiver)) = cost.charge(queue::bounded(32), allowed)? else { return Ok(cost) };
    let mut children = Vec::new();
    for own in 0..PRODUCERS {
        children.push(Process::spawn(traffic::produce, (sender.clone(), own, ledger.path())));
    }
    for own in 0..CONSUMERS {
        children.push(Process::spawn(traffic::consume, (receiver.clone(), own, ledger.path())));
    }
    drop((sender, receiver));
    let mut ended_well = Vec::new();
    for child in children {
        match cost.charge(child.and_then(Process::join), allowed)? {
            Some(Ok(())) => ended_well.push(true),
            None => ended_well.push(false),
            Some(Err(error)) if allowed.is_refusal(&error) => ended_well.push(false),
            Some(Err(error)) => bail!("a producer or consumer fails: {error}"),
        }
    }
    cost.settled = Some(now());
    let (producers, consumers) = ended_well.split_at(PRODUCERS as usize);
    traffic::check(&ledger, producers, consumers)?;
    Ok(cost)
}

/// Questions and answers, small and large, some with an end of a queue.
pub(super) fn pipe(allowed: Allowed) -> Result<Cost> {
    let mut cost = Cost::default();
    let Some((ours, theirs)) = cost.charge(multiproc::pipe::<Question, Vec<u8>>(), allowed)? else {
        return Ok(cost);
    };
    let child = Process::spawn(traffic::answer, (theirs,));
    let (mut answers, mut failed) = (0, None);
    for number in 0..30_u8 {
        match traffic::ask(&ours, number) {
            Ok(Some(true)) => answers += 1,
            Ok(Some(false)) => bail!("a wrong answer comes"),
            Ok(None) => break,
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    drop(ours);
    let answered = cost.charge(child.and_then(Process::join), allowed)?;
    cost.settled = Some(now());
    match answered {
        Some(Ok(())) if failed.is_none() => ensure!(answers == 30 || allowed.refusal, "{answers} answers"),
        Some(Ok(())) => {
            let error = failed.map_or_else(String::new, |error| error.to_string());
            ensure!(allowed.refusal, "after {answers} answers: {error}");
        }
        Some(Err(error)) => {
            ensure!(allowed.is_refusal(&error), "the child fails: {error}");
        }
        None => {}
    }
    Ok(cost)
}

//! Those who use queues and pipes.

use anyhow::{Result, bail, ensure};
use multiproc::{Connection, Process, queue};
use rand::RngExt;

use super::fire::Fire;
use crate::ledger::Ledger;
use crate::traffic::{self, Question};

pub(super) fn producers(fire: &mut Fire) -> Result<()> {
    queue(fire, |producers, _| producers.to_vec())
}

pub(super) fn consumers(fire: &mut Fire) -> Result<()> {
    queue(fire, |_, consumers| consumers.to_vec())
}

fn queue(fire: &mut Fire, candidates: fn(&[u32], &[u32]) -> Vec<u32>) -> Result<()> {
    let ledger = Ledger::create()?;
    let [producers, consumers] = [(); 2].map(|()| fire.dice.random_range(2..5));
    let (sender, receiver) = queue::bounded([1, 32, 10_000][fire.dice.random_range(0..3)])?;
    let mut children = Vec::new();
    for own in 0..producers {
        children.push(Process::spawn(traffic::produce, (sender.clone(), own, ledger.path()))?);
    }
    for own in 0..consumers {
        children.push(Process::spawn(traffic::consume, (receiver.clone(), own, ledger.path()))?);
    }
    drop((sender, receiver));
    let pids: Vec<_> = children.iter().map(Process::pid).collect();
    let (of_producers, of_consumers) = pids.split_at(producers as usize);
    let ends: Vec<_> = fire.over(
        || candidates(of_producers, of_consumers),
        || children.into_iter().map(Process::join).collect(),
    );
    let nobody_receives = of_consumers.iter().all(|&pid| fire.has_killed(pid));
    let mut ended_well = Vec::new();
    for end in ends {
        ended_well.push(match end {
            Ok(Ok(())) => true,
            Ok(Err(error)) if error.is_disconnected() && nobody_receives => false,
            Ok(Err(error)) => bail!("a producer or consumer fails: {error}"),
            Err(error) => fire.answers_for(&error).map(|()| false)?,
        });
    }
    let (producers, consumers) = ended_well.split_at(producers as usize);
    traffic::check(&ledger, producers, consumers)
}

const QUESTIONS: u8 = 50;

/// Questions in one child, answers in another.
pub(super) fn pipe(fire: &mut Fire) -> Result<()> {
    let (one, other) = multiproc::pipe()?;
    let asking = Process::spawn(ask_all, (one,))?;
    let answering = Process::spawn(traffic::answer, (other,))?;
    let pids = [asking.pid(), answering.pid()];
    let (asked, answered) = fire.over(|| pids.to_vec(), || (asking.join(), answering.join()));
    match asked {
        Ok(right) => {
            let right = right?;
            ensure!(
                right == QUESTIONS || (right < QUESTIONS && fire.has_killed(pids[1])),
                "{right} of {QUESTIONS} answers are right"
            );
        }
        Err(error) => fire.answers_for(&error)?,
    }
    match answered {
        Ok(Ok(())) => Ok(()),
        // Its last answer found nobody.
        Ok(Err(error)) if error.is_disconnected() && fire.has_killed(pids[0]) => Ok(()),
        Ok(Err(error)) => bail!("the one who answers fails: {error}"),
        Err(error) => fire.answers_for(&error),
    }
}

/// How many answers were right until the end, or until the other end was gone.
fn ask_all(end: Connection<Question, Vec<u8>>) -> multiproc::Result<u8> {
    for number in 0..QUESTIONS {
        match traffic::ask(&end, number)? {
            Some(true) => {}
            // More than there are: that fails in any case.
            Some(false) => return Ok(u8::MAX),
            None => return Ok(number),
        }
    }
    Ok(QUESTIONS)
}

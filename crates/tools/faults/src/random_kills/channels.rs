//! Random kills of processes that use queues and pipes.

use anyhow::{Result, bail, ensure};
use multiproc::{Connection, Process, queue};
use rand::RngExt;

use super::kill_round::KillRound;
use crate::event_log::EventLog;
use crate::workload::{self, Question};

pub(super) fn producers(round: &mut KillRound) -> Result<()> {
    queue(round, |producers, _| producers.to_vec())
}

pub(super) fn consumers(round: &mut KillRound) -> Result<()> {
    queue(round, |_, consumers| consumers.to_vec())
}

fn queue(round: &mut KillRound, candidates: fn(&[u32], &[u32]) -> Vec<u32>) -> Result<()> {
    let event_log = EventLog::create()?;
    let [producers, consumers] = [(); 2].map(|()| round.rng.random_range(2..5));
    let (sender, receiver) = queue::bounded([1, 32, 10_000][round.rng.random_range(0..3)])?;
    let mut children = Vec::new();
    for own in 0..producers {
        children.push(Process::spawn(workload::produce, (sender.clone(), own, event_log.path()))?);
    }
    for own in 0..consumers {
        children.push(Process::spawn(workload::consume, (receiver.clone(), own, event_log.path()))?);
    }
    drop((sender, receiver));
    let pids: Vec<_> = children.iter().map(Process::pid).collect();
    let (of_producers, of_consumers) = pids.split_at(producers as usize);
    let ends: Vec<_> = round
        .run(|| candidates(of_producers, of_consumers), || children.into_iter().map(Process::join).collect());
    let no_receiver = of_consumers.iter().all(|&pid| round.has_killed(pid));
    let mut ended_well = Vec::new();
    for end in ends {
        ended_well.push(match end {
            Ok(Ok(())) => true,
            Ok(Err(error)) if error.is_disconnected() && no_receiver => false,
            Ok(Err(error)) => bail!("a producer or consumer fails: {error}"),
            Err(error) => round.expect_killed(&error).map(|()| false)?,
        });
    }
    let (producers, consumers) = ended_well.split_at(producers as usize);
    workload::check(&event_log, producers, consumers)
}

const QUESTIONS: u8 = 50;

/// Questions in one child, answers in another.
pub(super) fn pipe(round: &mut KillRound) -> Result<()> {
    let (one, other) = multiproc::pipe()?;
    let asking = Process::spawn(ask_all, (one,))?;
    let answering = Process::spawn(workload::answer, (other,))?;
    let pids = [asking.pid(), answering.pid()];
    let (asked, answered) = round.run(|| pids.to_vec(), || (asking.join(), answering.join()));
    match asked {
        Ok(right) => {
            let right = right?;
            ensure!(
                right == QUESTIONS || (right < QUESTIONS && round.has_killed(pids[1])),
                "{right} of {QUESTIONS} answers are right"
            );
        }
        Err(error) => round.expect_killed(&error)?,
    }
    match answered {
        Ok(Ok(())) => Ok(()),
        // Its last answer had no receiver.
        Ok(Err(error)) if error.is_disconnected() && round.has_killed(pids[0]) => Ok(()),
        Ok(Err(error)) => bail!("the answering process fails: {error}"),
        Err(error) => round.expect_killed(&error),
    }
}

/// How many answers were right until the end, or until the other end was gone.
fn ask_all(end: Connection<Question, Vec<u8>>) -> multiproc::Result<u8> {
    for number in 0..QUESTIONS {
        match workload::ask(&end, number)? {
            Some(true) => {}
            // More than there are: that fails in any case.
            Some(false) => return Ok(u8::MAX),
            None => return Ok(number),
        }
    }
    Ok(QUESTIONS)
}

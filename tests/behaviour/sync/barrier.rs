//! `Barrier`: rounds, deaths, resets, and overwritten memory.

use std::thread;
use std::time::Duration;

use multiproc::sync::Barrier;
use multiproc::{Process, Result, pipe};
use nix::sys::signal::Signal;

use super::{Stage, corrupt, ends_soon, killed, started, takes_at_least};
use crate::support::{Outcome, eventually, send_signal, trials, wait_for_state};

trials![
    each_of_1000_rounds_of_10_parties_has_exactly_one_leader,
    parties_that_are_stopped_between_rounds_pass_every_round,
    a_party_killed_while_it_waits_breaks_it_for_all,
    a_party_killed_while_it_waits_alone_breaks_it_for_the_last_one,
    a_death_is_noticed_behind_a_stopped_party,
    a_party_that_wakes_many_rounds_later_has_passed,
    a_timeout_breaks_it_and_a_reset_repairs_it,
    an_abort_breaks_it_for_those_that_wait,
    a_reset_ends_the_wait_of_others,
    impossible_numbers_are_refused,
    any_bytes_in_its_memory_are_a_barrier,
];

fn each_of_1000_rounds_of_10_parties_has_exactly_one_leader() -> Outcome {
    let barrier = Barrier::new(10)?;
    let pass = |barrier: Barrier| -> Result<Vec<bool>> { (0..1_000).map(|_| barrier.wait()).collect() };
    let children: Vec<_> =
        (0..10).map(|_| Process::spawn(pass, (barrier.clone(),))).collect::<Result<_>>()?;
    let parties: Vec<_> = children.into_iter().map(|child| child.join()?).collect::<Result<_>>()?;
    for round in 0..1_000 {
        assert_eq!(parties.iter().filter(|party| party[round]).count(), 1, "round {round}");
    }
    Ok(())
}

/// Rounds that are more than the bits of any small counter. Each party comes a different time after the last
/// round.
fn parties_that_are_stopped_between_rounds_pass_every_round() -> Outcome {
    const ROUNDS: usize = 70;
    let barrier = Barrier::new(12)?;
    let pass = |barrier: Barrier, party: u64, stage: Stage| -> Result<Vec<bool>> {
        stage.send(())?;
        let come_late = |round| thread::sleep(Duration::from_micros(100 * ((party + round) % 12)));
        (0..ROUNDS as u64).map(|round| (come_late(round), barrier.wait()).1).collect()
    };
    let mut children = Vec::new();
    for party in 0..12 {
        let (ours, theirs) = pipe()?;
        children.push(Process::spawn(pass, (barrier.clone(), party, theirs))?);
        super::reached(&ours)?;
    }
    for stopped in [1, 4, 7, 10].iter().cycle().take(40) {
        let child = &children[*stopped];
        if child.is_alive() {
            send_signal(child.pid(), Signal::SIGSTOP);
            thread::sleep(Duration::from_micros(500)); // the others come to the barrier
            send_signal(child.pid(), Signal::SIGCONT);
        }
    }
    let parties: Vec<_> = children.into_iter().map(|child| child.join()?).collect::<Result<_>>()?;
    for round in 0..ROUNDS {
        assert_eq!(parties.iter().filter(|party| party[round]).count(), 1, "round {round}");
    }
    Ok(())
}

fn wait(barrier: Barrier, stage: Stage) -> Result<bool> {
    stage.send(())?;
    barrier.wait()
}

fn a_party_killed_while_it_waits_breaks_it_for_all() -> Outcome {
    let barrier = Barrier::new(4)?;
    let mut children = (0..3).map(|_| started(wait, &barrier)).collect::<Result<Vec<_>>>()?;
    eventually("all have come", || barrier.waiting() == 3);
    let victim = children.remove(1).0;
    let name = victim.name().to_owned();
    let pid = killed(victim);
    for (child, _) in children {
        let error = ends_soon(|| child.join())?.unwrap_err();
        assert!(error.is_broken(), "{error}");
        assert_eq!(error.pid(), Some(pid));
    }
    let error = barrier.wait().unwrap_err();
    let expected = format!(
        "the barrier is broken: process {name:?} ({pid}) was killed by SIGKILL while it waited for the others"
    );
    assert_eq!((error.to_string(), error.signal()), (expected, Some(9)));
    Ok(())
}

/// No living party waits meanwhile, which would notice the death.
fn a_party_killed_while_it_waits_alone_breaks_it_for_the_last_one() -> Outcome {
    let barrier = Barrier::new(2)?;
    let (child, _) = started(wait, &barrier)?;
    eventually("it has come", || barrier.waiting() == 1);
    let pid = killed(child);
    thread::sleep(Duration::from_millis(5)); // a death just after the arrival counts as one after the round
    let error = barrier.wait().unwrap_err();
    assert_eq!((error.is_broken(), error.pid(), error.signal()), (true, Some(pid), Some(9)));
    assert!(barrier.is_broken());
    Ok(())
}

/// The one before it in the table would be the first to notice.
fn a_death_is_noticed_behind_a_stopped_party() -> Outcome {
    let barrier = Barrier::new(4)?;
    let mut children = Vec::new();
    for waiting in 1..=3 {
        children.push(started(wait, &barrier)?.0);
        eventually("it has come", || barrier.waiting() == waiting);
    }
    let [stopped, victim, other] = children.try_into().unwrap();
    stop(&stopped);
    let pid = killed(victim);
    let error = ends_soon(|| other.join())?.unwrap_err();
    assert_eq!((error.is_broken(), error.pid()), (true, Some(pid)));
    send_signal(stopped.pid(), Signal::SIGCONT);
    assert!(stopped.join()?.unwrap_err().is_broken());
    Ok(())
}

fn a_party_that_wakes_many_rounds_later_has_passed() -> Outcome {
    let barrier = Barrier::new(2)?;
    let (late, _) = started(wait, &barrier)?;
    eventually("it has come", || barrier.waiting() == 1);
    stop(&late);
    assert!(barrier.wait()?);
    let pass = || (0..100).try_for_each(|_| barrier.wait().map(drop));
    thread::scope(|scope| {
        let other = scope.spawn(pass);
        pass()?;
        other.join().unwrap()
    })?;
    send_signal(late.pid(), Signal::SIGCONT);
    assert!(!late.join()??);
    Ok(())
}

fn stop(child: &Process<Result<bool>>) {
    send_signal(child.pid(), Signal::SIGSTOP);
    wait_for_state(child.pid(), 'T');
}

fn a_timeout_breaks_it_and_a_reset_repairs_it() -> Outcome {
    let barrier = Barrier::new(3)?;
    let (child, _) = started(wait, &barrier)?;
    eventually("it has come", || barrier.waiting() == 1);
    let time = Duration::from_millis(30);
    assert!(takes_at_least(time, || barrier.wait_timeout(time)).unwrap_err().is_timeout());
    let error = child.join()?.unwrap_err();
    assert!(error.is_broken() && error.to_string().contains("timed out"), "{error}");
    assert_eq!(error.pid(), Some(std::process::id()));
    assert!(barrier.is_broken() && barrier.wait().unwrap_err().is_broken());
    barrier.reset();
    assert!(!barrier.is_broken());
    let children = (0..2).map(|_| started(wait, &barrier)).collect::<Result<Vec<_>>>()?;
    let mut leaders = vec![barrier.wait()?];
    for (child, _) in children {
        leaders.push(child.join()??);
    }
    leaders.sort_unstable();
    assert_eq!(leaders, [false, false, true]);
    Ok(())
}

fn an_abort_breaks_it_for_those_that_wait() -> Outcome {
    let barrier = Barrier::new(2)?;
    let (child, _) = started(wait, &barrier)?;
    wait_for_state(child.pid(), 'S');
    barrier.abort();
    let error = child.join()?.unwrap_err();
    let expected = format!("the barrier is broken: process {} aborted it", std::process::id());
    assert_eq!(error.to_string(), expected);
    assert!(barrier.wait().unwrap_err().is_broken());
    Ok(())
}

fn a_reset_ends_the_wait_of_others() -> Outcome {
    let barrier = Barrier::new(2)?;
    let (child, _) = started(wait, &barrier)?;
    eventually("it has come", || barrier.waiting() == 1);
    barrier.reset();
    assert!(child.join()?.unwrap_err().is_broken());
    assert!(!barrier.is_broken());
    assert_eq!(barrier.waiting(), 0);
    Ok(())
}

fn impossible_numbers_are_refused() -> Outcome {
    assert!(Barrier::new(0).is_err() && Barrier::new(65_537).is_err());
    assert!(Barrier::new(1)?.wait()?);
    Ok(())
}

fn any_bytes_in_its_memory_are_a_barrier() -> Outcome {
    corrupt(&Barrier::new(2)?, |barrier: Barrier| {
        let _ = barrier.wait_timeout(Duration::from_millis(1));
        barrier.reset();
    })
}

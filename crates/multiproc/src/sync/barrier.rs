//! `Barrier`: a reusable barrier between processes.

use std::cell::Cell;
use std::fmt;
use std::time::Duration;

use super::poison::{death_word, error, own_failure_word};
use super::shared::{Shared, Word, impl_serde_shared};
use super::slots::Entry;
use crate::error::{Cause, Error, Failure, Result};
use crate::ipc::ring::just_before_overflow;
use crate::sys::atomic::{AcqRel, Acquire, Relaxed};
use crate::sys::clock;
use crate::sys::failpoint::{self, Failpoint};
use crate::sys::mutex::MutexGuard;
use crate::sys::poll::Deadline;

/// A place where a number of threads, of any processes, wait until all have arrived; again and again, as
/// Python's `Barrier`.
///
/// **A party that dies while it waits breaks the barrier**: within half a second all others get an error that
/// says which process died ([`Error::is_broken`], [`Error::pid`]). So does a party that gives up after its
/// time. A broken barrier lets no thread wait until [`reset`](Self::reset). A party that dies before it has
/// arrived is not known here; others give up on it by [`wait_timeout`](Self::wait_timeout). One that dies within two
/// milliseconds of its arrival, just before the last party comes, may count as having passed.
///
/// Clones are handles of the same barrier; a clone travels as an argument of a process or task, and through a
/// pipe.
///
/// ```
/// use multiproc::{Process, sync::Barrier};
///
/// fn main() -> multiproc::Result<()> {
///     multiproc::init();
///     let barrier = Barrier::new(2)?;
///     let wait = |barrier: Barrier| barrier.wait();
///     let child = Process::spawn(wait, (barrier.clone(),))?;
///     let (ours, theirs) = (barrier.wait()?, child.join()??);
///     assert!(ours != theirs); // exactly one is the leader
///     Ok(())
/// }
/// ```
#[derive(Clone)]
pub struct Barrier {
    pub(super) shared: Shared,
}

impl_serde_shared!(Barrier { shared }: 0, Some(0));

const MAX_PARTIES: u32 = 65_536;

/// Bits 32-63: round number. Bit 31: the current round is broken. Bits 0-30: for each of the last 31 rounds,
/// newest first, whether it was broken. So a late waiter learns the outcome of its round. Of an older round it
/// learns it from the number of the last round that was broken, which is a word of its own.
#[derive(Clone, Copy)]
struct State(u64);

const BROKEN: u64 = 1 << 31;
const HISTORY: u64 = BROKEN - 1;
const ROUNDS_KNOWN: u32 = 31;
/// In the word with the number of the last round that was broken: there was one.
const WAS_BROKEN: u64 = 1 << 32;

impl State {
    #[allow(clippy::cast_possible_truncation)] // its high half
    fn round(self) -> u32 {
        (self.0 >> 32) as u32
    }

    fn is_broken(self) -> bool {
        self.0 & BROKEN != 0
    }

    fn next(self, was_broken: bool) -> Self {
        let history = (self.0 << 1 | u64::from(was_broken)) & HISTORY;
        Self(u64::from(self.round().wrapping_add(1)) << 32 | history)
    }

    /// Whether a round was passed, or else broken; `None` while it lasts. A round older than the history counts as
    /// passed if no later one was broken.
    fn was_passed(self, round: u32, last_broken: Option<u32>) -> Option<bool> {
        match self.round().wrapping_sub(round) {
            0 => self.is_broken().then_some(false),
            ago @ 1..=ROUNDS_KNOWN => Some(self.0 >> (ago - 1) & 1 == 0),
            _ => Some(last_broken.is_none_or(|broken| is_later(round, broken))),
        }
    }
}

/// Whether a round comes after another one; their numbers may have overflown.
fn is_later(round: u32, other: u32) -> bool {
    round.wrapping_sub(other).cast_signed() > 0
}

impl Barrier {
    /// Makes a barrier for a number of parties from 1 to 65,536.
    ///
    /// # Errors
    /// When `parties` is 0 or more than 65,536, or when the kernel refuses a descriptor or the memory.
    pub fn new(parties: u32) -> Result<Self> {
        if !(1..=MAX_PARTIES).contains(&parties) {
            return Err(Error::invalid(format!("a barrier has from 1 to {MAX_PARTIES} parties")));
        }
        let barrier = Self { shared: Shared::create::<()>(parties as usize, 0)? };
        let state = u64::from(just_before_overflow(4)) << 32;
        barrier.shared.word(Word::State).store(state, Relaxed);
        barrier.shared.word(Word::Sequence).store(0, Relaxed);
        Ok(barrier)
    }

    /// Blocks until all parties have arrived. Returns `true` in exactly one of them, the leader.
    ///
    /// # Errors
    /// [`Error::is_broken`] when the barrier is broken, or breaks meanwhile.
    pub fn wait(&self) -> Result<bool> {
        self.wait_until(Deadline::Never)
    }

    /// As [`wait`](Self::wait), but breaks the barrier after `time`.
    ///
    /// # Errors
    /// Those of [`wait`](Self::wait); and [`Error::is_timeout`] when this thread has broken it for that.
    pub fn wait_timeout(&self, time: Duration) -> Result<bool> {
        self.wait_until(Deadline::after(time))
    }

    /// Breaks the barrier: all that wait get an error, and so does each later [`wait`](Self::wait).
    pub fn abort(&self) {
        self.break_round(self.state().round(), own_failure_word(Failure::Aborted));
    }

    /// Makes a broken barrier usable again. Threads that wait get an error, as of [`abort`](Self::abort).
    pub fn reset(&self) {
        self.break_round(self.state().round(), own_failure_word(Failure::Reset));
        let broken = self.state();
        if broken.is_broken() {
            self.note_broken(broken.round());
            failpoint::hit(Failpoint::BarrierResetting);
            let state = self.shared.word(Word::State);
            let _ = state.compare_exchange(broken.0, broken.next(true).0, AcqRel, Acquire);
        }
        self.shared.events().notify_all();
    }

    /// Whether the barrier is broken.
    pub fn is_broken(&self) -> bool {
        self.state().is_broken()
    }

    /// The number of parties.
    pub fn parties(&self) -> usize {
        self.shared.slots
    }

    /// How many threads wait.
    pub fn waiting(&self) -> usize {
        let state = self.state();
        if state.is_broken() { 0 } else { self.in_round(state.round()).count() }
    }

    fn wait_until(&self, deadline: Deadline) -> Result<bool> {
        let own = Cell::new(None);
        let outcome = || match own.get() {
            Some(own) => self.outcome(&own),
            None => self.is_broken().then(|| Err(self.broken())),
        };
        let mut checks = 0;
        let waited = self.shared.wait(
            deadline,
            || outcome().is_some(),
            |check_holders| {
                let Some(entry) = own.get() else { return self.arrive(&own, check_holders, deadline) };
                if check_holders && outcome().is_none() {
                    self.check_two(&entry, checks);
                    checks += 1;
                }
                outcome().transpose()
            },
        )?;
        if let Some(is_leader) = waited {
            return Ok(is_leader);
        }
        let round = own.get().map_or_else(|| self.state().round(), |entry| round_of(&entry));
        let is_broken = self.break_round(round, own_failure_word(Failure::TimedOut));
        let timeout = || Err(Error::timeout("pass a barrier"));
        if is_broken { timeout() } else { outcome().unwrap_or_else(timeout) }
    }

    /// Counts this thread in; as the last one, it opens the barrier.
    fn arrive(
        &self,
        own: &Cell<Option<Entry>>,
        check_holders: bool,
        deadline: Deadline,
    ) -> Result<Option<bool>> {
        let Some(guard) = self.shared.lock_slots(deadline)? else { return Ok(None) };
        let state = self.state();
        if state.is_broken() {
            return Err(self.broken());
        }
        let is_stale = |entry: &Entry| round_of(entry) != state.round();
        let now = arrival_time();
        let entry = self.shared.insert(self.shared.own_thread(), now, state.round().into(), is_stale);
        own.set(entry);
        failpoint::hit(Failpoint::BarrierArrived);
        match entry {
            Some(_) if self.in_round(state.round()).count() >= self.parties() => self.open(guard, state, now),
            // The party that came last has died before it opened the barrier; maybe none lives that has come.
            None if check_holders => self.break_for_dead(state.round(), |_| true).map(|()| None),
            _ => Ok(None),
        }
    }

    /// Opens the barrier for a thread that has come last.
    fn open(&self, guard: MutexGuard<'_>, state: State, now: u32) -> Result<Option<bool>> {
        // A death is noticed by those that wait, if any of them lives. One just after an arrival might as well be one
        // just after the round, so rounds in quick succession cost no check.
        self.break_for_dead(state.round(), |other| now.wrapping_sub(other.kind) > 1)?;
        // It may be broken just now, since that takes no lock.
        let opened =
            self.shared.word(Word::State).compare_exchange(state.0, state.next(false).0, AcqRel, Acquire);
        drop(guard);
        failpoint::hit(Failpoint::BarrierPassed);
        self.shared.events().notify_all();
        Ok(opened.is_ok().then_some(true))
    }

    /// Breaks the round, and gives the error, if one of these parties has ended.
    fn break_for_dead(&self, round: u32, may_have_died: impl Fn(&Entry) -> bool) -> Result<()> {
        let has_died = |other: &Entry| may_have_died(other) && self.shared.has_ended(other);
        let Some(dead) = self.in_round(round).find(has_died) else { return Ok(()) };
        self.break_round(round, death_word(dead.holder, dead.pid));
        Err(self.broken())
    }

    /// The outcome of a round, for a party that is not its leader.
    fn outcome(&self, own: &Entry) -> Option<Result<bool>> {
        let state = self.state();
        let passed = state.was_passed(round_of(own), self.last_broken())?;
        Some(if passed { Ok(false) } else { Err(self.broken()) })
    }

    /// Breaks the round if one of two other parties has ended: the next one in the table, so that each party has one
    /// that checks it; and another one each time, since the party before that may be stopped.
    fn check_two(&self, own: &Entry, checks: usize) {
        let round = round_of(own);
        let others: Vec<_> = self.in_round(round).filter(|entry| entry.index != own.index).collect();
        let next = others.partition_point(|entry| entry.index < own.index);
        let nth = |distance: usize| others.get((next + distance).checked_rem(others.len())?);
        let dead = [0, checks].into_iter().filter_map(nth).find(|other| self.shared.has_ended(other));
        if let Some(dead) = dead {
            self.break_round(round, death_word(dead.holder, dead.pid));
        }
    }

    /// Breaks a round, unless it is over or broken; says whether this call did.
    fn break_round(&self, round: u32, failure_word: u64) -> bool {
        let lasts = |state: State| state.round() == round && !state.is_broken();
        if !lasts(self.state()) {
            return false;
        }
        self.shared.word(Word::Failure).store(failure_word, Relaxed);
        failpoint::hit(Failpoint::BarrierBreaking);
        let broken = |state| lasts(State(state)).then_some(state | BROKEN);
        let result = self.shared.word(Word::State).fetch_update(AcqRel, Acquire, broken);
        self.shared.events().notify_all();
        result.is_ok()
    }

    fn in_round(&self, round: u32) -> impl Iterator<Item = Entry> {
        self.shared.entries().filter(move |entry| round_of(entry) == round)
    }

    /// Notes that a round was broken, unless a later one was.
    fn note_broken(&self, round: u32) {
        let word = self.shared.word(Word::Sequence);
        let note = |last| {
            let is_later = last_broken(last).is_none_or(|last| is_later(round, last));
            is_later.then_some(WAS_BROKEN | u64::from(round))
        };
        let _ = word.fetch_update(Relaxed, Relaxed, note);
    }

    /// The number of the last round that was broken. To be loaded after the state.
    fn last_broken(&self) -> Option<u32> {
        last_broken(self.shared.word(Word::Sequence).load(Relaxed))
    }

    fn state(&self) -> State {
        State(self.shared.word(Word::State).load(Acquire))
    }

    fn broken(&self) -> Error {
        error(self.shared.word(Word::Failure).load(Relaxed), Cause::Broken)
    }
}

#[allow(clippy::cast_possible_truncation)] // its low half
fn last_broken(word: u64) -> Option<u32> {
    (word & WAS_BROKEN != 0).then_some(word as u32)
}

/// When a party has come, the kind of its entry: about a millisecond in a unit.
#[allow(clippy::cast_possible_truncation)] // its low half is compared with another one
fn arrival_time() -> u32 {
    (clock::nanos() >> 20) as u32
}

#[allow(clippy::cast_possible_truncation)] // `arrive` has put no more there
fn round_of(entry: &Entry) -> u32 {
    entry.sequence as u32
}

impl fmt::Debug for Barrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Barrier").field("parties", &self.parties()).finish_non_exhaustive()
    }
}

//! The targets of the library, and whether it meets them.

use bench::case::{self, Case};
use experiments::measure::three_digits;
use serde::Serialize;

use super::results::{BASELINE, OURS, ROBUST, Results, speedup};

/// A row of the table of targets.
struct Target {
    case: &'static Case,
    /// The bound on the library's median.
    bound: Bound,
    /// A figure that would be better still.
    aim: Option<f64>,
    /// The baseline's figure on the machine for which an absolute bound was set.
    baseline_there: Option<f64>,
}

/// A bound on a figure. A bound that is another figure means that of the same run.
#[derive(Clone, Copy)]
enum Bound {
    Most(f64),
    Least(f64),
    MostTimes(f64, &'static str, &'static Case),
    LeastTimes(f64, &'static str, &'static Case),
}

use Bound::{Least, LeastTimes, Most, MostTimes};

const APPLY: &str = "multiproc, a pool's `apply`";
const GET: &str = "multiproc, by `get`";
const LOCAL: &str = "multiproc, a local pool";
const RAYON: &str = "rayon";
const THREADS: &str = "std threads";
const FILLING_THREADS: &str = "threads";

/// The baselines are those of a run of this benchmark on that machine, on 2026-11-26. There is none where the
/// baseline does not pass memory between CPUs, or is too unsteady.
const TARGETS: &[Target] = &[
    target(&case::START, MostTimes(1.35, BASELINE, &case::START)),
    // "No more than 1.2 × that": than the same start from a small parent.
    target(&case::START_1GIB, MostTimes(1.2, OURS, &case::START)),
    target(&case::START_X4, MostTimes(1.35, BASELINE, &case::START_X4)),
    aim(&case::MAP_CHUNK1, Least(3.0), 10.0),
    aim(&case::MAP, Least(100.0), 200.0),
    target(&case::APPLY_HOT, Most(1.5)).where_baseline_is(0.068),
    target(&case::APPLY_HOT, MostTimes(1.0, RAYON, &case::APPLY_HOT)),
    target(&case::APPLY_SLEEP, MostTimes(1.5, BASELINE, &case::APPLY_SLEEP)),
    aim(&case::QUEUE_8B, Least(8.0), 15.0).where_baseline_is(117.0),
    aim(&case::QUEUE_64B, Least(8.0), 15.0).where_baseline_is(21.9),
    target(&case::QUEUE_8B_BATCH, Least(100.0)).where_baseline_is(129.0),
    target(&case::QUEUE_8B_BATCH, LeastTimes(1.0, THREADS, &case::QUEUE_8B)),
    target(&case::QUEUE_8B_2X2, Least(4.0)),
    target(&case::QUEUE_1KIB, Least(5.0)).where_baseline_is(6.40),
    target(&case::QUEUE_1MIB, Least(10.0)).where_baseline_is(38.5),
    target(&case::QUEUE_SHARED_SLICE, Least(30.0)),
    target(&case::PING_HOT, Most(0.8)).where_baseline_is(0.068),
    target(&case::PING_SLEEP, MostTimes(1.5, BASELINE, &case::PING_SLEEP)),
    target(&case::SUM, Least(4.0)),
    target(&case::SUM_SHARED, LeastTimes(0.9, RAYON, &case::SUM_SHARED)),
    target(&case::COLD, Most(1.8)),
    target(&case::COLD_RUNNING, Most(0.7)),
    target(&case::PSS, Most(400.0)),
    target(&case::IDLE, Most(0.1)),
    // A pool's `apply`, measured in turn with it.
    target(&case::SERVER_CALL, MostTimes(1.3, APPLY, &case::SERVER_CALL)),
    target(&case::SERVER_CALL_SLEEP, MostTimes(1.3, APPLY, &case::SERVER_CALL_SLEEP)),
    target(&case::LOG, Most(1000.0)),
    target(&case::LOCK, MostTimes(1.5, ROBUST, &case::LOCK)),
    target(&case::LOCK_X2, LeastTimes(0.8, ROBUST, &case::LOCK_X2)),
    target(&case::FILL, LeastTimes(0.9, FILLING_THREADS, &case::FILL)),
    target(&case::FILL, LeastTimes(0.9, RAYON, &case::FILL)),
    target(&case::AWAIT, MostTimes(1.3, GET, &case::AWAIT)),
    target(&case::AWAIT_300, MostTimes(1.3, GET, &case::AWAIT_300)),
    // "A table costs its size once, and a replacement is there in a millisecond": 67 MB, and a tenth.
    target(&case::TABLE_MEMORY, Most(74.0)),
    target(&case::TABLE_REPLACED, Most(1.0)),
    target(&case::CLUSTER_TASK, MostTimes(2.0, BASELINE, &case::CLUSTER_TASK)),
    // "Chunk overhead at most 0.5 ms": each task is a chunk of its own.
    target(&case::CLUSTER_TASKS, Most(500.0)),
    target(&case::CLUSTER_1000, LeastTimes(0.9, LOCAL, &case::CLUSTER_1000)),
    target(&case::CLUSTER_IDLE, Most(1.0)),
    // "Flat within 25 %": no further item may cost more than that above what it costs at first.
    target(&case::GROWTH_MAP, Most(1.25)),
    target(&case::GROWTH_IMAP, Most(1.25)),
    target(&case::GROWTH_WORKERS, Most(1.25)),
    // "O(results)": a result of 8 bytes may cost four times that while `map` collects it.
    target(&case::GROWTH_MAP_MEMORY, Most(32.0)),
    // "Flat": 10⁸ items would be 800 MB.
    target(&case::GROWTH_IMAP_MEMORY, Most(4.0)),
];

const fn target(case: &'static Case, bound: Bound) -> Target {
    Target { case, bound, aim: None, baseline_there: None }
}

const fn aim(case: &'static Case, bound: Bound, aim: f64) -> Target {
    Target { case, bound, aim: Some(aim), baseline_there: None }
}

/// A target and its outcome, in words.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Verdict {
    pub(super) workload: &'static str,
    pub(super) what: String,
    /// `None` if it was not measured.
    pub(super) figure: Option<String>,
    pub(super) target: String,
    /// `None` if it is unknown.
    pub(super) met: Option<bool>,
}

/// All targets of the cases that were to be measured; and, if there are peers, whether the library is ahead
/// of them all.
pub(super) fn judge(results: &Results, cases: &[&'static Case]) -> Vec<Verdict> {
    let wanted = |target: &&Target| cases.iter().any(|case| case.id == target.case.id);
    let mut verdicts: Vec<_> = TARGETS.iter().filter(wanted).map(|target| target.judge(results)).collect();
    // Real workloads have no targets yet.
    let cases = cases.iter().filter(|case| !case.is_real());
    verdicts.extend(cases.filter_map(|case| against_peers(results, case)));
    verdicts
}

impl Target {
    const fn where_baseline_is(self, there: f64) -> Self {
        Self { baseline_there: Some(there), ..self }
    }

    fn judge(&self, results: &Results) -> Verdict {
        let Self { case, bound, aim, .. } = self;
        let figure = results.median(OURS, case);
        let limit = bound.limit(results);
        let met = figure.zip(limit).map(|(figure, limit)| bound.holds(figure, limit));
        let aim = aim.map(|aim| {
            let reached = if figure.is_some_and(|figure| figure >= aim) { ", reached" } else { "" };
            format!(" (aim {}{reached})", short(aim))
        });
        Verdict {
            workload: case.workload,
            what: case.title.to_owned(),
            figure: figure.map(|figure| format!("{} {}", three_digits(figure), case.unit)),
            target: bound.in_words(case, limit) + &aim.unwrap_or_default() + &self.by_baseline(results, met),
            met,
        }
    }

    /// The bound scaled to this machine, by the ratio of the baselines.
    fn by_baseline(&self, results: &Results, met: Option<bool>) -> String {
        let scaled = || {
            let factor = results.median(BASELINE, self.case)? / self.baseline_there?;
            let (Most(limit) | Least(limit)) = self.bound else { return None };
            let limit = factor * limit;
            let holds = self.bound.holds(results.median(OURS, self.case)?, limit);
            let so = if holds { "met" } else { "missed" };
            Some(format!("; by the baseline {} {}: {so}", three_digits(limit), self.case.unit))
        };
        if met == Some(false) { scaled().unwrap_or_default() } else { String::new() }
    }
}

impl Bound {
    fn limit(self, results: &Results) -> Option<f64> {
        match self {
            Most(limit) | Least(limit) => Some(limit),
            MostTimes(factor, who, case) | LeastTimes(factor, who, case) => {
                Some(factor * results.median(who, case)?)
            }
        }
    }

    fn holds(self, figure: f64, limit: f64) -> bool {
        match self {
            Most(_) | MostTimes(..) => figure <= limit,
            Least(_) | LeastTimes(..) => figure >= limit,
        }
    }

    fn in_words(self, of: &Case, limit: Option<f64>) -> String {
        let sign = if matches!(self, Most(_) | MostTimes(..)) { "≤" } else { "≥" };
        match self {
            Most(limit) | Least(limit) => format!("{sign} {} {}", short(limit), of.unit),
            MostTimes(factor, who, case) | LeastTimes(factor, who, case) => {
                let whose = if case.id == of.id { who.to_owned() } else { format!("{who}, {}", case.title) };
                let limit = limit.map_or("not measured".to_owned(), |limit| {
                    format!("{} {}", three_digits(limit), of.unit)
                });
                format!("{sign} {} × {whose} = {limit}", short(factor))
            }
        }
    }
}

/// Whether the library is ahead of the best other library that uses processes.
fn against_peers(results: &Results, case: &'static Case) -> Option<Verdict> {
    let best = results.best_peer(case)?;
    let theirs = best.median?;
    let ahead = results.median(OURS, case).map(|ours| speedup(case, ours, theirs));
    Some(Verdict {
        workload: case.workload,
        what: case.title.to_owned(),
        figure: ahead.map(|ahead| format!("{} ×", three_digits(ahead))),
        target: format!("ahead of {}, {} {}", best.entrant, three_digits(theirs), case.unit),
        met: ahead.map(|ahead| ahead > 1.0),
    })
}

/// The figure as people write it.
fn short(number: f64) -> String {
    number.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::results::tests::sample;

    fn verdicts(rows: &[(&str, &'static Case, &[f64])], case: &'static Case) -> Vec<(String, Option<bool>)> {
        judge(&sample(rows), &[case]).into_iter().map(|verdict| (verdict.target, verdict.met)).collect()
    }

    #[test]
    fn a_bound_is_a_figure_of_the_same_run_times_a_factor() {
        let baseline = (BASELINE, &case::START, &[100.0][..]);
        let met = |ours: f64| verdicts(&[(OURS, &case::START, &[ours]), baseline], &case::START);
        assert_eq!(met(135.0), [("≤ 1.35 × baseline = 135 µs".to_owned(), Some(true))]);
        assert_eq!(met(136.0)[0].1, Some(false));
    }

    #[test]
    fn throughput_has_a_least_and_an_aim() {
        let met = |ours: f64| verdicts(&[(OURS, &case::MAP, &[ours])], &case::MAP).remove(0);
        assert_eq!(met(99.0), ("≥ 100 M items/s (aim 200)".to_owned(), Some(false)));
        assert_eq!(met(100.0).1, Some(true));
        assert_eq!(met(200.0).0, "≥ 100 M items/s (aim 200, reached)");
    }

    #[test]
    fn what_is_missed_is_also_held_against_what_the_machine_can_do() {
        let met = |ours: f64, baseline: f64| {
            let rows = [(OURS, &case::PING_HOT, &[ours][..]), (BASELINE, &case::PING_HOT, &[baseline][..])];
            verdicts(&rows, &case::PING_HOT).remove(0)
        };
        assert_eq!(met(0.7, 0.136), ("≤ 0.8 µs".to_owned(), Some(true)));
        assert_eq!(met(0.9, 0.136), ("≤ 0.8 µs; by the baseline 1.60 µs: met".to_owned(), Some(false)));
        assert_eq!(met(0.9, 0.034), ("≤ 0.8 µs; by the baseline 0.400 µs: missed".to_owned(), Some(false)));
        let no_baseline = verdicts(&[(OURS, &case::PING_HOT, &[0.9][..])], &case::PING_HOT);
        assert_eq!(no_baseline, [("≤ 0.8 µs".to_owned(), Some(false))]);
    }

    #[test]
    fn what_was_not_measured_is_neither_met_nor_missed() {
        let ours = (OURS, &case::APPLY_HOT, &[1.0][..]);
        let hot = verdicts(&[ours], &case::APPLY_HOT);
        assert_eq!(hot[0], ("≤ 1.5 µs".to_owned(), Some(true)));
        assert_eq!(hot[1], ("≤ 1 × rayon = not measured".to_owned(), None));
        assert_eq!(verdicts(&[], &case::PSS), [("≤ 400 kB".to_owned(), None)]);
    }

    #[test]
    fn the_library_must_be_ahead_of_every_process_that_copies() {
        let case = &case::QUEUE_1MIB;
        let mut rows = vec![(OURS, case, &[10.0][..]), ("iceoryx2", case, &[32.0][..])];
        assert_eq!(verdicts(&rows, case).len(), 1, "what is not copied is no peer");
        rows.push(("ipc-channel", case, &[5.0]));
        assert_eq!(verdicts(&rows, case)[1], ("ahead of ipc-channel, 5.00 GB/s".to_owned(), Some(true)));
        rows.push(("procspawn", case, &[11.0]));
        assert_eq!(verdicts(&rows, case)[1], ("ahead of procspawn, 11.0 GB/s".to_owned(), Some(false)));
    }

    #[test]
    fn real_workloads_are_not_judged() {
        let case = &case::WORDS;
        assert_eq!(verdicts(&[(OURS, case, &[2.0]), ("procspawn", case, &[1.0])], case), []);
    }

    #[test]
    fn every_target_is_of_a_case_that_is_measured() {
        for target in TARGETS {
            assert!(case::find(target.case.id).is_some(), "{}", target.case.id);
        }
    }
}

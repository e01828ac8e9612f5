//! Rows of figures, and the comparisons between them.

use bench::case::{Case, Direction, QUEUE_1MIB};
use bench::measure::median;
use bench::usage::Usage;
use serde::{Serialize, Serializer};

pub(super) const OURS: &str = "multiproc";
pub(super) const BASELINE: &str = "baseline";
pub(super) const ROBUST: &str = "robust pthread mutex";

/// All rows, in the order of the cases.
#[derive(Default, Serialize)]
#[serde(transparent)]
pub(super) struct Results {
    pub(super) rows: Vec<Row>,
}

/// An entrant's results in a case.
#[derive(Clone, Serialize)]
pub(super) struct Row {
    pub(super) entrant: String,
    pub(super) kind: Kind,
    #[serde(flatten, serialize_with = "in_words")]
    pub(super) case: &'static Case,
    /// One of each round.
    pub(super) values: Vec<f64>,
    pub(super) median: Option<f64>,
    pub(super) detail: Option<String>,
    /// Of a real workload: what each round has used, and the medians of it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) usages: Vec<Usage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) usage: Option<Usage>,
    pub(super) failure: Option<Failure>,
}

/// Why there are no (further) figures.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Failure {
    /// The entrant does not do the case, for this reason.
    LeftOut(String),
    NotBuildable,
    /// Its work had a wrong result.
    Wrong(String),
    /// It crashed, hung, or left something behind.
    Failed(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Kind {
    Ours,
    Baseline,
    Processes,
    Threads,
}

impl Kind {
    pub(super) fn of(entrant: &str) -> Self {
        let is = |names: &[&str]| names.iter().any(|name| entrant.starts_with(name));
        if is(&[OURS]) {
            Self::Ours
        } else if is(&[BASELINE, "bare futex", "memcpy", ROBUST]) {
            Self::Baseline
        } else if is(&["rayon", "std threads", "threads", "std::sync::Mutex, threads"]) {
            Self::Threads
        } else {
            Self::Processes
        }
    }
}

impl Results {
    /// The rows of a case, ours first.
    pub(super) fn of(&self, case: &Case) -> Vec<&Row> {
        let mut rows: Vec<&Row> = self.rows.iter().filter(|row| row.case.id == case.id).collect();
        rows.sort_by_key(|row| row.kind != Kind::Ours);
        rows
    }

    pub(super) fn median(&self, entrant: &str, case: &Case) -> Option<f64> {
        self.of(case).iter().find(|row| row.entrant == entrant)?.median
    }

    /// The best of the other libraries that use processes and, where a megabyte is to be copied, do that.
    pub(super) fn best_peer(&self, case: &Case) -> Option<&Row> {
        let copies = |row: &Row| (case.id, row.entrant.as_str()) != (QUEUE_1MIB.id, "iceoryx2");
        let is_peer = |row: &&Row| row.kind == Kind::Processes && row.median.is_some() && copies(row);
        let peers = self.of(case).into_iter().filter(is_peer);
        peers.min_by(|a, b| {
            let order = a.median.partial_cmp(&b.median).unwrap_or(std::cmp::Ordering::Equal);
            if case.better == Direction::LowerIsBetter { order } else { order.reverse() }
        })
    }

    /// The failures, each in a sentence.
    pub(super) fn failures(&self) -> Vec<String> {
        let failure = |row: &Row| {
            let whose = format!("{} at {}", row.entrant, row.case.id);
            match (&row.failure, row.kind) {
                (Some(Failure::Wrong(what)), _)
                | (Some(Failure::Failed(what)), Kind::Ours | Kind::Baseline) => {
                    Some(format!("{whose}: {what}"))
                }
                _ => None,
            }
        };
        self.rows.iter().filter_map(failure).collect()
    }
}

impl Row {
    pub(super) fn new(entrant: &str, kind: Kind, case: &'static Case) -> Self {
        let entrant = entrant.to_owned();
        let (values, usages) = (vec![], vec![]);
        Self { entrant, kind, case, values, median: None, detail: None, usages, usage: None, failure: None }
    }

    pub(super) fn add(&mut self, value: f64, detail: Option<String>, usage: Option<Usage>) {
        self.values.push(value);
        self.median = median(self.values.clone()).ok();
        self.detail = detail;
        self.usages.extend(usage);
        self.usage = self.median_usage();
    }

    fn median_usage(&self) -> Option<Usage> {
        let of = |part: fn(&Usage) -> f64| median(self.usages.iter().map(part).collect()).ok();
        let lines = self.usages.first()?.lines;
        Some(Usage { cpu: of(|usage| usage.cpu)?, memory: of(|usage| usage.memory)?, lines })
    }

    /// The least and the most of all rounds.
    pub(super) fn spread(&self) -> (f64, f64) {
        self.values.iter().fold((f64::MAX, f64::MIN), |(min, max), &value| (min.min(value), max.max(value)))
    }
}

/// How many times better the first of two values is; below 1 it is worse.
pub(super) fn speedup(case: &Case, ours: f64, theirs: f64) -> f64 {
    match case.better {
        Direction::LowerIsBetter => theirs / ours,
        Direction::HigherIsBetter => ours / theirs,
    }
}

fn in_words<S: Serializer>(case: &Case, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Words {
        case: &'static str,
        workload: &'static str,
        title: &'static str,
        unit: &'static str,
        less_is_better: bool,
    }
    let Case { id, workload, title, unit, better, .. } = *case;
    Words { case: id, workload, title, unit, less_is_better: better == Direction::LowerIsBetter }
        .serialize(serializer)
}

#[cfg(test)]
pub(super) mod tests {
    use bench::case;

    use super::*;

    /// Rows of an entrant, a case and the values of its rounds.
    pub(in super::super) fn sample(rows: &[(&str, &'static Case, &[f64])]) -> Results {
        let row = |&(entrant, case, values): &(&str, &'static Case, &[f64])| {
            let mut row = Row::new(entrant, Kind::of(entrant), case);
            for &value in values {
                row.add(value, None, None);
            }
            row
        };
        Results { rows: rows.iter().map(row).collect() }
    }

    #[test]
    fn a_row_has_the_median_and_the_spread_of_its_rounds() {
        let results = sample(&[(OURS, &case::START, &[5.0, 1.0, 2.0])]);
        assert_eq!(results.median(OURS, &case::START), Some(2.0));
        assert_eq!(results.rows[0].spread(), (1.0, 5.0));
        assert_eq!(results.median(OURS, &case::PSS), None);
    }

    #[test]
    fn each_part_of_what_was_used_has_its_own_median() {
        let mut row = Row::new(OURS, Kind::Ours, &case::WORDS);
        assert_eq!(row.usage, None);
        for (cpu, memory) in [(1.0, 90.0), (3.0, 10.0), (2.0, 40.0)] {
            row.add(0.5, None, Some(Usage { cpu, memory, lines: 4 }));
        }
        assert_eq!(row.usage, Some(Usage { cpu: 2.0, memory: 40.0, lines: 4 }));
        let json = serde_json::to_value(&row).unwrap();
        assert_eq!(json["usage"]["memory"], 40.0);
        assert_eq!(json["usages"].as_array().map(Vec::len), Some(3));
    }

    #[test]
    fn ahead_is_less_time_and_more_throughput() {
        assert!((speedup(&case::START, 10.0, 30.0) - 3.0).abs() < 1e-9);
        assert!((speedup(&case::MAP, 10.0, 30.0) - 1.0 / 3.0).abs() < 1e-9);
    }

    #[test]
    fn the_best_peer_is_a_process_and_the_best() {
        let results = sample(&[
            (OURS, &case::MAP, &[9.0]),
            (BASELINE, &case::MAP, &[99.0]),
            ("rayon", &case::MAP, &[88.0]),
            ("procspawn", &case::MAP, &[7.0]),
            ("Python mp (fork)", &case::MAP, &[1.0]),
            ("procspawn", &case::START, &[7.0]),
            ("Python mp (fork)", &case::START, &[1.0]),
        ]);
        let best = |case| results.best_peer(case).map(|row| row.entrant.as_str());
        assert_eq!(best(&case::MAP), Some("procspawn"));
        assert_eq!(best(&case::START), Some("Python mp (fork)"));
        assert_eq!(best(&case::PSS), None);
    }

    #[test]
    fn wrong_work_fails_whosever_it_is_and_a_crash_only_ours() {
        let mut results = sample(&[(OURS, &case::MAP, &[]), ("procspawn", &case::MAP, &[])]);
        for row in &mut results.rows {
            row.failure = Some(Failure::Failed("it hangs".to_owned()));
        }
        assert_eq!(results.failures(), ["multiproc at W2-map: it hangs"]);
        results.rows[1].failure = Some(Failure::Wrong("a sum".to_owned()));
        assert_eq!(results.failures().len(), 2);
        results.rows[0].failure = Some(Failure::LeftOut("no pool".to_owned()));
        assert_eq!(results.failures(), ["procspawn at W2-map: a sum"]);
    }
}

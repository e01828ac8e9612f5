//! Runs the experiments, and gives each claim its verdict.

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::chart::Point;
use crate::experiment::{Experiment, Finding};
use crate::load::OtherLoad;
use crate::machine::Machine;

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) claims: Vec<Checked>,
}

/// A claim with its verdict.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Checked {
    pub(crate) claim: &'static str,
    pub(crate) how: &'static str,
    pub(crate) figure: String,
    pub(crate) verdict: Verdict,
    pub(crate) points: Vec<Point>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Verdict {
    #[serde(rename = "holds")]
    Holds,
    #[serde(rename = "does not hold")]
    DoesNotHold,
    /// The claim did not show itself while other programs used the cores.
    #[serde(rename = "too busy to tell")]
    TooBusy,
    /// The experiment itself failed.
    #[serde(rename = "not measured")]
    NotMeasured,
}

impl Verdict {
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::DoesNotHold => "does not hold",
            Self::TooBusy => "too busy to tell",
            Self::NotMeasured => "not measured",
        }
    }
}

impl Report {
    /// Runs every experiment. One that fails keeps none of the others from running.
    pub(crate) fn of(experiments: &[Experiment]) -> Result<Self> {
        let progress = progress(experiments.len())?;
        let mut checked = Vec::with_capacity(experiments.len());
        for experiment in experiments {
            progress.set_message(experiment.claim);
            checked.push(check(experiment, OtherLoad::during));
            progress.inc(1);
        }
        progress.finish_and_clear();
        Ok(Self { machine: Machine::here(), claims: checked })
    }

    pub(crate) fn count(&self, verdict: Verdict) -> usize {
        self.claims.iter().filter(|checked| checked.verdict == verdict).count()
    }
}

/// Measures a claim, and once more if it does not hold while other programs use the cores.
fn check(
    experiment: &Experiment,
    measure: impl Fn(fn() -> Result<Finding>) -> (Result<Finding>, OtherLoad),
) -> Checked {
    let (mut result, mut others) = measure(experiment.run);
    if others.is_heavy() && !matches!(&result, Ok(finding) if finding.holds) {
        (result, others) = measure(experiment.run);
    }
    let &Experiment { claim, method: how, .. } = experiment;
    match result {
        Ok(finding) => {
            let verdict = match (finding.holds, others.is_heavy()) {
                (true, _) => Verdict::Holds,
                (false, false) => Verdict::DoesNotHold,
                (false, true) => Verdict::TooBusy,
            };
            Checked { claim, how, figure: finding.figure, verdict, points: finding.points }
        }
        Err(error) => {
            let figure = format!("{error:#}");
            Checked { claim, how, figure, verdict: Verdict::NotMeasured, points: Vec::new() }
        }
    }
}

/// A line on standard error that says which claim is measured; invisible where that is no terminal.
fn progress(claims: usize) -> Result<ProgressBar> {
    let style = ProgressStyle::with_template("{bar:20} {pos}/{len}  {wide_msg}")?;
    Ok(ProgressBar::new(claims.try_into()?).with_style(style))
}

#[cfg(test)]
pub(crate) mod tests {
    use anyhow::bail;

    use super::*;
    use crate::{Chart, Finding};

    static COST: Chart = Chart { title: "Cost", quantity: "time", unit: "µs", along: "", logarithmic: true };
    static LINES: Chart =
        Chart { title: "Over size", quantity: "time", unit: "ms", along: "size in ms", logarithmic: true };

    /// One claim of each verdict; a chart of bars, and one of lines.
    pub(crate) fn sample() -> Report {
        let quicker = || {
            let finding = Finding::new(true, "3.00 ×").point(&COST, "pool", "start", 10.0);
            let finding = finding.point(&COST, "process", "start", 1_500.0);
            Ok(finding.point(&LINES, "pool", 0.1, 0.2).point(&LINES, "pool", 10.0, 6.0))
        };
        let wrong = || Ok(Finding::new(false, "no pig"));
        let unknown = || bail!("no sky");
        let experiments = [
            ("a pool is quicker", "64 tasks", quicker as fn() -> Result<Finding>),
            ("pigs fly", "looked up", wrong),
            ("the moon is there", "looked up", unknown),
        ];
        let experiments = experiments.map(|(claim, method, run)| Experiment { claim, method, run });
        let claims = experiments.iter().map(|it| check(it, |run| (run(), OtherLoad::NONE))).collect();
        Report { machine: Machine::here(), claims }
    }

    #[test]
    fn an_experiment_that_fails_keeps_no_other_from_running() {
        let verdicts: Vec<_> = sample().claims.iter().map(|checked| checked.verdict).collect();
        assert_eq!(verdicts, [Verdict::Holds, Verdict::DoesNotHold, Verdict::NotMeasured]);
    }

    #[test]
    fn a_claim_does_not_fail_because_the_machine_is_busy() {
        let verdict = |holds: [bool; 2], heavy: [bool; 2]| {
            let round = std::cell::Cell::new(0);
            let experiment = Experiment { claim: "", method: "", run: || bail!("not run") };
            let checked = check(&experiment, |_| {
                let this = round.replace(round.get() + 1);
                let load = if heavy[this] { OtherLoad::ALL } else { OtherLoad::NONE };
                (Ok(Finding::new(holds[this], "")), load)
            });
            (checked.verdict, round.get())
        };
        assert_eq!(verdict([true, false], [true, true]), (Verdict::Holds, 1));
        assert_eq!(verdict([false, true], [false, false]), (Verdict::DoesNotHold, 1));
        assert_eq!(verdict([false, true], [true, true]), (Verdict::Holds, 2));
        assert_eq!(verdict([false, false], [true, true]), (Verdict::TooBusy, 2));
        assert_eq!(verdict([false, false], [true, false]), (Verdict::DoesNotHold, 2));
    }

    #[test]
    fn json_has_the_machine_and_each_claim_with_its_values() {
        let json = serde_json::to_value(sample()).unwrap();
        assert!(json["machine"]["cores"].as_u64().unwrap() > 0);
        let claims = json["claims"].as_array().unwrap();
        assert_eq!(claims.len(), 3);
        assert_eq!(claims[1]["verdict"], "does not hold");
        assert_eq!(claims[2]["figure"], "no sky");
        let points = &claims[0]["points"];
        let first = serde_json::json!({
            "chart": "Cost", "unit": "µs", "series": "pool", "at": "start", "value": 10.0
        });
        assert_eq!(points[0], first);
        assert_eq!(points[2]["at"], 0.1);
    }
}

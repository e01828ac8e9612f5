//! All claims with their verdicts.

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::chart::Point;
use crate::claim::Claim;
use crate::machine::Machine;

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) claims: Vec<Checked>,
}

/// A claim, and what became of it.
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
    /// Checking failed, which is not the same as a claim that was found wrong.
    #[serde(rename = "not measured")]
    NotMeasured,
}

impl Verdict {
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::DoesNotHold => "does not hold",
            Self::NotMeasured => "not measured",
        }
    }
}

impl Report {
    /// Checks every claim. One that cannot be checked does not keep the others from it.
    pub(crate) fn of(claims: &[Claim]) -> Result<Self> {
        let progress = progress(claims.len())?;
        let mut checked = Vec::with_capacity(claims.len());
        for claim in claims {
            progress.set_message(claim.0);
            checked.push(Checked::from(claim));
            progress.inc(1);
        }
        progress.finish_and_clear();
        Ok(Self { machine: Machine::here(), claims: checked })
    }

    pub(crate) fn count(&self, verdict: Verdict) -> usize {
        self.claims.iter().filter(|checked| checked.verdict == verdict).count()
    }
}

impl From<&Claim> for Checked {
    fn from(&(claim, how, check): &Claim) -> Self {
        match check() {
            Ok(finding) => {
                let verdict = if finding.holds { Verdict::Holds } else { Verdict::DoesNotHold };
                Self { claim, how, figure: finding.figure, verdict, points: finding.points }
            }
            Err(error) => {
                let figure = format!("{error:#}");
                Self { claim, how, figure, verdict: Verdict::NotMeasured, points: Vec::new() }
            }
        }
    }
}

/// A line on standard error that says which claim is being checked; invisible where that is no terminal.
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
        Report::of(&[
            ("a pool is quicker", "64 tasks", quicker),
            ("pigs fly", "looked up", wrong),
            ("the moon is there", "looked up", unknown),
        ])
        .unwrap()
    }

    #[test]
    fn a_claim_that_cannot_be_checked_keeps_no_other_from_it() {
        let verdicts: Vec<_> = sample().claims.iter().map(|checked| checked.verdict).collect();
        assert_eq!(verdicts, [Verdict::Holds, Verdict::DoesNotHold, Verdict::NotMeasured]);
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

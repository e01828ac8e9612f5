//! An experiment: a claim, how it is measured, and the finding.

use anyhow::Result;

use crate::chart::{Chart, Point, Position};

/// A claim about processes, and what measures it.
#[derive(Clone, Copy, Debug)]
pub struct Experiment {
    /// The claim, in a few words.
    pub claim: &'static str,
    /// How it is measured, in a few words.
    pub method: &'static str,
    /// Measures it; blocks until then.
    pub run: fn() -> Result<Finding>,
}

/// The result of an experiment.
#[derive(Clone, Debug)]
pub struct Finding {
    pub(crate) holds: bool,
    pub(crate) figure: String,
    pub(crate) points: Vec<Point>,
}

impl Finding {
    /// Whether the claim holds on this machine, and the figure that says so.
    pub fn new(holds: bool, figure: impl Into<String>) -> Self {
        Self { holds, figure: figure.into(), points: Vec::new() }
    }

    /// Adds a value to a chart: a bar where `at` is a label, a point of a line where it is a number.
    #[must_use]
    pub fn point(
        mut self,
        chart: &'static Chart,
        series: &'static str,
        at: impl Into<Position>,
        value: f64,
    ) -> Self {
        self.points.push(Point { chart, series, at: at.into(), value });
        self
    }
}

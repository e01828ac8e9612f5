//! What a picture shows, before it is drawn.

use serde::{Serialize, Serializer};

/// A chart of the picture: bars or lines over one pair of axes.
#[derive(Debug, PartialEq)]
pub struct Chart {
    /// What it shows, in a few words.
    pub title: &'static str,
    /// What is measured: the label of its axis, together with the unit.
    pub quantity: &'static str,
    /// The unit of the values.
    pub unit: &'static str,
    /// What the numbers mean at which the points of a line stand, with their unit. Not shown with bars.
    pub along: &'static str,
    /// Whether the axes are logarithmic, as they must be for values that span decades.
    pub logarithmic: bool,
}

/// Where a value stands in its chart.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Position {
    /// A bar has a name.
    Label(String),
    /// A point of a line has a place.
    Number(f64),
}

impl From<&str> for Position {
    fn from(label: &str) -> Self {
        Self::Label(label.to_owned())
    }
}

impl From<String> for Position {
    fn from(label: String) -> Self {
        Self::Label(label)
    }
}

impl From<f64> for Position {
    fn from(number: f64) -> Self {
        Self::Number(number)
    }
}

/// One value, and where it belongs.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Point {
    #[serde(flatten, serialize_with = "described")]
    pub(crate) chart: &'static Chart,
    #[serde(skip_serializing_if = "str::is_empty")] // a chart of one series need not name it
    pub(crate) series: &'static str,
    pub(crate) at: Position,
    pub(crate) value: f64,
}

fn described<S: Serializer>(chart: &Chart, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Described<'a> {
        chart: &'a str,
        unit: &'a str,
        #[serde(skip_serializing_if = "str::is_empty")]
        along: &'a str,
    }
    Described { chart: chart.title, unit: chart.unit, along: chart.along }.serialize(serializer)
}

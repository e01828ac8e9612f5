//! Bars and lines of figures: what a chart shows, as percentages of its width and height.

#[cfg(test)]
mod tests;

use experiments::measure::three_digits;
use serde::{Deserialize, Serialize};

/// Values that span more than this need a logarithmic axis.
const LINEAR: f64 = 40.0;

#[derive(Debug, Serialize)]
pub struct Chart {
    pub title: String,
    pub unit: String,
    pub logarithmic: bool,
    pub bars: Vec<Bar>,
    pub lines: Option<Lines>,
}

#[derive(Debug, Serialize)]
pub struct Bar {
    /// What this bar and those below it have in common; empty within a group.
    pub group: String,
    pub label: String,
    pub value: String,
    pub width: String,
    /// 0 is the one that the chart is about.
    pub series: usize,
}

#[derive(Debug, Serialize)]
pub struct Lines {
    pub along: String,
    pub series: Vec<Series>,
    pub x_ticks: Vec<Tick>,
    pub y_ticks: Vec<Tick>,
}

#[derive(Debug, Serialize)]
pub struct Series {
    pub name: String,
    pub points: Vec<Place>,
}

#[derive(Debug, Serialize)]
pub struct Place {
    pub x: String,
    pub y: String,
    /// The point in words.
    pub title: String,
}

#[derive(Debug, Serialize)]
pub struct Tick {
    pub at: String,
    pub text: String,
}

/// What a measuring program prints with `--format json`.
#[derive(Debug, Deserialize)]
pub struct Measured {
    pub claims: Vec<Claim>,
}

#[derive(Debug, Deserialize, Serialize)]
pub struct Claim {
    pub claim: String,
    pub how: String,
    pub figure: String,
    pub verdict: String,
    #[serde(skip_serializing)]
    pub points: Vec<Point>,
}

/// A value of a chart.
#[derive(Clone, Debug, Deserialize)]
pub struct Point {
    pub chart: String,
    pub unit: String,
    #[serde(default)]
    pub along: String,
    #[serde(default)]
    pub series: String,
    pub at: Position,
    pub value: f64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Position {
    Label(String),
    Number(f64),
}

impl Measured {
    /// A chart for each title, in the order of the claims.
    pub fn charts(&self) -> Vec<Chart> {
        let points: Vec<_> = self.claims.iter().flat_map(|claim| &claim.points).collect();
        let mut titles: Vec<&str> = Vec::new();
        for point in &points {
            if !titles.contains(&point.chart.as_str()) {
                titles.push(&point.chart);
            }
        }
        let of =
            |title: &str| points.iter().copied().filter(|point| point.chart == title).collect::<Vec<_>>();
        titles.into_iter().map(|title| chart(title, &of(title))).collect()
    }
}

fn chart(title: &str, points: &[&Point]) -> Chart {
    let mut names: Vec<&str> = Vec::new();
    for point in points {
        if !names.contains(&point.series.as_str()) {
            names.push(&point.series);
        }
    }
    let unit = points.first().map_or("", |point| &point.unit);
    if points.iter().any(|point| matches!(point.at, Position::Number(_))) {
        let lines = Some(lines(points, &names));
        return Chart {
            title: title.to_owned(),
            unit: unit.to_owned(),
            logarithmic: true,
            bars: vec![],
            lines,
        };
    }
    let labelled = points.iter().filter_map(|point| {
        let Position::Label(at) = &point.at else { return None };
        Some((at.as_str(), names.iter().position(|name| *name == point.series)?, point.value))
    });
    let values: Vec<_> = labelled.collect();
    // The points of one label, or those of one series, stand together.
    let by_label = values.windows(2).any(|pair| pair[0].0 == pair[1].0);
    let split = |at: &str, series: usize| match names[series] {
        "" => (String::new(), at.to_owned()),
        name if by_label => (at.to_owned(), name.to_owned()),
        name => (name.to_owned(), at.to_owned()),
    };
    let (groups, labels): (Vec<_>, Vec<_>) = values.iter().map(|(at, series, _)| split(at, *series)).unzip();
    let labelled =
        labels.into_iter().zip(&values).map(|(label, (_, series, value))| (label, *series, *value));
    let mut chart = bars(title, unit, labelled.collect());
    let mut last = String::new();
    for (bar, group) in chart.bars.iter_mut().zip(groups) {
        if group != last {
            bar.group.clone_from(&group);
            last = group;
        }
    }
    chart
}

/// A chart of bars: label, series, and value of each.
pub fn bars(title: &str, unit: &str, values: Vec<(String, usize, f64)>) -> Chart {
    let axis = Axis::of(values.iter().map(|(.., value)| *value), false);
    let bar = |(label, series, value): (String, usize, f64)| Bar {
        group: String::new(),
        label,
        value: format!("{} {unit}", three_digits(value)),
        width: percent(axis.at(value)),
        series,
    };
    let logarithmic = axis.logarithmic;
    let bars = values.into_iter().map(bar).collect();
    Chart { title: title.to_owned(), unit: unit.to_owned(), logarithmic, bars, lines: None }
}

fn lines(points: &[&Point], names: &[&str]) -> Lines {
    let placed = || {
        points.iter().filter_map(|point| match point.at {
            Position::Number(at) => Some((point, at)),
            Position::Label(_) => None,
        })
    };
    let x = Axis::of(placed().map(|(_, at)| at), true);
    let y = Axis::of(placed().map(|(point, _)| point.value), true);
    let place = |(point, at): (&&Point, f64)| Place {
        x: percent(x.at(at)),
        y: percent(1.0 - y.at(point.value)),
        title: format!("{}: {} {}", point.series, three_digits(point.value), point.unit),
    };
    let series = |name: &&str| Series {
        name: (*name).to_owned(),
        points: placed().filter(|(point, _)| point.series == *name).map(place).collect(),
    };
    Lines {
        along: points.first().map_or_else(String::new, |point| point.along.clone()),
        series: names.iter().map(series).collect(),
        x_ticks: x.decades().map(|(at, text)| Tick { at: percent(at), text }).collect(),
        y_ticks: y.decades().map(|(at, text)| Tick { at: percent(1.0 - at), text }).collect(),
    }
}

/// From a value to its place between 0 and 1.
struct Axis {
    low: f64,
    high: f64,
    logarithmic: bool,
}

impl Axis {
    /// An axis of bars begins at 0, or left of the least value if it is logarithmic.
    fn of(values: impl Iterator<Item = f64> + Clone, is_line: bool) -> Self {
        let high = values.clone().fold(f64::MIN_POSITIVE, f64::max);
        let least = values.filter(|value| *value > 0.0).fold(high, f64::min);
        let logarithmic = is_line || high / least > LINEAR;
        let low = match (is_line, logarithmic) {
            (true, _) => least / 1.3,
            (false, true) => least / 2.0,
            (false, false) => 0.0,
        };
        Self { low, high: if is_line { high * 1.3 } else { high }, logarithmic }
    }

    fn at(&self, value: f64) -> f64 {
        if self.logarithmic {
            (value.max(self.low) / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        }
    }

    /// The powers of ten within the axis, with their places.
    fn decades(&self) -> impl Iterator<Item = (f64, String)> + '_ {
        let powers = (-9..=12).map(|power| 10_f64.powi(power));
        powers
            .filter(|power| (self.low..=self.high).contains(power))
            .map(|power| (self.at(power), power.to_string()))
    }
}

fn percent(part: f64) -> String {
    format!("{:.2}%", part.clamp(0.0, 1.0) * 100.0)
}

//! An axis of numbers, linear or logarithmic, or of names.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};

/// Where values stand, and which of them are marked.
#[derive(Clone)]
pub(super) struct Axis {
    pub(super) from: f64,
    pub(super) to: f64,
    logarithmic: bool,
    marks: Vec<(f64, String)>,
    /// Fine lines between the marks.
    between: Vec<f64>,
}

impl Axis {
    /// From zero, or from a power of ten below the least; with room for the figure after the longest bar.
    pub(super) fn of_bars(values: impl Iterator<Item = f64>, logarithmic: bool) -> Self {
        let (min, max) = bounds(values);
        if logarithmic {
            // Strictly below, for a bar of no length would look like nothing.
            let from = 10_f64.powi(decade_of(min * 0.9));
            Self::logarithmic(from, max * (max / from).powf(0.18))
        } else {
            Self::linear(max * 1.15)
        }
    }

    /// Just as long as the values need it; from zero if it is linear.
    pub(super) fn of_lines(values: impl Iterator<Item = f64>, logarithmic: bool) -> Self {
        let (min, max) = bounds(values);
        if logarithmic { Self::logarithmic(min / 1.25, max * 1.25) } else { Self::linear(max * 1.05) }
    }

    /// The first name's middle is at 0.5, the second one's at 1.5; the first one is on top.
    pub(super) fn of_names(names: &[&str]) -> Self {
        let middles = (0..u32::MAX).map(|index| f64::from(index) + 0.5);
        let marks: Vec<_> = middles.zip(names.iter().map(|name| (*name).to_owned())).collect();
        let from = marks.last().map_or(1.0, |(middle, _)| middle + 0.5);
        Self { from, to: 0.0, logarithmic: false, marks, between: Vec::new() }
    }

    fn linear(to: f64) -> Self {
        let decade = decade_of(to);
        let steps = [(1.0, decade - 1), (2.0, decade - 1), (5.0, decade - 1)];
        let fits = |(digit, exponent): &(f64, i32)| to / (digit * 10_f64.powi(*exponent)) <= 8.0;
        let (digit, exponent) = steps.into_iter().find(fits).unwrap_or((1.0, decade));
        let decimals = usize::try_from(-exponent).unwrap_or(0);
        let marks = (0..=8).map(|number| f64::from(number) * digit * 10_f64.powi(exponent));
        let labelled = |mark| (mark, format!("{mark:.decimals$}"));
        let marks = marks.take_while(|mark| *mark <= to).map(labelled).collect();
        Self { from: 0.0, to, logarithmic: false, marks, between: Vec::new() }
    }

    fn logarithmic(from: f64, to: f64) -> Self {
        let within = |value: &f64| (from * 0.999..=to).contains(value);
        let decades = || (-30..30).map(|exponent| (exponent, 10_f64.powi(exponent)));
        let marks = decades().filter(|(_, value)| within(value)).map(|(exponent, value)| {
            let decimals = usize::try_from(-exponent).unwrap_or(0);
            (value, format!("{value:.decimals$}"))
        });
        let between = decades().flat_map(|(_, value)| (2..10).map(move |factor| f64::from(factor) * value));
        Self {
            from,
            to,
            logarithmic: true,
            marks: marks.collect(),
            between: between.filter(within).collect(),
        }
    }

    fn scaled(&self, value: f64) -> f64 {
        if self.logarithmic { value.max(self.from).ln() } else { value }
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    #[allow(clippy::cast_possible_truncation)] // pixels
    fn map(&self, value: &f64, (first, last): (i32, i32)) -> i32 {
        let [value, from, to] = [*value, self.from, self.to].map(|value| self.scaled(value));
        first + (f64::from(last - first) * (value - from) / (to - from)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() {
            self.between.clone()
        } else {
            self.marks.iter().map(|(value, _)| *value).collect()
        }
    }

    fn range(&self) -> Range<f64> {
        self.from..self.to
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, value: &f64) -> String {
        let mark = self.marks.iter().find(|(mark, _)| mark.total_cmp(value).is_eq());
        mark.map(|(_, label)| label.clone()).unwrap_or_default()
    }
}

/// The exponent of the power of ten at or below a value.
#[allow(clippy::cast_possible_truncation)] // -9 to 308
fn decade_of(value: f64) -> i32 {
    value.log10().floor() as i32
}

/// The least and the most; of no values, something that can be drawn.
fn bounds(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let drawable = values.filter(|value| value.is_finite()).map(|value| value.max(1e-9));
    let widen = |bounds: Option<(f64, f64)>, value: f64| {
        Some(bounds.map_or((value, value), |(min, max)| (min.min(value), max.max(value))))
    };
    drawable.fold(None, widen).unwrap_or((1.0, 10.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<&str> {
        axis.marks.iter().map(|(_, label)| label.as_str()).collect()
    }

    #[test]
    fn a_logarithmic_axis_is_marked_at_powers_of_ten() {
        let axis = Axis::of_bars([12.0, 1_500.0].into_iter(), true);
        assert_eq!(labels(&axis), ["10", "100", "1000"]);
        assert_eq!(axis.map(&10.0, (0, 300)), 0);
        assert_eq!(axis.map(&100.0, (0, 300)) * 2, axis.map(&1_000.0, (0, 300)));
        let axis = Axis::of_lines([0.009, 15.0].into_iter(), true);
        assert_eq!(labels(&axis), ["0.01", "0.1", "1", "10"]);
    }

    #[test]
    fn a_linear_axis_begins_at_zero_and_is_marked_at_round_numbers() {
        let axis = Axis::of_bars([80.0, 161.0].into_iter(), false);
        assert_eq!(labels(&axis), ["0", "50", "100", "150"]);
        let small = Axis::of_bars([0.47].into_iter(), false);
        assert_eq!(labels(&small), ["0.0", "0.1", "0.2", "0.3", "0.4", "0.5"]);
        assert_eq!(axis.map(&0.0, (7, 300)), 7);
        assert!(axis.map(&161.0, (0, 300)) < 300);
    }

    #[test]
    fn the_first_name_is_on_top() {
        let axis = Axis::of_names(&["start", "stop"]);
        let [start, stop] = [0.5, 1.5].map(|middle| axis.map(&middle, (100, 0)));
        assert_eq!((start, stop), (25, 75), "a picture's lines are counted from above");
        assert_eq!(axis.format_ext(&1.5), "stop");
    }

    #[test]
    fn no_values_and_zeros_can_be_drawn() {
        for values in [vec![], vec![0.0], vec![f64::INFINITY]] {
            for logarithmic in [true, false] {
                let axis = Axis::of_bars(values.iter().copied(), logarithmic);
                assert!(axis.from.is_finite() && axis.to.is_finite() && axis.from < axis.to, "{values:?}");
            }
        }
    }
}

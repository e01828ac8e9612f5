//! A chart of a workload: for each case the medians as bars on a logarithmic axis, with the spread of the
//! rounds.

use anyhow::{Result, anyhow};
use bench::case::{Case, Direction};
use experiments::measure::three_digits;
use plotters::coord::Shift;
use plotters::prelude::*;

use super::results::{Kind, Results, Row};

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const WIDTH: u32 = 820;
const NAMES: i32 = 190;
/// The end of the longest bar; its figure stands beyond.
const END: i32 = 690;
const TITLE: u32 = 30;
const BAR: u32 = 22;
const AXIS: u32 = 30;
const MARGIN: u32 = 12;
// The chart has its own background, so it is legible on dark and light pages.
const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);
const GREY: RGBColor = RGBColor(0x66, 0x66, 0x66);
const GRID: RGBColor = RGBColor(0xdd, 0xdd, 0xdd);

/// The chart as the text of an SVG file; nothing, if no case has figures to compare.
pub(super) fn draw(results: &Results, cases: &[&'static Case]) -> Result<Option<String>> {
    let panels = cases.iter().map(|case| Panel { case, rows: with_figures(results, case) });
    let panels: Vec<_> = panels.filter(|panel| panel.rows.len() > 1).collect();
    if panels.is_empty() {
        return Ok(None);
    }
    let height = 2 * MARGIN + panels.iter().map(Panel::height).sum::<u32>();
    let mut svg = String::new();
    let root = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
    let drawn = draw_all(&root, &panels);
    drop(root);
    drawn?;
    Ok(Some(svg))
}

fn with_figures<'a>(results: &'a Results, case: &Case) -> Vec<&'a Row> {
    results.of(case).into_iter().filter(|row| row.median.is_some_and(|median| median > 0.0)).collect()
}

fn draw_all(root: &Area, panels: &[Panel]) -> Result<()> {
    root.fill(&WHITE).map_err(described)?;
    let (_, mut rest) = root.split_vertically(MARGIN);
    for panel in panels {
        let (area, below) = rest.split_vertically(panel.height());
        panel.draw(&area)?;
        rest = below;
    }
    Ok(())
}

struct Panel<'a> {
    case: &'static Case,
    rows: Vec<&'a Row>,
}

impl Panel<'_> {
    fn height(&self) -> u32 {
        TITLE + AXIS + BAR * u32::try_from(self.rows.len()).unwrap_or(0)
    }

    fn draw(&self, area: &Area) -> Result<()> {
        let better = if self.case.better == Direction::LowerIsBetter { "less" } else { "more" };
        text(
            area,
            &format!("{} ({}, {better} is better)", self.case.title, self.case.unit),
            (MARGIN, 4),
            15,
            INK,
        )?;
        let axis = Axis::of(&self.rows);
        self.draw_axis(area, &axis)?;
        for (row, top) in self.rows.iter().zip((TITLE..).step_by(BAR as usize)) {
            draw_row(area, row, top, &axis)?;
        }
        Ok(())
    }

    fn draw_axis(&self, area: &Area, axis: &Axis) -> Result<()> {
        let bottom = pixel(self.height() - AXIS + 2);
        for (value, label) in axis.decades() {
            let x = axis.place(value);
            line(area, (x, pixel(TITLE) - 2), (x, bottom), GRID)?;
            let half = i32::try_from(label.len()).unwrap_or(0) * 3;
            text(area, &label, (x - half, bottom + 2), 11, GREY)?;
        }
        Ok(())
    }
}

/// Name, bar, spread and figure.
fn draw_row(area: &Area, row: &Row, top: u32, axis: &Axis) -> Result<()> {
    let median = row.median.unwrap_or_default();
    let [left, right] = [axis.place(axis.from), axis.place(median)];
    let (top, bottom) = (pixel(top) + 3, pixel(top + BAR) - 3);
    text(area, &row.entrant, (MARGIN, top + 1), 13, INK)?;
    let bar = Rectangle::new([(left, top), (right, bottom)], colour(row.kind).filled());
    area.draw(&bar).map_err(described)?;
    let (min, max) = row.spread();
    let [min, max] = [min, max].map(|value| axis.place(value));
    let middle = i32::midpoint(top, bottom);
    line(area, (min, middle), (max, middle), INK)?;
    for end in [min, max] {
        line(area, (end, middle - 3), (end, middle + 3), INK)?;
    }
    text(area, &three_digits(median), (right.max(max) + 6, top + 1), 13, INK)
}

/// Colours that also a reader who cannot tell red from green tells apart.
fn colour(kind: Kind) -> RGBColor {
    match kind {
        Kind::Ours => RGBColor(0xd5, 0x5e, 0x00),
        Kind::Processes => RGBColor(0x56, 0xb4, 0xe9),
        Kind::Threads => RGBColor(0x00, 0x9e, 0x73),
        Kind::Baseline => RGBColor(0xaa, 0xaa, 0xaa),
    }
}

/// A logarithmic axis from the power of ten below the least to the most.
struct Axis {
    from: f64,
    to: f64,
}

impl Axis {
    fn of(rows: &[&Row]) -> Self {
        let spreads = || rows.iter().map(|row| row.spread());
        let min = spreads().map(|(min, _)| min).filter(|min| *min > 0.0).fold(f64::MAX, f64::min);
        let max = spreads().map(|(_, max)| max).fold(f64::MIN_POSITIVE, f64::max);
        // Strictly below, for a bar of no length would look like nothing.
        let from = 10_f64.powf((min.min(max) * 0.9).log10().floor());
        Self { from, to: max.max(from * 10.0) }
    }

    #[allow(clippy::cast_possible_truncation)] // pixels
    fn place(&self, value: f64) -> i32 {
        let along = (value.max(self.from) / self.from).ln() / (self.to / self.from).ln();
        NAMES + (along * f64::from(END - NAMES)).round() as i32
    }

    fn decades(&self) -> impl Iterator<Item = (f64, String)> {
        let powers = (-12..=12).map(|exponent| (exponent, 10_f64.powi(exponent)));
        let within = powers.filter(|(_, value)| (self.from * 0.999..=self.to * 1.001).contains(value));
        within.map(|(exponent, value)| {
            let decimals = usize::try_from(-exponent).unwrap_or(0);
            (value, format!("{value:.decimals$}"))
        })
    }
}

fn pixel(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn line(area: &Area, from: (i32, i32), to: (i32, i32), colour: RGBColor) -> Result<()> {
    area.draw(&PathElement::new([from, to], colour.stroke_width(1))).map_err(described)
}

fn text(
    area: &Area,
    text: &str,
    (x, y): (impl TryInto<i32>, i32),
    size: u32,
    colour: RGBColor,
) -> Result<()> {
    let font = TextStyle { color: colour.to_backend_color(), ..("sans-serif", size).into() };
    let x = x.try_into().unwrap_or(0);
    area.draw(&Text::new(text.to_owned(), (x, y), font)).map_err(described)
}

fn described(error: impl std::error::Error) -> anyhow::Error {
    anyhow!("cannot draw the chart: {error}")
}

#[cfg(test)]
mod tests {
    use bench::case;

    use super::*;
    use crate::bench::results::{BASELINE, OURS, tests::sample};

    #[test]
    fn the_picture_has_every_entrant_with_its_figure() {
        let results = sample(&[
            (OURS, &case::START, &[120.0, 130.0, 125.0]),
            (BASELINE, &case::START, &[98.0]),
            ("procspawn", &case::START, &[1134.0]),
            ("rayon", &case::MAP, &[]),
        ]);
        let svg = draw(&results, &[&case::START, &case::MAP]).unwrap().unwrap();
        let has = |words: &str| svg.lines().any(|line| line.trim() == words);
        for words in [
            "start and join (µs, less is better)",
            OURS,
            "125",
            BASELINE,
            "98.0",
            "procspawn",
            "1134",
            "1000",
        ] {
            assert!(has(words), "{words:?} is not in {svg}");
        }
        assert!(!has("rayon"), "it has no figure");
        assert!(svg.trim_end().ends_with("</svg>") && !svg.contains("NaN"), "{svg}");
        assert!(draw(&results, &[&case::MAP]).unwrap().is_none());
    }

    #[test]
    fn the_axis_is_logarithmic() {
        let results = sample(&[(OURS, &case::START, &[12.0]), (BASELINE, &case::START, &[10_000.0])]);
        let axis = Axis::of(&results.of(&case::START));
        let places = [10.0, 100.0, 1_000.0, 10_000.0].map(|value| axis.place(value));
        assert_eq!((places[0], places[3]), (NAMES, END));
        assert!((places[2] - places[1] - (places[1] - places[0])).abs() <= 1, "{places:?}");
        assert_eq!(
            axis.decades().map(|(_, label)| label).collect::<Vec<_>>(),
            ["10", "100", "1000", "10000"]
        );
    }
}

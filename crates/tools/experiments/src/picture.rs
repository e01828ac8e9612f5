//! The figures as a picture: one chart below the other, and the machine that made them.

mod axis;

use anyhow::{Result, anyhow};
use plotters::coord::{CoordTranslate, Shift};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use self::axis::Axis;
use crate::chart::{Chart, Point, Position};
use crate::measure::three_digits;
use crate::report::Report;

type Drawn<'a> = Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const WIDTH: u32 = 820;
const TITLE: u32 = 40;
const LEGEND: u32 = 20;
/// The value axis with its label.
const FOOT: u32 = 44;
const PADDING: u32 = 16;
const BAR: u32 = 24;
const LINES: u32 = 360;
const CAPTION: u32 = 32;
const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);
const GREY: RGBColor = RGBColor(0x66, 0x66, 0x66);
const GRID: RGBColor = RGBColor(0xcc, 0xcc, 0xcc);
const FINE: RGBColor = RGBColor(0xee, 0xee, 0xee);
/// Colours that also a reader who cannot tell red from green tells apart.
const COLOURS: [RGBColor; 4] = [
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0x99, 0x99, 0x99),
    RGBColor(0x00, 0x9e, 0x73),
];

/// A chart and its points, with the series and labels among them in the order in which they came.
struct Panel<'a> {
    chart: &'static Chart,
    points: Vec<&'a Point>,
    series: Vec<&'a str>,
    labels: Vec<&'a str>,
}

/// The picture as the text of an SVG file.
pub(crate) fn draw(report: &Report) -> Result<String> {
    let panels = panels(report);
    let height = panels.iter().map(Panel::height).sum::<u32>() + CAPTION;
    let mut svg = String::new();
    let root = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
    // plotters' error borrows from the drawing, so it does not go further than its message.
    let drawn = draw_all(&root, &panels, &report.machine.to_string()).map_err(|error| anyhow!("{error:#}"));
    drop(root);
    drawn?;
    Ok(svg)
}

fn draw_all(root: &Area, panels: &[Panel], machine: &str) -> Result<()> {
    root.fill(&WHITE).map_err(described)?;
    let mut rest = root.clone();
    for panel in panels {
        let (area, below) = rest.split_vertically(panel.height());
        panel.draw(&area)?;
        rest = below;
    }
    text(&rest, machine, (12, 4), 12, GREY)
}

fn panels(report: &Report) -> Vec<Panel<'_>> {
    let mut panels: Vec<Panel> = Vec::new();
    for point in report.claims.iter().flat_map(|checked| &checked.points) {
        let panel = panels.iter().position(|panel| panel.chart == point.chart).unwrap_or_else(|| {
            panels.push(Panel { chart: point.chart, points: vec![], series: vec![], labels: vec![] });
            panels.len() - 1
        });
        panels[panel].add(point);
    }
    panels
}

impl<'a> Panel<'a> {
    fn add(&mut self, point: &'a Point) {
        self.points.push(point);
        if !self.series.contains(&point.series) {
            self.series.push(point.series);
        }
        if let Position::Label(label) = &point.at
            && !self.labels.contains(&label.as_str())
        {
            self.labels.push(label);
        }
    }

    fn height(&self) -> u32 {
        let body = if self.labels.is_empty() { LINES } else { BAR * self.slots() };
        self.head() + body + FOOT + PADDING
    }

    fn head(&self) -> u32 {
        if self.series.len() > 1 { TITLE + LEGEND } else { TITLE }
    }

    /// Room for bars: for each label as many as there are series, and half a bar of padding.
    fn slots(&self) -> u32 {
        let slots = self.labels.len() * self.series.len();
        u32::try_from(slots + self.labels.len().div_ceil(2)).unwrap_or(1)
    }

    fn draw(&self, area: &Area) -> Result<()> {
        text(area, self.chart.title, (12, 12), 17, INK)?;
        if self.series.len() > 1 {
            self.draw_legend(area)?;
        }
        let (_, below) = area.split_vertically(self.head());
        if self.labels.is_empty() { self.draw_lines(&below) } else { self.draw_bars(&below) }
    }

    fn draw_legend(&self, area: &Area) -> Result<()> {
        let mut x = 14;
        for (series, colour) in self.series.iter().zip(COLOURS.iter().cycle()) {
            area.draw(&Rectangle::new([(x, 38), (x + 11, 49)], colour.filled())).map_err(described)?;
            text(area, series, (x + 17, 36), 13, INK)?;
            x += 17 + width_of(series, 13) + 18;
        }
        Ok(())
    }

    fn draw_bars(&self, area: &Area) -> Result<()> {
        let values = Axis::of_bars(self.points.iter().map(|point| point.value), self.chart.logarithmic);
        let widest = self.labels.iter().map(|label| width_of(label, 13)).max().unwrap_or(0);
        let names = Axis::of_names(&self.labels);
        let context = axes(area, widest + 10, (values.clone(), &self.value_label()), (names, ""))?;
        let mut bars = self.points.iter().filter_map(|point| self.bar(point, &values));
        bars.try_for_each(|bar| bar.draw(context.plotting_area())).map_err(described)
    }

    fn bar(&self, point: &Point, values: &Axis) -> Option<Bar> {
        let Position::Label(label) = &point.at else { return None };
        let label = position(self.labels.iter().position(|other| other == label)?);
        let series = self.series.iter().position(|other| *other == point.series)?;
        let height = 0.8 / position(self.series.len());
        Some(Bar {
            top: label + 0.1 + position(series) * height,
            height,
            from: values.from,
            to: point.value,
            colour: COLOURS[series % COLOURS.len()],
            figure: format!("{} {}", three_digits(point.value), self.chart.unit),
        })
    }

    fn draw_lines(&self, area: &Area) -> Result<()> {
        let log = self.chart.logarithmic;
        let values = Axis::of_lines(self.points.iter().map(|point| point.value), log);
        let numbers = Axis::of_lines(self.points.iter().filter_map(|point| number(point)), log);
        let mut context = axes(area, 72, (numbers, self.chart.along), (values, &self.value_label()))?;
        for (series, colour) in self.series.iter().zip(COLOURS.iter().cycle()) {
            let points = self.points.iter().filter(|point| point.series == *series);
            let positions = points.filter_map(|point| Some((number(point)?, point.value)));
            let dots = positions.clone().map(|position| Circle::new(position, 4, colour.filled()));
            context.draw_series(LineSeries::new(positions, colour.stroke_width(2))).map_err(described)?;
            context.draw_series(dots).map_err(described)?;
        }
        Ok(())
    }

    /// What the values are and in which unit; that an axis is logarithmic is easily overlooked.
    fn value_label(&self) -> String {
        let Chart { quantity, unit, logarithmic, .. } = self.chart;
        format!("{quantity} in {unit}{}", if *logarithmic { " (logarithmic)" } else { "" })
    }
}

/// Both axes with their labels and grid; `left` is the room for what stands beside the vertical one.
fn axes<'a, 'b>(
    area: &'a Area<'b>,
    left: i32,
    (x, x_label): (Axis, &str),
    (y, y_label): (Axis, &str),
) -> Result<ChartContext<'a, SVGBackend<'b>, Cartesian2d<Axis, Axis>>> {
    let mut context = ChartBuilder::on(area)
        .margin_right(24)
        .margin_bottom(PADDING)
        .margin_left(12)
        .x_label_area_size(FOOT)
        .y_label_area_size(left)
        .build_cartesian_2d(x, y)
        .map_err(described)?;
    let mut mesh = context.configure_mesh();
    mesh.bold_line_style(GRID).light_line_style(FINE).axis_style(GREY);
    mesh.label_style(font(13, INK)).axis_desc_style(font(13, INK)).x_desc(x_label).y_desc(y_label);
    if y_label.is_empty() {
        mesh.disable_y_mesh(); // names, not numbers
    }
    mesh.draw().map_err(described)?;
    drop(mesh);
    Ok(context)
}

struct Bar {
    top: f64,
    height: f64,
    from: f64,
    to: f64,
    colour: RGBColor,
    figure: String,
}

impl Bar {
    /// The bar, and its value written after it.
    fn draw<'a, C>(&self, area: &DrawingArea<SVGBackend<'a>, C>) -> Drawn<'a>
    where
        C: CoordTranslate<From = (f64, f64)>,
    {
        let corners = [(self.from, self.top), (self.to, self.top + self.height)];
        area.draw(&Rectangle::new(corners, self.colour.filled()))?;
        let style = font(13, INK).pos(Pos::new(HPos::Left, VPos::Center));
        let end = (self.to, self.top + self.height / 2.0);
        area.draw(&(EmptyElement::at(end) + Text::new(self.figure.clone(), (6, 0), style)))
    }
}

fn number(point: &Point) -> Option<f64> {
    if let Position::Number(number) = point.at { Some(number) } else { None }
}

#[allow(clippy::cast_precision_loss)] // no chart has 2⁵³ bars
fn position(index: usize) -> f64 {
    index as f64
}

fn font(size: u32, colour: RGBColor) -> TextStyle<'static> {
    TextStyle { color: colour.to_backend_color(), ..("sans-serif", size).into() }
}

/// Roughly: only the program that draws the picture knows the font.
fn width_of(text: &str, size: i32) -> i32 {
    i32::try_from(text.chars().count()).unwrap_or(0) * size / 2
}

fn text(area: &Area, text: &str, at: (i32, i32), size: u32, colour: RGBColor) -> Result<()> {
    area.draw(&Text::new(text.to_owned(), at, font(size, colour))).map_err(described)
}

fn described(error: impl std::error::Error) -> anyhow::Error {
    anyhow!("cannot draw the picture: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample;

    #[test]
    fn the_picture_names_its_axes_their_units_and_the_machine() {
        let report = sample();
        let svg = draw(&report).unwrap();
        for words in [
            "Cost",
            "time in µs (logarithmic)",
            "start",
            "pool",
            "process",
            "10.0 µs",
            "1500 µs",
            "Over size",
            "time in ms (logarithmic)",
            "size in ms",
            &report.machine.to_string(),
        ] {
            assert!(svg.lines().any(|line| line.trim() == words), "{words:?} is not in {svg}");
        }
    }

    #[test]
    fn the_picture_is_one_whole_svg_element() {
        let svg = draw(&sample()).unwrap();
        assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"), "{svg}");
        assert_eq!(svg.matches("<text ").count(), svg.matches("</text>").count());
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn a_report_without_figures_is_a_picture_all_the_same() {
        let mut report = sample();
        report.claims.truncate(0);
        assert!(draw(&report).unwrap().contains("</svg>"));
    }
}

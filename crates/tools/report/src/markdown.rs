//! Pages of `docs/` as sections of text and tables, and the headings of a question's README.

use pulldown_cmark::{Alignment, Event, HeadingLevel, Options, Parser, Tag, TagEnd, html::push_html};
use serde::Serialize;

use crate::chart::{self, Chart};

/// A table with more rows is folded.
const LONG: usize = 14;

#[derive(Debug, Default, Serialize)]
pub struct Section {
    pub id: String,
    pub title: String,
    pub parts: Vec<Part>,
}

#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Part {
    Text { html: String },
    Table(Table),
}

/// Cells are HTML.
#[derive(Debug, Default, Serialize)]
pub struct Table {
    pub head: Vec<String>,
    pub rows: Vec<Vec<String>>,
    /// Which columns are numbers.
    pub right: Vec<bool>,
    pub long: bool,
    pub charts: Vec<Chart>,
}

/// The sections of a page, the first of them what stands before the first heading of the second level. Links are
/// left out, since the page has nowhere to lead to; pictures, since [`chart`] draws them.
pub fn sections(markdown: &str, prefix: &str) -> Vec<Section> {
    let mut sections = vec![Section::default()];
    let mut events = plain(Parser::new_ext(markdown, Options::ENABLE_TABLES)).peekable();
    let mut text = Vec::new();
    while let Some(event) = events.next() {
        match event {
            Event::Start(Tag::Heading { level: level @ (HeadingLevel::H1 | HeadingLevel::H2), .. }) => {
                flush(&mut text, &mut sections);
                let title = html(until(&mut events, TagEnd::Heading(level)));
                if level == HeadingLevel::H2 {
                    sections
                        .push(Section { id: format!("{prefix}-{}", sections.len()), ..Section::default() });
                }
                if let Some(section) = sections.last_mut() {
                    section.title = title;
                }
            }
            Event::Start(Tag::Table(alignments)) => {
                flush(&mut text, &mut sections);
                let table = table(until(&mut events, TagEnd::Table), &alignments);
                if let Some(section) = sections.last_mut() {
                    section.parts.push(Part::Table(table));
                }
            }
            event => text.push(event),
        }
    }
    flush(&mut text, &mut sections);
    sections
}

fn flush(text: &mut Vec<Event>, sections: &mut [Section]) {
    let html = html(std::mem::take(text));
    if let Some(section) = sections.last_mut().filter(|_| !html.trim().is_empty()) {
        section.parts.push(Part::Text { html });
    }
}

/// Without links and pictures.
fn plain<'a>(events: impl Iterator<Item = Event<'a>>) -> impl Iterator<Item = Event<'a>> {
    let mut in_picture = false;
    events.filter(move |event| {
        match event {
            Event::Start(Tag::Image { .. }) => in_picture = true,
            Event::End(TagEnd::Image) => {
                in_picture = false;
                return false;
            }
            Event::Start(Tag::Link { .. }) | Event::End(TagEnd::Link) => return false,
            _ => {}
        }
        !in_picture
    })
}

fn until<'a>(events: &mut impl Iterator<Item = Event<'a>>, end: TagEnd) -> Vec<Event<'a>> {
    events.take_while(|event| *event != Event::End(end)).collect()
}

fn html(events: Vec<Event>) -> String {
    let mut html = String::new();
    push_html(&mut html, events.into_iter());
    html.replace("<p></p>\n", "")
}

fn table(events: Vec<Event>, alignments: &[Alignment]) -> Table {
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut cell = Vec::new();
    for event in events {
        match event {
            Event::Start(Tag::TableHead | Tag::TableRow) => rows.push(Vec::new()),
            Event::End(TagEnd::TableHead | TagEnd::TableRow) | Event::Start(Tag::TableCell) => {}
            Event::End(TagEnd::TableCell) => {
                if let Some(row) = rows.last_mut() {
                    row.push(html(std::mem::take(&mut cell)));
                }
            }
            event => cell.push(event),
        }
    }
    let head = if rows.is_empty() { Vec::new() } else { rows.remove(0) };
    let right = alignments.iter().map(|alignment| *alignment == Alignment::Right).collect();
    let charts = if head.get(2).is_some_and(|name| name == "median") { charts(&rows) } else { Vec::new() };
    Table { head, long: rows.len() > LONG || !charts.is_empty(), rows, right, charts }
}

/// The charts of a table of the benchmark: a case in the first column begins each; then entrants and medians.
fn charts(rows: &[Vec<String>]) -> Vec<Chart> {
    let cases = rows.chunk_by(|_, next| next[0].is_empty());
    let chart = |case: &[Vec<String>]| {
        let (title, note) = case[0][0].rsplit_once(" (")?;
        let unit = note.split(", ").next()?;
        let bar = |row: &Vec<String>| {
            let series = usize::from(!row[1].starts_with("multiproc"));
            Some((row[1].clone(), series, row[2].parse().ok()?))
        };
        let bars: Vec<_> = case.iter().filter_map(bar).collect();
        let is_less = note.contains("less is better");
        let title = format!("{title}: {} is better", if is_less { "less" } else { "more" });
        (bars.len() > 1).then(|| chart::bars(&title, unit, bars))
    };
    cases.filter_map(chart).collect()
}

/// One paragraph as HTML, without the paragraph.
pub fn inline(markdown: &str) -> String {
    html(plain(Parser::new(markdown)).filter(|event| !is_paragraph(event)).collect())
}

fn is_paragraph(event: &Event) -> bool {
    matches!(event, Event::Start(Tag::Paragraph) | Event::End(TagEnd::Paragraph))
}

/// A heading of a README and the paragraph below it, as HTML.
#[derive(Debug)]
pub struct Heading {
    pub line: usize,
    pub title: String,
    pub lead: String,
}

/// The first two levels of headings.
pub fn headings(markdown: &str) -> Vec<Heading> {
    let mut headings: Vec<Heading> = Vec::new();
    let events: Vec<_> = Parser::new(markdown).into_offset_iter().collect();
    for (at, (event, range)) in events.iter().enumerate() {
        let after = || plain(events[at + 1..].iter().map(|(event, _)| event.clone()));
        match event {
            Event::Start(Tag::Heading { level: level @ (HeadingLevel::H1 | HeadingLevel::H2), .. }) => {
                let title = html(until(&mut after(), TagEnd::Heading(*level)));
                let line = markdown[..range.start].matches('\n').count() + 1;
                headings.push(Heading { line, title, lead: String::new() });
            }
            Event::Start(Tag::Paragraph) => {
                let follows = at > 0 && matches!(events[at - 1].0, Event::End(TagEnd::Heading(_)));
                if let Some(heading) = headings.last_mut().filter(|_| follows) {
                    heading.lead = html(until(&mut after(), TagEnd::Paragraph));
                }
            }
            _ => {}
        }
    }
    headings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_sections_of_text_and_tables() {
        let page = "# Page\n\nBy [a tool](x.md).\n\n## One\n\n![c](c.svg)\n\n| a | b |\n|---|--:|\n| `x` | 1 |\n\nEnd.\n";
        let sections = sections(page, "p");
        assert_eq!((sections[0].title.as_str(), sections[1].title.as_str()), ("Page", "One"));
        assert_eq!(sections[1].id, "p-1");
        let [Part::Text { html }] = sections[0].parts.as_slice() else { panic!("{sections:?}") };
        assert_eq!(html, "<p>By a tool.</p>\n");
        let [Part::Table(table), Part::Text { html }] = sections[1].parts.as_slice() else {
            panic!("{sections:?}")
        };
        assert_eq!(
            (&table.head[1], &table.rows[0][0], &table.right[..]),
            (&"b".to_owned(), &"<code>x</code>".to_owned(), &[false, true][..])
        );
        assert_eq!(html, "<p>End.</p>\n");
    }

    #[test]
    fn a_table_of_the_benchmark_has_charts() {
        let page = "| | | median | rounds |\n|---|---|---|---|\n| start (µs, less is better) | multiproc | 186 | x |\n\
            | | procspawn | 1257 | x |\n| | rayon | fails | x |\n| alone (%, more is better) | multiproc | 1 | x |\n";
        let sections = sections(page, "p");
        let [Part::Table(table)] = sections[0].parts.as_slice() else { panic!("{sections:?}") };
        let [chart] = table.charts.as_slice() else { panic!("{table:?}") };
        assert_eq!((chart.title.as_str(), chart.bars.len()), ("start: less is better", 2));
        assert_eq!((chart.bars[0].series, chart.bars[1].series), (0, 1));
    }

    #[test]
    fn a_heading_has_the_paragraph_below() {
        let readme = "# Question 1: why?\n\nThe [answer](x).\n\nMore.\n\n## `fast`: quickly\n\n```\ncode\n```\n\nText.\n";
        let headings = headings(readme);
        assert_eq!(
            (headings[0].title.as_str(), headings[0].lead.as_str()),
            ("Question 1: why?", "The answer.")
        );
        assert_eq!((headings[1].line, headings[1].title.as_str()), (7, "<code>fast</code>: quickly"));
        assert_eq!(headings[1].lead, "");
    }
}

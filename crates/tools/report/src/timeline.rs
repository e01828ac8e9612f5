//! What each process of a run did and when, read from the trace that `MULTIPROC_TRACE` wrote.
//!
//! The trace is Chrome's: an event a line, in no order of time, the last one perhaps cut short.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use experiments::measure::show;
use serde::{Deserialize, Serialize};

/// The rest of the processes is counted only.
const MOST_ROWS: usize = 24;

/// Slices that are closer than this part of the width are drawn as one.
const MERGED: f64 = 0.002;

/// The text of a later tick would stand out.
const LAST_TICK: f64 = 0.97;

/// Lengths and places are percentages of the width.
#[derive(Debug, Serialize)]
pub struct Timeline {
    pub length: String,
    pub ticks: Vec<Tick>,
    pub rows: Vec<Row>,
    /// How many more processes there were.
    pub more: usize,
}

#[derive(Debug, Serialize)]
pub struct Tick {
    pub at: String,
    pub text: String,
}

/// One process.
#[derive(Debug, Serialize)]
pub struct Row {
    pub name: String,
    pub pid: i32,
    pub from: String,
    pub width: String,
    pub slices: Vec<Slice>,
    /// Where it ended; nothing if the trace does not say.
    pub end: Option<String>,
    /// Whether its end was a death: by a signal, or with another code than 0.
    pub died: bool,
    /// The row in words.
    pub summary: String,
}

#[derive(Debug, Serialize)]
pub struct Slice {
    pub state: State,
    pub from: String,
    pub width: String,
    pub title: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Running,
    Starting,
    /// Last, since a wait within a task lies above it.
    Waiting,
}

#[derive(Deserialize)]
struct Event {
    ph: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    cat: String,
    pid: i32,
    #[serde(default)]
    tid: i32,
    /// In microseconds, as `dur`.
    ts: f64,
    #[serde(default)]
    dur: f64,
    #[serde(default)]
    args: Args,
}

#[derive(Default, Deserialize)]
struct Args {
    name: Option<String>,
    cause: Option<String>,
    code: Option<i64>,
    count: Option<u64>,
}

/// The timeline of a trace; nothing if it has no process but the first.
pub fn timeline(trace: &str) -> Option<Timeline> {
    let mut processes: BTreeMap<i32, Vec<Event>> = BTreeMap::new();
    let mut names = BTreeMap::new();
    for event in trace.lines().filter_map(event) {
        match event.args.name {
            Some(name) if event.name == "process_name" => _ = names.insert(event.pid, name),
            _ if event.ph == "M" => {}
            _ => processes.entry(event.pid).or_default().push(event),
        }
    }
    let all = || processes.values().flatten();
    let begin = all().map(|event| event.ts).fold(f64::INFINITY, f64::min);
    let length = all().map(|event| event.ts + event.dur).fold(begin, f64::max) - begin;
    let mut processes: Vec<_> = processes.into_iter().collect();
    processes.sort_by(|(a, of_a), (b, of_b)| {
        let is_child = |pid, events| !is_main(names.get(pid), events);
        is_child(a, of_a).cmp(&is_child(b, of_b)).then(first(of_a).total_cmp(&first(of_b)))
    });
    if processes.len() < 2 || length <= 0.0 {
        return None;
    }
    let scale = Scale { begin, length };
    let rows = processes
        .iter()
        .take(MOST_ROWS)
        .map(|(pid, events)| row(*pid, names.get(pid), events, &scale))
        .collect();
    let more = processes.len().saturating_sub(MOST_ROWS);
    Some(Timeline { length: time(length), ticks: ticks(length), rows, more })
}

fn event(line: &str) -> Option<Event> {
    serde_json::from_str(line.trim().trim_end_matches(',')).ok()
}

fn first(events: &[Event]) -> f64 {
    events.iter().map(|event| event.ts).fold(f64::INFINITY, f64::min)
}

fn is_main(name: Option<&String>, events: &[Event]) -> bool {
    name.is_some_and(|name| name == "main") && !events.iter().any(|event| event.cat == "start")
}

struct Scale {
    begin: f64,
    length: f64,
}

impl Scale {
    fn at(&self, ts: f64) -> f64 {
        (ts - self.begin) / self.length
    }
}

fn row(pid: i32, name: Option<&String>, events: &[Event], scale: &Scale) -> Row {
    let exit = events.iter().find(|event| event.ph == "i" && event.cat == "exit");
    let is_main = is_main(name, events);
    let from = if is_main { 0.0 } else { scale.at(first(events)) };
    // A process whose exit was not seen lived as long as the first one.
    let to = exit.map_or(1.0, |exit| scale.at(exit.ts));
    let mut slices = slices(pid, events, scale);
    if is_main {
        slices.insert(0, Span { state: State::Running, from, to, title: "running".to_owned(), count: 1 });
    }
    let died = exit.is_some_and(|exit| exit.args.code != Some(0));
    let cause = exit.and_then(|exit| exit.args.cause.clone());
    let summary = summary(&slices, scale, cause);
    Row {
        name: name.cloned().unwrap_or_else(|| "process".to_owned()),
        pid,
        from: percent(from),
        width: percent(to - from),
        slices: slices.into_iter().map(Span::shown).collect(),
        end: exit.map(|_| percent(to)),
        died,
        summary,
    }
}

/// How long each state took; a wait within a task counts as waiting alone.
fn summary(slices: &[Span], scale: &Scale, cause: Option<String>) -> String {
    let of = |state| slices.iter().filter(move |slice| slice.state == state);
    let total = |state| of(state).map(Span::length).sum::<f64>();
    let within =
        of(State::Waiting).flat_map(|wait| of(State::Running).map(|run| run.common(wait))).sum::<f64>();
    let states = [
        ("starting", total(State::Starting)),
        ("running", total(State::Running) - within),
        ("waiting", total(State::Waiting)),
    ];
    let states = states.into_iter().filter(|(_, part)| *part > 0.0);
    let states = states.map(|(state, part)| format!("{state} {}", time(part * scale.length)));
    states.chain(cause).collect::<Vec<_>>().join(", ")
}

struct Span {
    state: State,
    from: f64,
    to: f64,
    title: String,
    count: u64,
}

/// What the first thread of a process did, in the order in which it is drawn.
fn slices(pid: i32, events: &[Event], scale: &Scale) -> Vec<Span> {
    let mut spans: Vec<_> = events
        .iter()
        .filter(|event| event.ph == "X" && event.tid == pid)
        .filter_map(|event| {
            let state = match event.cat.as_str() {
                "start" => State::Starting,
                "task" | "item" | "init" => State::Running,
                "wait" => State::Waiting,
                _ => return None,
            };
            let (from, to) = (scale.at(event.ts), scale.at(event.ts + event.dur));
            let title = format!("{} {}", event.name, time(event.dur));
            Some(Span { state, from, to, title, count: event.args.count.unwrap_or(1) })
        })
        .collect();
    spans.sort_by(|a, b| a.state.cmp(&b.state).then(a.from.total_cmp(&b.from)));
    let mut merged: Vec<Span> = Vec::new();
    for span in spans {
        match merged.last_mut() {
            Some(last) if last.state == span.state && span.from - last.to < MERGED => {
                last.to = last.to.max(span.to);
                last.count += span.count;
                last.title = format!("{} times", last.count);
            }
            _ => merged.push(span),
        }
    }
    merged
}

impl Span {
    fn length(&self) -> f64 {
        self.to - self.from
    }

    fn common(&self, other: &Self) -> f64 {
        (self.to.min(other.to) - self.from.max(other.from)).max(0.0)
    }

    fn shown(self) -> Slice {
        let width = percent(self.length().max(MERGED));
        Slice { state: self.state, from: percent(self.from), width, title: self.title }
    }
}

/// Four to nine times at round distances.
fn ticks(length: f64) -> Vec<Tick> {
    let rough = length / 4.0;
    let power = 10_f64.powf(rough.log10().floor());
    let step = [5.0, 2.0, 1.0].into_iter().map(|times| times * power).find(|step| *step <= rough);
    let step = step.unwrap_or(power);
    let places = (0..10).map(|number| f64::from(number) * step).take_while(|at| *at <= length * LAST_TICK);
    places.map(|at| Tick { at: percent(at / length), text: round_time(at, step) }).collect()
}

fn round_time(micros: f64, step: f64) -> String {
    match step {
        1e6.. => format!("{} s", micros / 1e6),
        1e5.. => format!("{:.1} s", micros / 1e6),
        1e3.. => format!("{} ms", micros / 1e3),
        1e2.. => format!("{:.1} ms", micros / 1e3),
        _ => format!("{micros} µs"),
    }
}

fn time(micros: f64) -> String {
    show(Duration::from_secs_f64(micros.max(0.0) / 1e6))
}

fn percent(part: f64) -> String {
    format!("{:.2}%", part.clamp(0.0, 1.0) * 100.0)
}

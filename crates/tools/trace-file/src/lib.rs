//! Reads the timeline that a program writes with `MULTIPROC_TRACE`, and checks that viewers can open it: it is
//! in Chrome's trace event format. `docs/timeline.md` describes the events.

mod check;

use std::collections::{HashMap, HashSet};

use serde::Deserialize;
use serde_json::{Map, Value};

/// The kind of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Phase {
    /// A slice of time.
    #[serde(rename = "X")]
    Slice,
    #[serde(rename = "i")]
    Instant,
    /// The name of a process or a thread.
    #[serde(rename = "M")]
    Name,
}

/// One event. Times are in microseconds.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    #[serde(rename = "ph")]
    pub phase: Phase,
    #[serde(rename = "cat")]
    pub category: String,
    pub name: String,
    pub pid: u32,
    pub tid: u32,
    pub ts: f64,
    pub dur: Option<f64>,
    #[serde(rename = "s")]
    pub scope: Option<String>,
    pub bind_id: Option<String>,
    #[serde(default)]
    pub flow_in: bool,
    #[serde(default)]
    pub flow_out: bool,
    #[serde(default)]
    pub args: Map<String, Value>,
}

impl Event {
    /// The end of a slice; of anything else its time.
    pub fn end(&self) -> f64 {
        self.ts + self.dur.unwrap_or(0.0)
    }

    /// An argument that is a number.
    pub fn number(&self, key: &str) -> Option<u64> {
        self.args.get(key)?.as_u64()
    }

    /// An argument that is a text.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.args.get(key)?.as_str()
    }

    pub fn is_unfinished(&self) -> bool {
        self.args.contains_key("unfinished")
    }
}

/// The events of a file, in its order.
#[derive(Clone, Debug)]
pub struct Trace {
    pub events: Vec<Event>,
}

impl Trace {
    /// Reads and checks the text of a file. A last line that is cut off is left out.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn read(text: &str) -> Result<Self, String> {
        let mut lines = text.split_inclusive('\n').enumerate();
        if lines.next().map(|(_, line)| line) != Some("[\n") {
            return Err("the first line is not an opening bracket".to_owned());
        }
        let whole = lines.filter(|(_, line)| line.ends_with('\n'));
        let parse = |(number, line): (usize, &str)| {
            let event = line.strip_suffix(",\n").ok_or("no comma follows the event".to_owned());
            let event =
                event.and_then(|event| serde_json::from_str(event).map_err(|error| error.to_string()));
            event.map_err(|error| format!("line {}: {error}: {line}", number + 1))
        };
        let trace = Self { events: whole.map(parse).collect::<Result<_, _>>()? };
        check::check(&trace)?;
        Ok(trace)
    }

    pub fn of_category<'t>(&'t self, category: &'t str) -> impl Iterator<Item = &'t Event> {
        self.events.iter().filter(move |event| event.category == category)
    }

    pub fn named<'t>(&'t self, name: &'t str) -> impl Iterator<Item = &'t Event> {
        self.events.iter().filter(move |event| event.name == name)
    }

    /// The number of items in all slices.
    pub fn items(&self) -> u64 {
        self.of_category("item").filter_map(|event| event.number("count")).sum()
    }

    /// An event at the end of an arrow that has no start, results whose arrow passes no item, or a submission
    /// whose arrow ends nowhere although its first item ran. None is in the trace of a program that was not killed.
    pub fn loose_arrow(&self) -> Option<&Event> {
        let starts: HashSet<_> = self
            .events
            .iter()
            .filter(|event| event.flow_out && !event.flow_in)
            .map(|event| &event.bind_id)
            .collect();
        let is_loose = |event: &&Event| event.flow_in && !starts.contains(&event.bind_id);
        self.events
            .iter()
            .find(is_loose)
            .or_else(|| self.result_of_nothing())
            .or_else(|| self.submission_to_nowhere())
    }

    /// Results whose arrow passes no item. An item of a worker that died need not have the arrow.
    fn result_of_nothing(&self) -> Option<&Event> {
        let unharmed = self.unharmed();
        let passed: HashSet<_> = self.of_category("item").map(|item| &item.bind_id).collect();
        let is_of_unharmed = |take: &&Event| {
            let worker = take.number("worker").and_then(|worker| u32::try_from(worker).ok());
            worker.is_some_and(|worker| unharmed.contains(&worker))
        };
        let mut takes = self.named("take").filter(|take| take.flow_in).filter(is_of_unharmed);
        takes.find(|take| !passed.contains(&take.bind_id))
    }

    /// The processes that ended with exit code 0.
    fn unharmed(&self) -> HashSet<u32> {
        self.named("exit").filter(|exit| exit.number("code") == Some(0)).map(|exit| exit.pid).collect()
    }

    /// A submission whose first item has a slice without its arrow. Items that were taken back have no slice there,
    /// and those of a worker that died need not have the arrow.
    fn submission_to_nowhere(&self) -> Option<&Event> {
        let unharmed = self.unharmed();
        let mut submissions: HashMap<_, Vec<&Event>> = HashMap::new();
        for submit in self.named("submit") {
            submissions.entry(submit.number("worker")).or_default().push(submit);
        }
        let items = self.of_category("item").filter(|item| !item.flow_in && unharmed.contains(&item.pid));
        items.into_iter().find_map(|item| {
            let index = item.number("index")?;
            let is_its = |submit: &&&Event| {
                let (first, count) = (submit.number("index"), submit.number("count"));
                let range = first.zip(count).map(|(first, count)| first..first.saturating_add(count));
                submit.ts <= item.ts && range.is_some_and(|range| range.contains(&index))
            };
            let own = submissions.get(&Some(u64::from(item.pid)))?.iter().filter(is_its);
            own.max_by(|one, other| one.ts.total_cmp(&other.ts))
                .filter(|its| its.number("index") == Some(index))
                .copied()
        })
    }

    /// How many events of a process or of all were lost, by what the file says.
    pub fn lost(&self) -> u64 {
        self.named("lost").filter_map(|event| event.number("count")).sum()
    }

    /// The names of the processes. The last one that the file has counts.
    pub fn names(&self) -> HashMap<u32, &str> {
        self.named("process_name").filter_map(|event| Some((event.pid, event.text("name")?))).collect()
    }
}

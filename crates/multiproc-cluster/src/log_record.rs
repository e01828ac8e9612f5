//! Feature `log`: a log record of a task, on its way from the task's host to its caller.

use std::fmt;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use log::kv::{Error, Key, Source, Value, VisitSource};
use log::{Level, Record};
use serde::{Deserialize, Serialize};

/// What an agent sends to a caller.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum LogMessage {
    Record(LogRecord),
    /// The number of records that it could not send.
    Lost(u64),
}

/// The bytes of the records that wait in a queue.
#[derive(Default)]
pub(crate) struct QueuedBytes(AtomicUsize);

/// The most of them.
const MAX_QUEUED_BYTES: usize = 16 << 20;

impl QueuedBytes {
    /// False if there is no room for the record.
    pub(crate) fn add(&self, record: &LogRecord) -> bool {
        let add = |bytes: usize| bytes.checked_add(record.len()).filter(|bytes| *bytes <= MAX_QUEUED_BYTES);
        self.0.fetch_update(Relaxed, Relaxed, add).is_ok()
    }

    pub(crate) fn remove(&self, record: &LogRecord) {
        self.0.fetch_sub(record.len(), Relaxed);
    }
}

/// As [`log::Record`], and where it comes from.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LogRecord {
    pub(crate) level: u8,
    /// The number of the task's item, if it has one.
    pub(crate) item: Option<u64>,
    host: String,
    /// The name and the id of the process, if it is not the agent's own.
    process: Option<(String, u64)>,
    target: String,
    module: Option<String>,
    file: Option<String>,
    line: Option<u32>,
    text: String,
    values: Vec<(String, String)>,
}

impl LogRecord {
    /// A record that an agent's logger gets. Of a child's, the local pool has put process and item in front of the text
    /// and of the key-values.
    pub(crate) fn new(record: &Record<'_>, host: &str) -> Self {
        let mut found = KeyValues::default();
        let _ = record.key_values().visit(&mut found);
        let KeyValues { process, pid, item, values } = found;
        let mut new = Self {
            level: record.level() as u8,
            item,
            host: host.to_owned(),
            process: process.zip(pid),
            target: record.target().to_owned(),
            module: record.module_path().map(str::to_owned),
            file: record.file().map(str::to_owned),
            line: record.line(),
            text: record.args().to_string(),
            values,
        };
        if let Some(text) = new.text.strip_prefix(&new.place()) {
            new.text = text.to_owned();
        }
        new
    }

    /// Passes it to this process's logger.
    pub(crate) fn log(&self) {
        let Some(level) = self.level().filter(|level| *level <= log::max_level()) else { return };
        let mut record = Record::builder();
        record.level(level).target(&self.target).line(self.line).key_values(self);
        record.module_path(self.module.as_deref()).file(self.file.as_deref());
        let (host, place, text) = (&self.host, self.place(), &self.text);
        log::logger().log(&record.args(format_args!("host {host}: {place}{text}")).build());
    }

    /// Its bytes, about.
    pub(crate) fn len(&self) -> usize {
        let values: usize = self.values.iter().map(|(key, value)| key.len() + value.len()).sum();
        let optional = [&self.module, &self.file].into_iter().flatten().map(String::len).sum::<usize>();
        size_of::<Self>() + self.host.len() + self.target.len() + self.text.len() + values + optional
    }

    fn level(&self) -> Option<Level> {
        Level::iter().find(|level| *level as u8 == self.level)
    }

    /// What the text begins with: the process, and the item.
    fn place(&self) -> String {
        match (&self.process, self.item) {
            (Some((process, pid)), Some(item)) => format!("{process}[{pid}] item {item}: "),
            (Some((process, pid)), None) => format!("{process}[{pid}]: "),
            (None, _) => String::new(),
        }
    }
}

/// As an agent prints it.
impl fmt::Display for LogRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = self.level().unwrap_or(Level::Error);
        write!(f, "host {}: [{level} {}] {}{}", self.host, self.target, self.place(), self.text)?;
        self.values.iter().try_for_each(|(key, value)| write!(f, " {key}={value}"))
    }
}

/// The record's own key-values, and `host`, `process`, `pid`, `item`.
impl Source for LogRecord {
    fn visit<'kvs>(&'kvs self, visitor: &mut dyn VisitSource<'kvs>) -> Result<(), Error> {
        visitor.visit_pair(Key::from_str("host"), Value::from(&*self.host))?;
        if let Some((process, pid)) = &self.process {
            visitor.visit_pair(Key::from_str("process"), Value::from(&**process))?;
            visitor.visit_pair(Key::from_str("pid"), Value::from(*pid))?;
        }
        if let Some(item) = self.item {
            visitor.visit_pair(Key::from_str("item"), Value::from(item))?;
        }
        self.values
            .iter()
            .try_for_each(|(key, value)| visitor.visit_pair(Key::from_str(key), Value::from(value.as_str())))
    }
}

#[derive(Default)]
struct KeyValues {
    process: Option<String>,
    pid: Option<u64>,
    item: Option<u64>,
    /// The task's own.
    values: Vec<(String, String)>,
}

impl<'kvs> VisitSource<'kvs> for KeyValues {
    /// The first ones are those of the local pool. The task itself may have some of these names: all of them are texts.
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        let number = value.to_u64();
        match (key.as_str(), number) {
            ("process", _) if self.process.is_none() && self.values.is_empty() => {
                self.process = Some(value.to_string());
            }
            ("pid", Some(_)) if self.pid.is_none() && self.process.is_some() => self.pid = number,
            ("item", Some(_)) if self.item.is_none() && self.pid.is_some() => self.item = number,
            (key, _) => self.values.push((key.to_owned(), value.to_string())),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(values: &dyn Source, text: &str) -> LogRecord {
        let mut record = Record::builder();
        record.level(Level::Warn).target("t").key_values(values);
        LogRecord::new(&record.args(format_args!("{text}")).build(), "h")
    }

    #[test]
    fn process_and_item_are_told_apart_from_the_tasks_own_values() {
        let values = [
            ("process", Value::from("w")),
            ("pid", Value::from(7)),
            ("item", Value::from(3)),
            ("item", Value::from("its own")),
            ("pid", Value::from(9)),
        ];
        let record = new(&&values[..], "w[7] item 3: text");
        assert_eq!((record.item, &*record.text), (Some(3), "text"));
        assert_eq!(record.to_string(), "host h: [WARN t] w[7] item 3: text item=its own pid=9");
        let values = [&values[..2], &values[3..]].concat();
        let record = new(&&values[..], "w[7]: text");
        assert_eq!(record.to_string(), "host h: [WARN t] w[7]: text item=its own pid=9");
    }

    #[test]
    fn a_record_of_the_agent_itself_has_no_process() {
        let record = new(&[("left", 3)], "w[7]: text");
        assert_eq!(record.to_string(), "host h: [WARN t] w[7]: text left=3");
    }
}

//! A log record on its way between two processes.

use std::borrow::Cow;
use std::fmt::Write;

use log::kv::{self, Key, Value, VisitSource};
use log::{Level, Record};

use crate::error::Result;
use crate::impl_serde::impl_serde;
use crate::ipc::scratch::Scratch;
use crate::ipc::wire;

/// A longer text is cut.
const LONGEST_TEXT: usize = 64 * 1024;

/// As [`log::Record`], and which process and task it is of.
#[derive(Debug)]
pub(super) struct SentRecord<'a> {
    pub(super) process: Cow<'a, str>,
    pub(super) pid: u32,
    /// The index of the item that a pool's worker was running.
    pub(super) item: Option<u64>,
    pub(super) level: u8,
    pub(super) target: Cow<'a, str>,
    pub(super) module: Option<Cow<'a, str>>,
    pub(super) file: Option<Cow<'a, str>>,
    pub(super) line: Option<u32>,
    pub(super) text: Cow<'a, str>,
    pub(super) values: Vec<(String, String)>,
}

impl_serde!(struct SentRecord<'a> where ['a] {
    process, pid, item, level, target, module, file, line, text, values,
});

impl<'a> SentRecord<'a> {
    pub(super) fn new(record: &'a Record<'a>, process: &'a str, pid: u32, item: Option<u64>) -> Self {
        let mut text = record.args().as_str().map_or_else(
            || {
                let mut text = String::new();
                let _ = write!(text, "{}", record.args());
                Cow::Owned(text)
            },
            Cow::Borrowed,
        );
        if let Some(short) = shortened(&text) {
            text = Cow::Owned(short);
        }
        let mut values = Values(Vec::new());
        let _ = record.key_values().visit(&mut values);
        Self {
            process: process.into(),
            pid,
            item,
            level: record.level() as u8,
            target: record.target().into(),
            module: record.module_path().map(Cow::Borrowed),
            file: record.file().map(Cow::Borrowed),
            line: record.line(),
            text,
            values: values.0,
        }
    }

    /// Passes the encoded record to `send`.
    pub(super) fn encode(&self, send: impl FnOnce(&[u8])) {
        let mut buffer = Scratch::borrow();
        if wire::encode_internal(self, &mut buffer.0, "a log record").is_ok() {
            send(&buffer.0);
        }
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self> {
        wire::decode_internal(bytes, Vec::new(), "a log record")
    }

    /// Passes it to this process's logger.
    pub(super) fn log(&self) {
        let Some(level) = Level::iter().find(|level| *level as u8 == self.level) else { return };
        if level > log::max_level() {
            return;
        }
        let mut record = Record::builder();
        record.level(level).target(&self.target).line(self.line).key_values(self);
        record.module_path(self.module.as_deref()).file(self.file.as_deref());
        let Self { process, pid, text, .. } = self;
        match self.item {
            Some(item) => {
                log::logger().log(&record.args(format_args!("{process}[{pid}] item {item}: {text}")).build());
            }
            None => log::logger().log(&record.args(format_args!("{process}[{pid}]: {text}")).build()),
        }
    }
}

/// The record's own key-values, and `process`, `pid`, `item`.
impl kv::Source for SentRecord<'_> {
    fn visit<'kvs>(&'kvs self, visitor: &mut dyn VisitSource<'kvs>) -> Result<(), kv::Error> {
        visitor.visit_pair(Key::from_str("process"), Value::from(&*self.process))?;
        visitor.visit_pair(Key::from_str("pid"), Value::from(self.pid))?;
        if let Some(item) = self.item {
            visitor.visit_pair(Key::from_str("item"), Value::from(item))?;
        }
        self.values
            .iter()
            .try_for_each(|(key, value)| visitor.visit_pair(Key::from_str(key), Value::from(value.as_str())))
    }
}

/// A text that is too long, cut.
fn shortened(text: &str) -> Option<String> {
    (text.len() > LONGEST_TEXT).then(|| {
        let end = (0..=LONGEST_TEXT).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
        text[..end].to_owned() + " …"
    })
}

struct Values(Vec<(String, String)>);

impl<'kvs> VisitSource<'kvs> for Values {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        let value = value.to_string();
        self.0.push((key.to_string(), shortened(&value).unwrap_or(value)));
        Ok(())
    }
}

//! One event as a line of JSON, in Chrome's trace event format.

use std::fmt::Write;

/// A longer name or text is cut.
const LONGEST_TEXT: usize = 512;

/// The track of an event: a process, and one of its threads. The first thread has the number of its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Track {
    pub(super) pid: u32,
    pub(super) tid: u32,
}

impl Track {
    pub(super) fn of_process(pid: u32) -> Self {
        Self { pid, tid: pid }
    }
}

/// A line that is being written.
pub(super) struct Event {
    line: String,
    has_args: bool,
}

impl Event {
    /// A slice of time on a track. The times are in nanoseconds of the monotonic clock.
    pub(super) fn slice(category: &str, name: &str, track: Track, (begin, end): (u64, u64)) -> Self {
        Self::slice_after(&slice_prefix(category, name, track), (begin, end))
    }

    /// A slice with what [`slice_prefix`] gives.
    pub(super) fn slice_after(prefix: &str, (begin, end): (u64, u64)) -> Self {
        let mut line = String::with_capacity(prefix.len() + 128);
        line.push_str(prefix);
        push_micros(&mut line, begin);
        line.push_str(",\"dur\":");
        push_micros(&mut line, end.saturating_sub(begin));
        Self { line, has_args: false }
    }

    /// Something that happened to a process.
    pub(super) fn instant(category: &str, name: &str, pid: u32, at: u64) -> Self {
        let mut line = prefix('i', category, name, Track::of_process(pid));
        push_micros(&mut line, at);
        line.push_str(",\"s\":\"p\"");
        Self { line, has_args: false }
    }

    /// The name of a process or of a thread.
    pub(super) fn name(kind: &str, track: Track, name: &str) -> Self {
        let mut line = prefix('M', "__metadata", kind, track);
        line.push('0');
        Self { line, has_args: false }.text("name", name)
    }

    /// Binds a slice to others with the same number by arrows: it is the end of one, the start of one, or
    /// both. Call it before arguments are added.
    pub(super) fn flow(mut self, id: u64, is_end: bool, is_start: bool) -> Self {
        let _ = write!(self.line, ",\"bind_id\":\"{id:#x}\"");
        for (key, is_set) in [("flow_in", is_end), ("flow_out", is_start)] {
            if is_set {
                let _ = write!(self.line, ",\"{key}\":true");
            }
        }
        self
    }

    /// Adds a number as an argument.
    pub(super) fn number(self, key: &str, value: i32) -> Self {
        self.arg(key, |line| line.push_str(&value.to_string()))
    }

    pub(super) fn count(self, key: &str, value: impl Into<u64>) -> Self {
        self.arg(key, |line| push_number(line, value.into()))
    }

    pub(super) fn flag(self, key: &str) -> Self {
        self.arg(key, |line| line.push_str("true"))
    }

    pub(super) fn text(self, key: &str, value: &str) -> Self {
        self.arg(key, |line| push_text(line, value))
    }

    fn arg(mut self, key: &str, push: impl FnOnce(&mut String)) -> Self {
        self.line.push_str(if self.has_args { ",\"" } else { ",\"args\":{\"" });
        self.line.push_str(key);
        self.line.push_str("\":");
        push(&mut self.line);
        self.has_args = true;
        self
    }

    /// The whole line. The comma separates it from the next one, and readers accept it after the last one.
    pub(super) fn end(mut self) -> String {
        self.line.push_str(if self.has_args { "}},\n" } else { "},\n" });
        self.line
    }
}

/// The beginning of a slice, which is the same for many.
pub(super) fn slice_prefix(category: &str, name: &str, track: Track) -> String {
    prefix('X', category, name, track)
}

fn prefix(phase: char, category: &str, name: &str, Track { pid, tid }: Track) -> String {
    let mut line = format!("{{\"ph\":\"{phase}\",\"cat\":\"{category}\",\"name\":");
    push_text(&mut line, name);
    let _ = write!(line, ",\"pid\":{pid},\"tid\":{tid},\"ts\":");
    line
}

/// Microseconds with three decimals.
fn push_micros(line: &mut String, nanos: u64) {
    push_number(line, nanos / 1000);
    let rest = u8::try_from(nanos % 1000 / 100).unwrap_or(0);
    line.push('.');
    line.push((b'0' + rest).into());
    for divisor in [10, 1] {
        line.push((b'0' + u8::try_from(nanos / divisor % 10).unwrap_or(0)).into());
    }
}

/// As `write!` does it, in a third of the time.
fn push_number(line: &mut String, mut number: u64) {
    let mut digits = [b'0'; 20];
    let mut start = digits.len();
    while start == digits.len() || number > 0 {
        start -= 1;
        digits[start] = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
    }
    line.push_str(std::str::from_utf8(&digits[start..]).unwrap_or_default());
}

/// A JSON string.
fn push_text(line: &mut String, text: &str) {
    line.push('"');
    for sign in cut(text).chars() {
        match sign {
            '"' | '\\' => line.extend(['\\', sign]),
            '\0'..='\x1f' => {
                let _ = write!(line, "\\u{:04x}", u32::from(sign));
            }
            _ => line.push(sign),
        }
    }
    line.push('"');
}

/// The text, or the first [`LONGEST_TEXT`] bytes of it at most.
pub(super) fn cut(text: &str) -> &str {
    let end = (0..=LONGEST_TEXT.min(text.len())).rev().find(|&end| text.is_char_boundary(end));
    &text[..end.unwrap_or(0)]
}

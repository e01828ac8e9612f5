//! One expected line: fixed text and placeholders.

use std::{fmt, ops::RangeInclusive};

/// A line of a console block. The placeholders are those of [`Kind`]; any other `[...]` is fixed text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    pub parts: Vec<Part>,
}

/// A piece of a line, and how it is written there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    pub text: String,
    pub kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The text itself.
    Fixed,
    /// `[..]`: anything within the line.
    Anything,
    /// `[NUMBER]`: an integer.
    Number,
    /// `[PID]`: a positive integer.
    Pid,
    /// `[SECONDS]`: digits with exactly three decimals.
    Seconds,
    /// `[1..=100]`: an integer of this range.
    Range(RangeInclusive<i128>),
    /// `[ANY ORDER: 9 16 25]`: these words in any order, a single space between them. They are kept sorted.
    Words(Vec<String>),
}

impl Pattern {
    pub fn parse(line: &str) -> Self {
        let mut parts: Vec<Part> = Vec::new();
        let mut rest = line;
        while !rest.is_empty() {
            let part = placeholder(rest).unwrap_or_else(|| {
                let end = rest.match_indices('[').map(|(at, _)| at).find(|&at| at > 0).unwrap_or(rest.len());
                Part { text: rest[..end].to_owned(), kind: Kind::Fixed }
            });
            rest = &rest[part.text.len()..];
            match parts.last_mut() {
                Some(last) if last.kind == Kind::Fixed && part.kind == Kind::Fixed => last.text += &part.text,
                _ => parts.push(part),
            }
        }
        Self { parts }
    }

    pub fn fits(&self, line: &str) -> bool {
        self.numbers(line).is_some()
    }

    /// If the line fits: the numbers that stand where the placeholders are. A measured time is not among
    /// them, for it is not promised that two of those differ.
    pub fn numbers<'l>(&self, line: &'l str) -> Option<Vec<&'l str>> {
        let is_number = |kind: &Kind| matches!(kind, Kind::Number | Kind::Pid | Kind::Range(_));
        self.found(line, is_number)
    }

    /// The measured times, in seconds, that stand in a line that fits.
    pub fn times(&self, line: &str) -> Vec<f64> {
        let times = self.found(line, |kind| *kind == Kind::Seconds).unwrap_or_default();
        times.into_iter().filter_map(|time| time.parse().ok()).collect()
    }

    /// If the line fits: what stands in it for the placeholders of some kinds.
    fn found<'l>(&self, line: &'l str, kinds: fn(&Kind) -> bool) -> Option<Vec<&'l str>> {
        let mut found = Vec::new();
        fit(&self.parts, line, kinds, &mut found).then_some(found)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.parts.iter().try_for_each(|part| f.write_str(&part.text))
    }
}

fn fit<'l>(parts: &[Part], line: &'l str, kinds: fn(&Kind) -> bool, found: &mut Vec<&'l str>) -> bool {
    let Some((part, others)) = parts.split_first() else { return line.is_empty() };
    let before = found.len();
    part.ends(line).into_iter().any(|end| {
        found.truncate(before);
        if kinds(&part.kind) {
            found.push(&line[..end]);
        }
        fit(others, &line[end..], kinds, found)
    })
}

impl Part {
    /// Every place at which this part can end, if it begins where `text` does.
    fn ends(&self, text: &str) -> Vec<usize> {
        if self.kind == Kind::Anything {
            return text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
        }
        let end = match &self.kind {
            Kind::Fixed | Kind::Anything => text.starts_with(&self.text).then_some(self.text.len()),
            Kind::Number => integer(text),
            Kind::Pid => integer(text).filter(|_| !text.starts_with(['-', '0'])),
            Kind::Seconds => seconds(text),
            Kind::Range(range) => {
                integer(text).filter(|&end| text[..end].parse().is_ok_and(|number| range.contains(&number)))
            }
            Kind::Words(words) => these_words(words, text),
        };
        end.into_iter().collect()
    }
}

/// The placeholder that `text` begins with, if it does.
fn placeholder(text: &str) -> Option<Part> {
    let inner = text.strip_prefix('[')?.split_once(']')?.0;
    let kind = match inner {
        ".." => Kind::Anything,
        "NUMBER" => Kind::Number,
        "PID" => Kind::Pid,
        "SECONDS" => Kind::Seconds,
        _ => words(inner).or_else(|| range(inner))?,
    };
    Some(Part { text: format!("[{inner}]"), kind })
}

fn words(inner: &str) -> Option<Kind> {
    let mut words: Vec<_> = inner.strip_prefix("ANY ORDER: ")?.split(' ').map(str::to_owned).collect();
    words.sort();
    Some(Kind::Words(words))
}

fn range(inner: &str) -> Option<Kind> {
    let (first, last) = inner.split_once("..=")?;
    Some(Kind::Range(first.parse().ok()?..=last.parse().ok()?))
}

/// Where the integer ends that `text` begins with: all its digits, written as Rust writes them.
fn integer(text: &str) -> Option<usize> {
    let sign = usize::from(text.starts_with('-'));
    let digits = digits(&text[sign..]);
    let plain = if text[sign..].starts_with('0') { digits == 1 && sign == 0 } else { digits > 0 };
    plain.then_some(sign + digits)
}

fn seconds(text: &str) -> Option<usize> {
    let whole = integer(text).filter(|_| !text.starts_with('-'))?;
    let decimals = text[whole..].strip_prefix('.')?;
    (digits(decimals) == 3).then_some(whole + 1 + 3)
}

fn digits(text: &str) -> usize {
    text.bytes().take_while(u8::is_ascii_digit).count()
}

fn these_words(sorted: &[String], text: &str) -> Option<usize> {
    let length = sorted.iter().map(String::len).sum::<usize>() + sorted.len() - 1;
    let mut words: Vec<_> = text.get(..length)?.split(' ').collect();
    words.sort_unstable();
    (words == *sorted).then_some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(pattern: &str, line: &str) -> bool {
        Pattern::parse(pattern).fits(line)
    }

    #[test]
    fn fixed_text_fits_itself_only() {
        for text in ["", "a line", "[1, 8, 27]", "[", "[[]", "[NUMBER", "[1..=x]", "[..=3]", "é [é] é"] {
            assert!(fits(text, text), "{text}");
            assert!(!fits(text, &format!("{text} ")), "{text}");
            assert!(!fits(text, &format!(" {text}")), "{text}");
            assert_eq!(Pattern::parse(text).to_string(), text);
        }
    }

    #[test]
    fn anything_stays_within_its_neighbours() {
        assert!(fits("[..]", ""));
        assert!(fits("a[..]b[..]c", "a b bc c"));
        assert!(!fits("a[..]b[..]c", "a c b"));
        assert!(fits("é[..]é", "éüé"));
    }

    #[test]
    fn numbers_are_whole_and_written_plainly() {
        for good in ["0", "7", "-7", "123456789012345678901234567890123456789012345678901234567890"] {
            assert!(fits("[NUMBER]", good), "{good}");
        }
        for bad in ["", "-", "+7", "07", "-0", "7.5", "1 2", "x", "1e3", " 7"] {
            assert!(!fits("[NUMBER]", bad), "{bad}");
        }
        assert!(fits("[[NUMBER], 8]", "[1, 8]"));
        assert!(!fits("[NUMBER]5", "125"), "a number takes all its digits");
    }

    #[test]
    fn a_pid_is_positive() {
        assert!(fits("[PID]", "4711"));
        assert!(!fits("[PID]", "0"));
        assert!(!fits("[PID]", "-1"));
    }

    #[test]
    fn seconds_have_three_decimals() {
        assert!(fits("[SECONDS] s", "3.012 s"));
        assert!(fits("[SECONDS]", "0.000"));
        for bad in ["3.01", "3.0123", "3", "3,012", "-3.012", "03.012", ".012"] {
            assert!(!fits("[SECONDS]", bad), "{bad}");
            assert!(!fits("[SECONDS][..]", bad), "{bad}");
        }
    }

    #[test]
    fn a_range_includes_both_its_ends() {
        for good in ["1", "100", "42"] {
            assert!(fits("[1..=100]", good), "{good}");
        }
        for bad in ["0", "101", "-1", "1000", "", "4711471147114711471147114711471147114711471147114711"] {
            assert!(!fits("[1..=100]", bad), "{bad}");
        }
        assert!(fits("[-5..=-3]", "-4"));
    }

    #[test]
    fn words_come_in_any_order_each_once() {
        for good in ["9 16 25", "25 9 16"] {
            assert!(fits("squares: [ANY ORDER: 9 16 25].", &format!("squares: {good}.")), "{good}");
        }
        for bad in ["9 16", "9 16 25 9", "9 9 25", "9  16 25", "9 16 25 ", "91 6 25"] {
            assert!(!fits("[ANY ORDER: 9 16 25]", bad), "{bad}");
        }
    }

    #[test]
    fn the_numbers_are_those_of_the_placeholders() {
        let pattern = Pattern::parse("7 [NUMBER] [PID] [1..=9] in [SECONDS] s[..]");
        assert_eq!(pattern.numbers("7 -3 12 5 in 1.000 s 8"), Some(vec!["-3", "12", "5"]));
        assert_eq!(pattern.numbers("7 -3 12 0 in 1.000 s 8"), None);
        // What was tried in vain leaves nothing.
        assert_eq!(Pattern::parse("[..][NUMBER] x [NUMBER]").numbers("1 2 x 3"), Some(vec!["2", "3"]));
    }
}

//! Errors of a bounded size, for records.

use std::fmt::Write;

use super::cause::Origin;
use super::{Cause, Error};

impl Error {
    /// The same error with at most `bytes` of a panic's message, as many of its backtrace and of the name of its
    /// process, and the latest `attempts`. A text that is cut says so at its end.
    pub(crate) fn shortened(&self, bytes: usize, attempts: usize) -> Self {
        let earlier = self.attempts();
        let latest = earlier.get(earlier.len().saturating_sub(attempts)..).unwrap_or_default();
        let latest: Vec<_> = latest.iter().map(|death| death.shortened(bytes, 0)).collect();
        let mut error = self.clone().with_attempts(&latest);
        if let Cause::Panic { message, backtrace, .. } = &mut error.0.cause {
            cut(message, bytes);
            if let Some(backtrace) = backtrace {
                cut(backtrace, bytes);
            }
        }
        if let Some(Origin::Process { name, .. }) = &mut error.0.origin {
            cut(name, bytes);
        }
        error
    }
}

fn cut(text: &mut String, bytes: usize) {
    let length = text.len();
    if length > bytes {
        let end = (0..=bytes).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
        text.truncate(end);
        let _ = write!(text, "… (cut: it has {length} bytes)"); // to a string: cannot fail
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_two_characters_and_says_so() {
        for (text, expected) in [
            ("", ""),
            ("abcd", "abcd"),
            ("abcde", "abcd… (cut: it has 5 bytes)"),
            ("abcüe", "abc… (cut: it has 6 bytes)"),
        ] {
            let mut shortened = text.to_owned();
            cut(&mut shortened, 4);
            assert_eq!(shortened, expected);
        }
    }

    #[test]
    fn the_latest_attempts_are_kept() {
        let deaths: Vec<_> = (1..=5).map(|signal| Error::new(Cause::Signal(signal))).collect();
        let error = Error::new(Cause::Signal(6)).with_attempts(&deaths);
        let signals = |error: Error| error.attempts().iter().filter_map(Error::signal).collect::<Vec<_>>();
        assert_eq!(signals(error.shortened(0, 2)), [4, 5]);
        assert_eq!(signals(error.shortened(0, 9)), [1, 2, 3, 4, 5]);
    }
}

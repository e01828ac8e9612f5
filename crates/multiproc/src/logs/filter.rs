//! Which records a child sends: those that the first process's logger wants, as far as that can be told.

use std::env::var;

use log::{Level, LevelFilter, Metadata};

use crate::impl_serde::impl_serde;
use crate::sys::process_local::ProcessLocal;

/// `log::max_level()` of the first process; and the directives of `RUST_LOG`, if its logger goes by them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Filter {
    max: u8,
    directives: Vec<Directive>,
}

impl_serde!(struct Filter { max, directives });

/// The beginning of targets, and the highest level (0: none).
type Directive = (String, u8);

impl Filter {
    /// The filter of this process. `None` if nothing is wanted.
    pub(super) fn of_this_process() -> Option<Self> {
        static FROM_ENVIRONMENT: ProcessLocal<Vec<Directive>> = ProcessLocal::new(|inherited| {
            inherited.map_or_else(|| parse(&var("RUST_LOG").unwrap_or_default()), Clone::clone)
        });
        let max = log::max_level();
        if max == LevelFilter::Off {
            return None;
        }
        let found = FROM_ENVIRONMENT.get();
        let is_enabled = |target: &str, level: Level| {
            log::logger().enabled(&Metadata::builder().target(target).level(level).build())
        };
        let directives = if is_followed(found, max, is_enabled) { found.clone() } else { Vec::new() };
        Some(Self { max: max as u8, directives })
    }

    pub(super) fn max_level(&self) -> LevelFilter {
        filter_of(self.max)
    }

    pub(super) fn wants(&self, metadata: &Metadata<'_>) -> bool {
        let level = metadata.level() as u8;
        level <= self.max
            && (self.directives.is_empty() || level <= level_of(&self.directives, metadata.target()))
    }
}

/// The level of a target: that of the longest directive.
fn level_of(directives: &[Directive], target: &str) -> u8 {
    directives.iter().rev().find(|(name, _)| target.starts_with(&**name)).map_or(0, |(_, level)| *level)
}

/// Whether a logger does as the directives say, as far as each of them shows. Another logger may not read
/// `RUST_LOG` at all, or have rules beside it, of which a higher maximum is a sign.
fn is_followed(directives: &[Directive], max: LevelFilter, is_enabled: impl Fn(&str, Level) -> bool) -> bool {
    if directives.iter().all(|(_, level)| *level < max as u8) {
        return false;
    }
    let beginnings = directives.iter().map(|(name, _)| &**name);
    beginnings.chain(["a target that no directive names"]).all(|target| {
        let most = level_of(directives, target);
        Level::iter()
            .filter(|level| *level <= max)
            .all(|level| is_enabled(target, level) == (level as u8 <= most))
    })
}

/// The directives of `env_logger`, the shortest name first: `level`, `target` or `target=level`, between
/// commas. Empty if there is something else.
fn parse(text: &str) -> Vec<Directive> {
    let list = text.split('/').next().unwrap_or_default(); // a regular expression may follow
    let mut directives = Vec::new();
    for directive in list.split(',').map(str::trim).filter(|directive| !directive.is_empty()) {
        let (name, level) = match directive.split_once('=') {
            Some((name, level)) => (name, level.parse()),
            None => match directive.parse() {
                Ok(level) => ("", Ok(level)),
                Err(_) => (directive, Ok(LevelFilter::Trace)),
            },
        };
        let (false, Ok(level)) = (name.contains(['[', '{']), level) else { return Vec::new() };
        directives.push((name.to_owned(), level as u8));
    }
    directives.sort_by_key(|(name, _)| name.len());
    directives
}

fn filter_of(level: u8) -> LevelFilter {
    LevelFilter::iter().find(|filter| *filter as u8 == level).unwrap_or(LevelFilter::Off)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(text: &str, max: LevelFilter) -> Filter {
        Filter { max: max as u8, directives: parse(text) }
    }

    #[test]
    fn the_longest_directive_decides() {
        let filter = filter("warn,app=debug,app::net=off", LevelFilter::Debug);
        let wants = |target, level| filter.wants(&Metadata::builder().target(target).level(level).build());
        assert!(wants("other", Level::Warn) && !wants("other", Level::Info));
        assert!(wants("app::io", Level::Debug) && !wants("app::io", Level::Trace));
        assert!(!wants("app::net::tcp", Level::Error));
        assert_eq!(filter.max_level(), LevelFilter::Debug);
    }

    #[test]
    fn what_is_not_env_loggers_is_no_filter() {
        assert_eq!(parse("app"), [("app".to_owned(), 5)]);
        assert_eq!(parse("a=info,INFO/text"), [(String::new(), 3), ("a".to_owned(), 3)]);
        for text in ["", "app[span]=info", "app=loud", "/text"] {
            assert_eq!(parse(text), [], "{text}");
        }
        let all = filter("app=loud", LevelFilter::Info);
        assert!(all.wants(&Metadata::builder().target("x").level(Level::Info).build()));
    }

    #[test]
    fn a_logger_that_does_not_read_the_environment_is_recognised() {
        let found = parse("app=debug,warn");
        let reads = |target: &str, level: Level| level as u8 <= level_of(&found, target);
        assert!(is_followed(&found, LevelFilter::Debug, reads));
        assert!(
            !is_followed(&found, LevelFilter::Trace, reads),
            "the logger has another rule for some target"
        );
        assert!(!is_followed(&found, LevelFilter::Trace, |_, level| level <= Level::Info));
        assert!(!is_followed(&found, LevelFilter::Info, |_, _| true), "all of a lower maximum");
    }
}

//! Environment variables: those of this process, and those of an executed child.

use std::env::{remove_var, vars_os};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;

use crate::error::{Error, Result};

/// Changes to this process's environment for a child; the latest one of a variable counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct EnvChanges(Vec<(OsString, Option<OsString>)>);

impl EnvChanges {
    /// Without a value, the child does not have the variable.
    pub(crate) fn change(&mut self, name: &OsStr, value: Option<&OsStr>) {
        self.0.retain(|(known, _)| known != name);
        self.0.push((name.to_owned(), value.map(OsStr::to_owned)));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// An error if there can be no such variable.
    pub(crate) fn check(&self) -> Result<()> {
        let has = |text: &OsStr, bytes: &[u8]| text.as_bytes().iter().any(|byte| bytes.contains(byte));
        for (name, value) in &self.0 {
            if name.is_empty() || has(name, b"=\0") {
                let name = name.display();
                return Err(Error::invalid(format!("\"{name}\" cannot be an environment variable's name")));
            }
            if value.as_ref().is_some_and(|value| has(value, b"\0")) {
                let name = name.display();
                return Err(Error::invalid(format!(
                    "the environment variable {name} cannot hold a zero byte"
                )));
            }
        }
        Ok(())
    }

    /// `NAME=value` for each variable of the child.
    pub(crate) fn applied(&self) -> impl Iterator<Item = OsString> {
        let is_changed = |name: &OsStr| self.0.iter().any(|(known, _)| known == name);
        let kept = vars_os().filter(move |(name, _)| !is_changed(name));
        let set = self.0.iter().filter_map(|(name, value)| Some((name.clone(), value.clone()?)));
        kept.chain(set).map(|(mut variable, value)| {
            variable.push("=");
            variable.push(value);
            variable
        })
    }
}

/// Removes a variable. It stays where other threads could read the environment.
pub(crate) fn remove_if_single_threaded(name: &str) {
    let threads = fs::read_dir("/proc/self/task").map_or(usize::MAX, Iterator::count);
    if threads == 1 {
        // SAFETY: no other thread exists that could read or write the environment.
        unsafe { remove_var(name) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_change_counts_and_the_rest_is_inherited() {
        let mut changes = EnvChanges::default();
        let set = |changes: &mut EnvChanges, name: &str, value: Option<&str>| {
            changes.change(OsStr::new(name), value.map(OsStr::new));
        };
        assert!(changes.is_empty() && changes.applied().count() == vars_os().count());
        set(&mut changes, "PATH", None);
        set(&mut changes, "NEW_VARIABLE", Some("1"));
        set(&mut changes, "NEW_VARIABLE", Some("2=2"));
        let applied: Vec<_> = changes.applied().collect();
        assert!(!applied.iter().any(|variable| variable.as_bytes().starts_with(b"PATH=")));
        assert!(!applied.iter().any(|variable| variable == "NEW_VARIABLE=1"));
        assert!(applied.iter().any(|variable| variable == "NEW_VARIABLE=2=2"));
        assert_eq!(applied.len(), vars_os().filter(|(name, _)| name != "PATH").count() + 1);
        set(&mut changes, "NEW_VARIABLE", None);
        assert_eq!(changes.applied().count(), applied.len() - 1);
        assert!(changes.check().is_ok());
    }

    #[test]
    fn what_cannot_be_a_variable_is_an_error() {
        for (name, value) in [("", "1"), ("A=B", "1"), ("A\0", "1"), ("A", "1\0")] {
            let mut changes = EnvChanges::default();
            changes.change(OsStr::new(name), Some(OsStr::new(value)));
            assert!(changes.check().is_err(), "{name:?} {value:?}");
        }
    }
}

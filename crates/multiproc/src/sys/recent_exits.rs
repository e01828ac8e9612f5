//! How the latest children of this process ended, for errors about a process that is known by its id only.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use super::pidfd::Exit;
use super::process_local::ProcessLocal;

/// The number of exits that are kept.
const MAX_EXITS: usize = 256;

static EXITS: ProcessLocal<Mutex<VecDeque<(u32, String, Exit)>>> = ProcessLocal::new(|_| Mutex::default());

pub(crate) fn record(pid: u32, name: &str, exit: Exit) {
    let mut exits = EXITS.get().lock().unwrap_or_else(PoisonError::into_inner);
    if exits.len() == MAX_EXITS {
        exits.pop_front();
    }
    exits.push_back((pid, name.to_owned(), exit));
}

/// The name and the exit of a child, if it is one of the latest.
pub(crate) fn find(pid: u32) -> Option<(String, Exit)> {
    let exits = EXITS.get().lock().unwrap_or_else(PoisonError::into_inner);
    let found = exits.iter().rev().find(|(recorded, ..)| *recorded == pid);
    found.map(|(_, name, exit)| (name.clone(), *exit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_exits_are_known() {
        let pid = |number: usize| u32::MAX - u32::try_from(number).unwrap_or(0); // no other test has such children
        for number in 0..=MAX_EXITS {
            record(pid(number), "one", Exit::Code(3));
        }
        record(pid(9), "other", Exit::Signal(9));
        assert_eq!(find(pid(9)), Some(("other".to_owned(), Exit::Signal(9))));
        assert_eq!(find(pid(0)), None);
    }
}

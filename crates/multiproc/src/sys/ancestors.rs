//! The processes that this one descends from.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::parent_id;
use std::path::Path;

/// Further ones are not asked: damaged answers must not lead in a circle.
const MOST: usize = 100;

/// Whether one of them has the file at this path open. False where /proc does not tell.
pub(crate) fn is_open_in_an_ancestor(path: &Path) -> bool {
    let Ok(file) = fs::metadata(path) else { return false };
    let is_it = |open: fs::Metadata| (open.dev(), open.ino()) == (file.dev(), file.ino());
    let has_open = |pid: u32| {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        descriptors.filter_map(|descriptor| fs::metadata(descriptor.path()).ok()).any(is_it)
    };
    let parents = std::iter::successors(Some(parent_id()), |&pid| parent_of(pid));
    parents.take_while(|&pid| pid > 0).take(MOST).any(has_open)
}

/// By `proc_pid_stat(5)`: number, name in parentheses (any bytes), state, parent.
fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    String::from_utf8_lossy(&stat).rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

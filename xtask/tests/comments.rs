//! Comments end within 120 columns, where rustfmt leaves them as they are. Rows of tables cannot be broken.

#![allow(clippy::unwrap_used)] // A test that cannot be set up fails.

use std::fs;
use std::path::{Path, PathBuf};

const COLUMNS: usize = 120;

#[test]
fn comments_end_within_their_columns() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let folders = ["crates", "examples", "tests", "xtask"].map(|name| root.join(name));
    let files: Vec<_> = folders.into_iter().flat_map(sources).collect();
    assert!(files.len() > 300, "these are not all: {}", files.len());
    let too_long: Vec<_> = files
        .iter()
        .flat_map(|file| {
            let text = fs::read_to_string(file).unwrap();
            let lines = text.lines().enumerate().filter(|(_, line)| is_too_long(line));
            let places = lines.map(|(number, _)| format!("{}:{}", file.display(), number + 1));
            places.collect::<Vec<_>>()
        })
        .collect();
    assert!(too_long.is_empty(), "{too_long:#?}");
}

fn is_too_long(line: &str) -> bool {
    let text = line.trim_start();
    let is_row = text.trim_start_matches(['/', '!']).trim_start().starts_with('|');
    text.starts_with("//") && !is_row && line.chars().count() > COLUMNS
}

/// The Rust files in a folder, without those that are built.
fn sources(folder: PathBuf) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let visited = entries.filter(|entry| entry.file_name() != "target").flat_map(|entry| {
        if entry.file_type().unwrap().is_dir() { sources(entry.path()) } else { vec![entry.path()] }
    });
    visited.filter(|path| path.extension().is_some_and(|extension| extension == "rs")).collect()
}

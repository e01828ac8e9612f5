//! The code that a README under `examples/` shows is the code that runs.

#![allow(clippy::unwrap_used)] // a test that cannot go on may panic

use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn whole_programs_stand_in_a_file_of_their_package() {
    let mut compared = 0;
    for package in packages() {
        let files = files(&package);
        for block in blocks(&package) {
            let found = files.iter().any(|file| fs::read_to_string(file).unwrap().contains(&block));
            assert!(found, "{} shows code that no file has:\n{block}", package.display());
            compared += 1;
        }
    }
    assert!(compared > 0);
}

#[test]
fn files_have_as_many_lines_as_announced() {
    let mut compared = 0;
    for package in packages() {
        for (file, lines) in announced(&package) {
            let text = fs::read_to_string(package.join(&file)).unwrap();
            assert_eq!(text.lines().count(), lines, "{file} of {}", package.display());
            compared += 1;
        }
    }
    assert!(compared > 0);
}

fn packages() -> Vec<PathBuf> {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    fs::read_dir(examples).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect()
}

/// The text of every Python block, and of every Rust block with a `main`; other Rust blocks are fragments.
fn blocks(package: &Path) -> Vec<String> {
    let readme = readme(package);
    let fenced = readme.split("\n```").skip(1).step_by(2).filter_map(|block| block.split_once('\n'));
    let whole = fenced.filter(|(language, code)| match *language {
        "python" => true,
        "rust" => code.contains("fn main()"),
        _ => false,
    });
    whole.map(|(_, code)| code.to_owned()).collect()
}

/// Each `](src/main.rs), 16 lines`.
fn announced(package: &Path) -> Vec<(String, usize)> {
    let readme = readme(package).replace('\n', " ");
    let links = readme.split("](").skip(1).filter_map(|text| text.split_once("), "));
    let lines =
        links.filter_map(|(file, rest)| Some((file.to_owned(), rest.split_once(" lines")?.0.parse().ok()?)));
    lines.collect()
}

fn readme(package: &Path) -> String {
    fs::read_to_string(package.join("README.md")).unwrap()
}

/// The sources of a package in Rust and Python.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs" || extension == "py") {
            found.push(path);
        }
    }
    found
}

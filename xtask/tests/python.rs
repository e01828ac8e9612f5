//! `cargo xtask compare` and `verify` on a small workspace with Python files.
//!
//! The Python is a shell script that runs the files as shell scripts, so these tests need none.

#![allow(clippy::unwrap_used)] // A test that cannot be set up fails.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

/// Answers what xtask asks Python about itself, and has a shell run every file.
const PYTHON: &str =
    "#!/bin/sh\nif [ \"$1\" = -c ]; then echo \"$0\"; echo 3.99; else shift; exec sh \"$@\"; fi\n";

fn write(root: &Path, name: &str, text: &str) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// A workspace with one program, which prints its process id.
fn workspace(python: &str, files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    write(root, "Cargo.toml", "[workspace]\nresolver = '3'\nmembers = ['examples/*']");
    write(root, "examples/q1/Cargo.toml", "[package]\nname = 'q1'\nedition = '2024'");
    write(root, "examples/q1/src/main.rs", "fn main() { println!(\"I am {}\", std::process::id()); }");
    write(root, "examples/q1/README.md", "```console at-least=0s\n$ cargo run -p q1\nI am [PID]\n```\n");
    for (name, text) in files {
        write(root, &format!("examples/q1/python/{name}"), text);
    }
    write(root, "bin/python3", python);
    fs::set_permissions(root.join("bin/python3"), fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

fn xtask(root: &Path, arguments: &[&str]) -> Output {
    let path = format!("{}:{}", root.join("bin").display(), std::env::var("PATH").unwrap());
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.args(arguments).current_dir(root).env("CARGO_TARGET_DIR", root.join("target")).env("PATH", path);
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    assert!(!bytes.contains(&0x1b), "no colour in a pipe");
    String::from_utf8(bytes.to_owned()).unwrap()
}

const SAME: (&str, &str) = ("q1.py", "echo I am $$");
const DIFFERENT: (&str, &str) = ("q1.py", "echo I am another");
const BROKEN: (&str, &str) = ("broken/no-end.py", "# Waits without end.\nexec sleep 1000");

#[test]
fn compare_says_whether_both_print_the_same() {
    let root = workspace(PYTHON, &[SAME]);
    let output = xtask(root.path(), &["compare"]);
    let shown = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(shown.starts_with("Python 3.99; "), "{shown}");
    assert!(shown.lines().any(|line| line.starts_with("q1 q1 ") && line.ends_with(" same")), "{shown}");
    assert!(shown.ends_with("\n1 of 1 print the same.\n"), "{shown}");

    let root = workspace(PYTHON, &[DIFFERENT]);
    let output = xtask(root.path(), &["compare"]);
    let shown = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(shown.contains(" differs\n    Python: A line is missing: `I am [PID]`.\n"), "{shown}");
    assert!(shown.ends_with("\n0 of 1 print the same.\n"), "{shown}");
}

#[test]
fn compare_shows_what_goes_wrong() {
    let fails = ("broken/fails.py", "# Has no end.\necho first >&2; echo last >&2; exit 3");
    let root = workspace(PYTHON, &[BROKEN, fails]);
    let output = xtask(root.path(), &["compare"]);
    let shown = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(shown.contains("broken/fails.py\n    Has no end.\n    seen: exit code 3: last\n"), "{shown}");
    assert!(
        shown.contains("    Waits without end.\n    seen: still running after 5 s, and killed\n"),
        "{shown}"
    );

    let root = workspace(PYTHON, &[("broken/works.py", "# Does not work.\nexit 0")]);
    let output = xtask(root.path(), &["compare"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text(&output.stdout).contains("It works"), "{output:?}");
}

#[test]
fn compare_needs_python_and_something_to_compare() {
    let root = workspace("#!/bin/sh\nexit 1\n", &[SAME]);
    let output = xtask(root.path(), &["compare"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stderr), "error: there is no python3 on this machine\n");

    let output = xtask(root.path(), &["compare", "--only", "q7"]);
    assert_eq!(text(&output.stderr), "error: no Python program contains `q7`\n");
    assert_eq!(xtask(root.path(), &["compare", "--nonsense"]).status.code(), Some(2));
    assert_eq!(xtask(root.path(), &["compare", "--help"]).status.code(), Some(0));
}

#[test]
fn verify_holds_the_python_files() {
    let root = workspace(PYTHON, &[SAME, ("q2.py", "")]);
    let output = xtask(root.path(), &["verify"]);
    let shown = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(shown.contains("  q1  python3 examples/q1/python/q1.py\n"), "{shown}");
    assert!(shown.contains("q2.py: the README of `q1` runs no program `q2`\n"), "{shown}");
    assert!(shown.ends_with("\n2 runs, 0 failed, and a problem\n"), "{shown}");

    let root = workspace(PYTHON, &[DIFFERENT]);
    let output = xtask(root.path(), &["verify"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text(&output.stdout).ends_with("\n2 runs, 1 failed\n"), "{output:?}");
}

#[test]
fn verify_skips_the_python_files_where_there_is_no_python() {
    let root = workspace("#!/bin/sh\nexit 1\n", &[DIFFERENT]);
    let output = xtask(root.path(), &["verify"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(text(&output.stdout).ends_with("1 run, 0 failed\n"), "{output:?}");
    assert!(text(&output.stderr).contains("The Python files are skipped: there is no python3"), "{output:?}");
}

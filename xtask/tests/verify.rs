//! `cargo xtask verify` on small workspaces, good and bad.

#![allow(clippy::unwrap_used)] // A test that cannot be set up fails.

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

/// A workspace whose packages each have a `main.rs` and a README.
fn workspace(packages: &[(&str, &str, &str)]) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "Cargo.toml", "[workspace]\nresolver = '3'\nmembers = ['examples/*']");
    for (name, main, readme) in packages {
        let folder = root.path().join("examples").join(name);
        write(&folder, "Cargo.toml", &format!("[package]\nname = '{name}'\nedition = '2024'"));
        write(&folder, "src/main.rs", main);
        write(&folder, "README.md", readme);
    }
    root
}

fn write(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn verify(root: &Path, options: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.arg("verify").args(options).current_dir(root).env("CARGO_TARGET_DIR", root.join("target"));
    command
}

fn stdout(output: &Output) -> String {
    assert!(!output.stdout.contains(&0x1b), "no colour in a pipe");
    String::from_utf8(output.stdout.clone()).unwrap()
}

const GOOD: (&str, &str, &str) = (
    "q1-good",
    "fn main() { let name = std::env::args().nth(1); println!(\"hello\\n{name:?} 7\"); }",
    "# Good\n\n```console\n$ cargo run -p q1-good\nhello\nNone [NUMBER]\n```\n\n\
     1. In a list:\n   ~~~~console unordered below=60s\n   $ cargo run --quiet --package q1-good --bin q1-good -- 'a b'\n   \
     Some(\"a b\") 7\n   hello\n   ~~~~\n\n```sh\n$ not for us\n```\n",
);

#[test]
fn a_good_workspace_is_good() {
    let root = workspace(&[GOOD]);
    let output = verify(root.path(), &[]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = stdout(&output);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(lines[0].starts_with("ok ") && lines[0].ends_with("q1-good  cargo run -p q1-good"), "{text}");
    assert_eq!(lines[2], "2 runs, 0 failed");

    let output = verify(root.path(), &["--self-test"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    // Two and four words, two lines dropped and three added each, one swap, and four conditions each.
    assert!(stdout(&output).contains("\n25 changes made, 25 refused\n"), "{}", stdout(&output));

    let output = verify(root.path(), &["--list", "--only", "a b"]).output().unwrap();
    assert_eq!(stdout(&output), "q1-good  cargo run --quiet --package q1-good --bin q1-good -- 'a b'\n");

    let output = verify(root.path(), &["--repeat", "3", "--jobs", "3"]).output().unwrap();
    assert_eq!(stdout(&output).matches("0 of 3 failed").count(), 2);

    assert_eq!(verify(root.path(), &["--only", "nothing"]).output().unwrap().status.code(), Some(1));
    assert_eq!(verify(root.path(), &["--nonsense"]).output().unwrap().status.code(), Some(2));
}

#[test]
fn everything_bad_is_told() {
    let main = "fn main() { println!(\"hello\\nyou\"); }";
    let root = workspace(&[
        GOOD,
        ("q2-differs", main, "```console unordered\n$ cargo run -p q2-differs\nx\nhello\n```\n"),
        ("q3-silent", main, "# Nothing\n"),
        ("q4-odd", main, "\n```console once\n$ cargo run -p q4-odd\n```\n\n```console\n$ ls\n```\n"),
        (
            "q5-unknown",
            main,
            "```console\n$ cargo run -p q6\n```\n```console\n$ cargo run -p q5-unknown --bin x\n```",
        ),
    ]);
    write(root.path(), "examples/q4-odd/src/bin/more.rs", main);
    fs::remove_file(root.path().join("examples/q3-silent/README.md")).unwrap();
    write(root.path(), "examples/q5-unknown/src/lib.rs", "");

    let output = verify(root.path(), &["--format", "json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let results = document["results"].as_array().unwrap();
    let verdicts: Vec<_> = results.iter().map(|result| result["verdict"].as_str().unwrap()).collect();
    assert_eq!(verdicts.iter().filter(|verdict| **verdict == "ok").count(), 2);
    let failed = results.iter().find(|result| result["verdict"] == "failed").unwrap();
    assert_eq!(failed["question"], "q2-differs");
    assert_eq!(failed["failures"][0], "A line is missing: `x`.");
    let problems = document["problems"].as_array().unwrap().iter();
    let problems: Vec<_> =
        problems.map(|problem| format!("{}: {}", problem["place"], problem["what"])).collect();
    for expected in [
        r#""examples/q3-silent/README.md": "is not there""#,
        r#""examples/q4-odd/README.md:2": "the word `once`: has no meaning after `console`""#,
        r#""examples/q4-odd/README.md:6": "only `cargo run` is understood, not `ls`""#,
        r#""examples/q5-unknown/README.md:1": "there is no package `q6`""#,
        r#""examples/q5-unknown/README.md:4": "the package `q5-unknown` has no program `x`""#,
        r#""examples/q3-silent": "no README runs the program `q3-silent`""#,
        r#""examples/q4-odd": "no README runs the program `more`""#,
        r#""examples/q4-odd": "no README runs the program `q4-odd`""#,
        r#""examples/q5-unknown": "no README runs the program `q5-unknown`""#,
    ] {
        assert!(problems.iter().any(|problem| problem == expected), "{expected} in {problems:#?}");
    }
    assert_eq!(problems.len(), 9, "{problems:#?}");

    let output = verify(root.path(), &["--only", "q2"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = stdout(&output);
    assert!(text.contains("      hello\n    - x\n    + you\n"), "{text}");
    assert!(text.ends_with("1 run, 1 failed\n"), "{text}");

    // A problem is a failure, even if nothing runs.
    assert_eq!(verify(root.path(), &["--only", "q3"]).output().unwrap().status.code(), Some(1));
}

#[test]
fn a_package_of_two_programs_says_which_one_to_run() {
    let main = "fn main() {}";
    let readme =
        "```console\n$ cargo run -p q1-two\n```\n```console\n$ cargo run -p q1-two --bin second\n```\n";
    let root = workspace(&[("q1-two", main, readme)]);
    let folder = root.path().join("examples/q1-two");
    write(&folder, "src/bin/second.rs", main);
    let output = verify(root.path(), &["--list"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("README.md:1: the package `q1-two` has 2 programs"), "{output:?}");

    let manifest = "[package]\nname = 'q1-two'\nedition = '2024'\ndefault-run = 'q1-two'";
    write(&folder, "Cargo.toml", manifest);
    let output = verify(root.path(), &["--list"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[test]
fn commands_run_together_unless_they_run_alone() {
    let meets = "fn main() { let files: Vec<_> = std::env::args().skip(1).collect(); \
                 std::fs::write(&files[0], \"\").unwrap(); \
                 while !std::fs::exists(&files[1]).unwrap() { std::thread::yield_now(); } }";
    let avoids = "fn main() { std::fs::File::create_new(\"busy\").unwrap(); \
                  std::thread::sleep(std::time::Duration::from_millis(100)); \
                  std::fs::remove_file(\"busy\").unwrap(); }";
    let meeting = |files| format!("```console limit=100s\n$ cargo run -p q1-meets -- {files}\n```\n");
    let root = workspace(&[
        ("q1-meets", meets, &(meeting("a b") + &meeting("b a"))),
        ("q2-avoids", avoids, &"```console alone\n$ cargo run -p q2-avoids\n```\n".repeat(3)),
    ]);
    let output = verify(root.path(), &["--jobs", "2"]).output().unwrap();
    assert_eq!(stdout(&output).lines().last(), Some("5 runs, 0 failed"), "{}", stdout(&output));
}

#[test]
fn a_closed_pipe_ends_verify_quietly() {
    let root = workspace(&[GOOD]);
    for options in [&["--list"][..], &[], &["--format", "json"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = verify(root.path(), options).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(141), "{options:?}: {stderr}");
        assert!(!stderr.contains("panicked"), "{options:?}: {stderr}");
    }
}

#[test]
fn an_interrupt_ends_everything() {
    let main = "fn main() { std::fs::write(\"new\", std::env::var(\"TMPDIR\").unwrap()).unwrap(); \
                std::fs::rename(\"new\", \"folder\").unwrap(); loop { std::thread::park(); } }";
    let root = workspace(&[("q1-endless", main, "```console limit=100s\n$ cargo run -p q1-endless\n```\n")]);
    let mut command = verify(root.path(), &[]);
    let mut verify = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let folder = root.path().join("folder");
    while !folder.exists() {
        assert_eq!(verify.try_wait().unwrap(), None, "it ended by itself");
        thread::sleep(Duration::from_millis(10));
    }
    kill(Pid::from_raw(verify.id().cast_signed()), Signal::SIGINT).unwrap();
    assert_eq!(verify.wait().unwrap().code(), Some(130));

    let folder = fs::read_to_string(folder).unwrap();
    assert!(!fs::exists(&folder).unwrap());
    let marked = format!("MULTIPROC_VERIFY_RUN={folder}\0");
    let mut processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path().join("environ"));
    let is_marked = |environ: Vec<u8>| environ.windows(marked.len()).any(|part| part == marked.as_bytes());
    assert!(!processes.any(|path| fs::read(path).is_ok_and(is_marked)), "the program is still there");
}

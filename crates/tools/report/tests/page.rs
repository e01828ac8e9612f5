//! `report` on a small workspace: its program writes a trace by hand, and its Python is a shell script.

#![allow(clippy::unwrap_used)] // A test that cannot be set up fails.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

/// Answers what is asked about Python itself, and has a shell run every file.
const PYTHON: &str =
    "#!/bin/sh\nif [ \"$1\" = -c ]; then echo \"$0\"; echo 3.99; else shift; exec sh \"$@\"; fi\n";

/// Prints what must be escaped, and copies a trace to where the environment says.
const PROGRAM: &str = r#"
//! One program.
fn main() {
    println!("1 < 2");
    if let Some(file) = std::env::var_os("MULTIPROC_TRACE") {
        std::fs::write(file, include_str!("trace.json")).unwrap();
    }
}
"#;

const README: &str = "# Question 1: why <b>?\n\nThe [answer](x.md):\n\n```console\n$ cargo run -p q1\n1 < 2\n```\n\n\
    ## `other`: with options\n\n```console\n$ cargo run -p q1 --bin other -- 5\n[..]\n```\n\n\
    ## The claims, measured\n\n```console\n$ cargo run -p q1 --bin q1-measure\n[..]\n```\n";

const MEASURE: &str = r##"
fn main() {
    println!(r#"{{"machine": {{}}, "claims": [{{"claim": "pigs fly", "how": "looked up", "figure": "no pig",
        "verdict": "does not hold", "points": [{{"chart": "Pigs", "unit": "ms", "at": "one", "value": 2.5}}]}}]}}"#);
}
"##;

const PERFORMANCE: &str = "# P\n\n## W1: start\n\n| | | median |\n|---|---|---|\n\
    | start (µs, less is better) | multiproc | 186 |\n| | procspawn | 1257 |\n";

const RELIABILITY: &str =
    "# R\n\n## Every step\n\n| fault | survived |\n|---|--:|\n| channel:published killed | 23 |\n";

fn workspace(python: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("Cargo.toml", "[workspace]\nresolver = '3'\nmembers = ['examples/*']"),
        ("examples/q1/Cargo.toml", "[package]\nname = 'q1'\nedition = '2024'\ndefault-run = 'q1'"),
        ("examples/q1/README.md", README),
        ("examples/q1/src/main.rs", PROGRAM),
        ("examples/q1/src/trace.json", include_str!("trace.json")),
        ("examples/q1/src/bin/other.rs", "fn main() { println!(\"{:?}\", std::env::args().nth(1)); }"),
        ("examples/q1/src/bin/q1-measure.rs", MEASURE),
        ("examples/q1/python/q1.py", "echo '1 < 2'"),
        ("examples/q1/python/broken/no-end.py", "# Does not work: it waits without `end`.\nexec sleep 1000"),
        ("docs/performance.md", PERFORMANCE),
        ("docs/reliability.md", RELIABILITY),
        ("bin/python3", python),
    ] {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    fs::set_permissions(folder.path().join("bin/python3"), fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

fn report(root: &Path, arguments: &[&str]) -> Output {
    let path = format!("{}:{}", root.join("bin").display(), std::env::var("PATH").unwrap());
    let mut command = Command::new(env!("CARGO_BIN_EXE_report"));
    command.args(arguments).current_dir(root).env("CARGO_TARGET_DIR", root.join("target")).env("PATH", path);
    command.output().unwrap()
}

/// What a page must have, and what it must not.
fn assert_page(page: &str, has: &[&str], has_not: &[&str]) {
    for text in has {
        assert!(page.contains(text), "`{text}` is missing in\n{page}");
    }
    for text in has_not {
        assert!(!page.contains(text), "`{text}` is in\n{page}");
    }
}

/// A time in some unit stands after this text.
fn assert_time(page: &str, before: &str) {
    let (_, after) = page.split_once(before).unwrap_or_else(|| panic!("`{before}` is missing in\n{page}"));
    let time = after.split_once('<').unwrap().0;
    let (number, unit) = time.split_once(' ').unwrap_or_default();
    assert!(number.parse::<f64>().is_ok_and(|number| number > 0.0) && unit.ends_with('s'), "`{time}`");
}

#[test]
fn a_page_shows_what_ran() {
    let root = workspace(PYTHON);
    let output = report(root.path(), &[]);
    assert!(output.status.success(), "{output:?}");
    let page = fs::read_to_string(root.path().join("target/report.html")).unwrap();
    assert_page(
        &page,
        &[
            "<p class=\"kicker\">Question 1</p>",
            "<p class=\"lead\">The answer.</p>",
            "$ cargo run -p q1</span>\n1 &lt; 2</pre>",
            "$ python3 examples&#x2f;q1&#x2f;python&#x2f;q1.py</span>\n1 &lt; 2</pre>",
            "<span class=k>fn</span> <span class=f>main</span>",
            "<code>other</code>: with options",
            "Some(&quot;5&quot;)",
            // the timeline
            "aria-label=\"B, pid 102: starting 1.50 ms, running 6.00 ms, killed by SIGSEGV\"",
            // the claims
            "does not hold</span>",
            "<figcaption>Pigs</figcaption>",
            // the Python that hangs
            "It waits without <code>end</code>.",
            "hangs</span> still running after 5 s, and killed",
            // docs/
            "<figcaption>start: less is better</figcaption>",
            "1257 µs",
            "<section class=\"document\" id=\"reliability\"",
            "<td>channel:published killed</td><td class=\"right\">23</td>",
            // how long both took
            "<figcaption>Time from start to end</figcaption>",
        ],
        &["<p>Does not work", "http:", "https:", "<script"],
    );
    for language in ["Rust", "Python"] {
        assert_time(&page, &format!("<span class=\"tag\">{language}</span> <span class=\"time\">"));
        let (_, bar) = page.split_once(&format!("<span class=\"label\">{language}</span>")).unwrap();
        assert_time(bar, "<span class=\"value\">");
    }
}

#[test]
fn a_page_without_python_and_traces_says_so() {
    let root = workspace("#!/bin/sh\nexit 1\n");
    fs::write(root.path().join("examples/q1/src/trace.json"), "").unwrap();
    let file = root.path().join("page.html");
    let output = report(root.path(), &["--output", file.to_str().unwrap(), "--only", "q1"]);
    assert!(output.status.success(), "{output:?}");
    let page = fs::read_to_string(file).unwrap();
    assert_page(
        &page,
        &["there is no python3 on this machine", "1 &lt; 2"],
        &["class=\"timeline\"", "hangs"],
    );
}

#[test]
fn wrong_arguments_fail_before_anything_runs() {
    let root = workspace(PYTHON);
    for (arguments, error) in [
        (["--only", "q7"], "error: no question contains `q7`\n"),
        (["--output", "/nowhere/at/all.html"], "error: cannot write /nowhere/at/all.html: "),
    ] {
        let output = report(root.path(), &arguments);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr.starts_with(error), "{stderr}");
    }
}

/// The well-known queue program, with a real Python where there is one.
#[test]
fn a_queue_without_a_sentinel_hangs() {
    if !Command::new("python3").arg("--version").output().is_ok_and(|output| output.status.success()) {
        return;
    }
    let root = workspace(PYTHON);
    fs::remove_file(root.path().join("bin/python3")).unwrap();
    fs::remove_file(root.path().join("examples/q1/python/q1.py")).unwrap();
    let broken = root.path().join("examples/q1/python/broken");
    fs::remove_dir_all(&broken).unwrap();
    fs::create_dir(&broken).unwrap();
    let original = include_str!("../../../../examples/q3-queue-ipc/python/broken/no-sentinel.py");
    fs::write(broken.join("no-sentinel.py"), original).unwrap();
    let output = report(root.path(), &[]);
    assert!(output.status.success(), "{output:?}");
    let page = fs::read_to_string(root.path().join("target/report.html")).unwrap();
    assert_page(
        &page,
        &["hangs</span> still running after 5 s, and killed", "no-sentinel.py</span>\n"],
        &["fails</span>"],
    );
}

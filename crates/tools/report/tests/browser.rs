//! The report of this repository in a browser. Without Python, whose programs take longer than the rest.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A test that cannot be set up fails.

mod webdriver;

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;
use webdriver::Browser;

/// The ids of questions that have a visible title.
const QUESTIONS: &str = "return [...document.querySelectorAll('section.question')]
    .filter(section => section.querySelector('h2').innerText.trim() && section.querySelector('pre'))
    .map(section => section.id).sort()";

/// The ids of questions with a selector's element.
const WITH: &str = "return [...document.querySelectorAll('section.question')]
    .filter(section => section.querySelector('SELECTOR')).map(section => section.id).sort()";

/// Questions whose programs have several processes and a trace: all but the one whose processes are on other hosts.
const WITHOUT_TIMELINE: [&str; 1] = ["x6-many-hosts"];

/// Questions with measured claims.
const MEASURED: [&str; 3] = ["q1-why-processes", "q2-processes-vs-threads", "q4-why-a-pool"];

/// Those of `docs/` that have rows in a table.
const TABLES: &str = "return ['performance', 'reliability']
    .filter(id => document.querySelector(`#${id} tbody tr td`)).sort()";

/// The contents' entries with a line above them: the first example, and the first page of `docs/`.
const APART: &str =
    "return [...document.querySelectorAll('.wide .apart a')].map(a => a.getAttribute('href'))";

/// The parts that show no time.
const TIMELESS: &str = "return [...document.querySelectorAll('.output, .question .command')]
    .filter(part => !/\\d (s|ms|µs)$/.test(part.querySelector('.time')?.textContent ?? ''))
    .map(part => part.outerHTML.slice(0, 120))";

/// Unfolds everything; returns the width of the page. A phone's window grows with it.
const WIDTH: &str = "document.querySelectorAll('details').forEach(details => details.open = true);
    return document.documentElement.scrollWidth";

/// The texts whose contrast to their background is below WCAG's AA.
const PALE: &str = "
    const parse = colour => colour.match(/[\\d.]+/g).map(Number);
    const light = ([r, g, b]) => [r, g, b].map(v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, at) => sum + v * [0.2126, 0.7152, 0.0722][at], 0);
    const ground = element => {
        for (; element; element = element.parentElement) {
            const colour = parse(getComputedStyle(element).backgroundColor);
            if (colour[3] !== 0) return colour;
        }
        return [255, 255, 255];
    };
    const texts = [...document.querySelectorAll('body *')].filter(element => element.checkVisibility()
        && !element.closest('svg') && [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim()));
    return [...new Set(texts.filter(element => {
        const [a, b] = [parse(getComputedStyle(element).color), ground(element)].map(light);
        return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) < 4.5;
    }).map(element => element.outerHTML.slice(0, 120)))]";

#[test]
fn the_page_has_every_question_and_fits_a_desk_and_a_phone() {
    let Some(browser) = Browser::start() else {
        // Not by `println`, which the test harness would keep for itself.
        let how = "Debian: apt-get install chromium chromium-driver";
        writeln!(
            std::io::stderr(),
            "skipped: the report is not opened, since there is no Chromium here ({how})"
        )
        .unwrap();
        assert!(std::env::var_os("CI").is_none(), "`CI` is set, and there is no Chromium");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("report.html");
    write_report(folder.path(), &page);
    let url = format!("file://{}", page.display());

    for (width, dark) in [(1280, false), (1280, true), (390, false), (390, true)] {
        browser.open(&url, width, dark);
        assert_eq!(browser.run(QUESTIONS), json!(questions()));
        let with = |selector| browser.run(&WITH.replace("SELECTOR", selector));
        let traced: Vec<_> =
            questions().into_iter().filter(|name| !WITHOUT_TIMELINE.contains(&&**name)).collect();
        assert_eq!(with(".timeline .lane rect"), json!(traced));
        assert_eq!(with("figure.chart"), json!(MEASURED));
        assert_eq!(with(".claims .verdict"), json!(MEASURED));
        assert_eq!(browser.run(TIMELESS), json!([]));
        assert_eq!(browser.run(APART), json!(["#x1-shared-counter", "#performance"]));
        assert_eq!(browser.run(TABLES), json!(["performance", "reliability"]));
        assert_eq!(browser.run(WIDTH), json!(width));
        assert_eq!(browser.run(PALE), json!([]), "dark: {dark}");
        assert_eq!(browser.console(), json!([]));
    }
}

fn write_report(folder: &Path, page: &Path) {
    let no_python = folder.join("python3");
    fs::write(&no_python, "#!/bin/sh\nexit 1\n").unwrap();
    fs::set_permissions(&no_python, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    let mut report = Command::new(env!("CARGO_BIN_EXE_report"));
    report.arg("--output").arg(page).current_dir(root()).env("PATH", path).stdout(Stdio::null());
    assert!(report.status().unwrap().success());
}

/// The folders under `examples/`.
fn questions() -> Vec<String> {
    let folders = fs::read_dir(Path::new(root()).join("examples")).unwrap().map(Result::unwrap);
    let folders = folders.filter(|entry| entry.path().is_dir());
    let mut names: Vec<_> = folders.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn root() -> &'static str {
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../..")
}

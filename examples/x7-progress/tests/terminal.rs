//! The bar in a terminal, which `script` (of util-linux) makes: `cargo xtask verify` runs the program in a pipe, where
//! there is no bar.

use std::env;
use std::process::{Command, Stdio};

#[test]
fn in_a_terminal_a_bar_shows_the_rate_the_time_left_and_the_failures() {
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", env!("CARGO_BIN_EXE_x7-progress"), "/dev/null"]);
    let Ok(output) = script.env("TERM", "xterm").stdin(Stdio::null()).stderr(Stdio::inherit()).output()
    else {
        println!("skipped: there is no `script`");
        assert!(env::var_os("MULTIPROC_TEST_ALL").is_none(), "`MULTIPROC_TEST_ALL` is set: no `script`");
        return;
    };
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}:\n{shown}", output.status);
    // The program draws the bar with each failure, and at other times as often as it likes.
    for failed in 1..=11 {
        let parts = ["/1000 ", "/s, ", " left, ", &format!(", {failed} failed")];
        let is_bar = |line: &str| parts.iter().all(|part| line.contains(part));
        assert!(shown.split(['\r', '\n']).any(is_bar), "no bar with {failed} failed:\n{shown:?}");
    }
    for text in ["99 cannot be converted", "SIGABRT", "989 converted, 11 failed"] {
        assert!(shown.contains(text), "{text:?} is not in:\n{shown}");
    }
}

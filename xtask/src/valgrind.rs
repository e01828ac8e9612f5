//! `cargo xtask valgrind`: the single-process unit tests of the library under valgrind's memcheck.
//!
//! Memcheck does not check memory orderings: the models in `crates/tools/models` do.

use std::io::{BufReader, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use cargo_metadata::{Message, MetadataCommand};

use crate::output::say;
use crate::programs::cargo;

/// The exit code of a run in which memcheck has found something.
const FOUND: &str = "99";

/// Prefixes of the names of tests that touch shared memory, descriptors or locks.
const TESTS: [&str; 8] = [
    "sys::",
    "ipc::frame::",
    "ipc::ring",
    "channel::",
    "pool::worker_rings::",
    "ipc::packet::",
    "shared_slice::",
    "spawn::zygote::",
];

/// The tests among them with other processes. Valgrind knows `pidfd_open` only since 3.20.
const SKIPPED: [&str; 5] = [
    "sys::pidfd::tests::a_pid_that_is_no_childs_acts_as_an_ended_process",
    "sys::program::tests::a_file_that_is_not_what_was_mapped_is_not_executed",
    "sys::exec::tests::a_new_process_has_the_standard_streams_alone",
    "spawn::zygote::tests::only_a_child_of_this_process_can_be_unclaimed",
    "spawn::zygote::tests::a_zygote_that_cannot_start_reports_why",
];

/// Runs the tests; returns whether memcheck found nothing.
pub fn run() -> Result<bool> {
    look_for_valgrind()?;
    let root = MetadataCommand::new().no_deps().exec()?.workspace_root.into_std_path_buf();
    let program = build(&root)?;
    memcheck(&root, &program)
}

fn look_for_valgrind() -> Result<()> {
    let mut command = Command::new("valgrind");
    match command.arg("--version").stdout(Stdio::null()).status() {
        Ok(status) => ensure!(status.success(), "`valgrind --version` fails ({status})"),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!("valgrind is not installed; on Debian and Ubuntu: apt-get install valgrind")
        }
        Err(error) => return Err(error).context("run valgrind"),
    }
    Ok(())
}

/// Builds the library's unit tests; returns the path of the program.
fn build(root: &Path) -> Result<PathBuf> {
    let mut build = cargo("test", root)
        .args(["--package", "multiproc", "--lib", "--no-run"])
        .arg("--message-format=json-render-diagnostics")
        .stdout(Stdio::piped())
        .spawn()
        .context("run cargo")?;
    let output = build.stdout.take().context("cargo says nothing")?;
    let mut program = None;
    for message in Message::parse_stream(BufReader::new(output)) {
        if let Message::CompilerArtifact(artifact) = message?
            && artifact.profile.test
        {
            program = artifact.executable.map(PathBuf::from).or(program);
        }
    }
    ensure!(build.wait()?.success(), "the unit tests do not build");
    program.context("cargo has built no unit tests")
}

fn memcheck(root: &Path, program: &Path) -> Result<bool> {
    say!("== memcheck over {}", TESTS.join(" "));
    let status = Command::new("valgrind")
        .args(["--tool=memcheck", "--quiet", &format!("--error-exitcode={FOUND}")])
        .args(["--leak-check=full", "--show-leak-kinds=definite", "--errors-for-leak-kinds=definite"])
        .arg(program)
        .args(["--test-threads=1"])
        .args(SKIPPED.iter().flat_map(|test| ["--skip", test]))
        .args(TESTS)
        .env_remove("RUST_BACKTRACE") // a trace of each panic that is caught takes valgrind seconds
        .current_dir(root.join("crates/multiproc"))
        .status()
        .context("run valgrind")?;
    Ok(status.success())
}

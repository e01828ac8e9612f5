//! `cargo xtask valgrind`: unit tests of the library under valgrind, those that need no other process.
//!
//! Under memcheck runs all that touches shared memory, descriptors and locks. Under drd run the locks: it knows those of
//! the C library, and whether they are used as they should be. It does not know what atomic words order, which is what the
//! rest of the library is made of: those orders are checked by the models in `models/`.

use std::env;
use std::io::{BufReader, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use cargo_metadata::{Message, MetadataCommand};

/// What is no mistake of ours, with the reasons.
const SUPPRESSIONS: &str = "xtask/valgrind.supp";
/// The exit code of a run in which a tool has found something.
const FOUND: &str = "99";

struct Run {
    tool: &'static str,
    options: &'static [&'static str],
    /// The beginnings of the tests' names, and what is not among them.
    tests: &'static [&'static str],
    skipped: &'static [&'static str],
}

const RUNS: [Run; 2] = [
    Run {
        tool: "memcheck",
        options: &["--leak-check=full", "--show-leak-kinds=definite", "--errors-for-leak-kinds=definite"],
        tests: &["sys::", "frames::", "ring", "channel::", "mailbox::", "link::", "frozen::", "template::"],
        // These are about other processes, and valgrind has known `pidfd_open` only since 3.20.
        skipped: &[
            "sys::process::tests::a_number_that_has_come_to_mean_another_process_is_nobodys",
            "sys::program::tests::a_file_that_is_not_what_was_mapped_is_not_executed",
            "sys::program::tests::a_new_process_has_the_standard_streams_alone",
            "template::tests::only_a_child_of_ours_can_be_a_spare",
            "template::tests::what_a_template_says_why_it_does_not_come_up_is_told",
        ],
    },
    Run {
        tool: "drd",
        options: &[],
        tests: &["sys::lock::"],
        // drd has not heard of locks that outlive their holders: it takes what follows for an unlocking by a stranger.
        skipped: &["sys::lock::tests::a_lock_whose_holder_has_ended_goes_to_the_next"],
    },
];

/// Runs all; says whether nothing was found.
pub fn run() -> Result<bool> {
    look_for_valgrind()?;
    let root = MetadataCommand::new().no_deps().exec()?.workspace_root.into_std_path_buf();
    let program = build(&root)?;
    let mut is_good = true;
    for run in RUNS {
        is_good &= run.run(&root, &program)?;
    }
    Ok(is_good)
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

/// Builds the library's unit tests; gives the program that they are.
fn build(root: &Path) -> Result<PathBuf> {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["test", "--package", "multiproc", "--lib", "--no-run"])
        .arg("--message-format=json-render-diagnostics")
        .current_dir(root)
        .stdout(Stdio::piped())
        .spawn()
        .context("run cargo")?;
    let output = cargo.stdout.take().context("cargo says nothing")?;
    let mut program = None;
    for message in Message::parse_stream(BufReader::new(output)) {
        if let Message::CompilerArtifact(artifact) = message?
            && artifact.profile.test
        {
            program = artifact.executable.map(PathBuf::from).or(program);
        }
    }
    ensure!(cargo.wait()?.success(), "the unit tests do not build");
    program.context("cargo has built no unit tests")
}

impl Run {
    fn run(&self, root: &Path, program: &Path) -> Result<bool> {
        println!("== {} over {}", self.tool, self.tests.join(" "));
        let status = Command::new("valgrind")
            .arg(format!("--tool={}", self.tool))
            .args(["--quiet", &format!("--error-exitcode={FOUND}")])
            .arg(format!("--suppressions={}", root.join(SUPPRESSIONS).display()))
            .args(self.options)
            .arg(program)
            .args(["--test-threads=1"])
            .args(self.skipped.iter().flat_map(|test| ["--skip", test]))
            .args(self.tests)
            .env_remove("RUST_BACKTRACE") // a trace of each panic that is caught takes valgrind seconds
            .current_dir(root.join("crates/multiproc"))
            .status()
            .context("run valgrind")?;
        Ok(status.success())
    }
}

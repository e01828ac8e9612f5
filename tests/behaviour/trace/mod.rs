//! `MULTIPROC_TRACE`: the file of events. `trace-file` reads it, and checks every event.

mod deaths;
mod file;
mod work;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, id};
use std::sync::atomic::{AtomicU32, Ordering};

use libtest_mimic::Trial;
use multiproc::StartMethod;
use trace_file::Trace;

pub(crate) fn trials() -> Vec<Trial> {
    work::trials().into_iter().chain(deaths::trials()).chain(file::trials()).collect()
}

/// A file that is removed in the end.
struct TraceFile(PathBuf);

impl TraceFile {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("multiproc-trace-{}-{}.json", id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        Self(std::env::temp_dir().join(name))
    }

    fn path(&self) -> &Path {
        &self.0
    }

    fn read(&self) -> Trace {
        Trace::read(&fs::read_to_string(&self.0).unwrap()).unwrap_or_else(|error| panic!("{error}"))
    }
}

impl Drop for TraceFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// The fixture program, which traces into the file.
fn program(case: &str, method: StartMethod, file: &TraceFile) -> Command {
    let method = match method {
        StartMethod::ForkServer => "fork-server",
        StartMethod::Spawn => "spawn",
    };
    let mut program = Command::new(env!("CARGO_BIN_EXE_traced"));
    program.arg(case).env("MULTIPROC_START_METHOD", method).env("MULTIPROC_TRACE", file.path());
    program
}

/// The trace of a whole run.
fn trace_of(case: &str, method: StartMethod) -> Trace {
    let file = TraceFile::new();
    let output = program(case, method, &file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    file.read()
}

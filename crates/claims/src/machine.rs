//! The machine, without which a figure says nothing.

use std::fmt;
use std::fs;
use std::thread;

use serde::Serialize;

/// What ran the measurements, and when.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) cores: usize,
    pub(crate) processor: String,
    pub(crate) kernel: String,
    pub(crate) compiler: &'static str,
    pub(crate) build: &'static str,
    pub(crate) date: String,
}

impl Machine {
    pub(crate) fn here() -> Self {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            cores: thread::available_parallelism().map_or(1, usize::from),
            processor: processor().unwrap_or_else(|| "unknown processor".to_owned()),
            kernel: format!("Linux {}", kernel.split(['-', '\n']).next().unwrap_or_default()),
            compiler: env!("RUSTC_VERSION"),
            build: if cfg!(debug_assertions) { "debug" } else { "release" },
            date: jiff::Timestamp::now().strftime("%Y-%m-%d").to_string(),
        }
    }
}

/// Not every architecture's kernel names the model.
fn processor() -> Option<String> {
    let info = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = info.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cores, processor, kernel, compiler, build, date } = self;
        let s = if *cores == 1 { "" } else { "s" };
        write!(f, "{cores} core{s} ({processor}), {kernel}, {compiler}, {build} build, {date}")
    }
}

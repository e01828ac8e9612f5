//! The machine, without which a figure says nothing.

use std::fmt;
use std::fs;
use std::thread;

use serde::Serialize;

/// What ran the measurements, and when.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// How many processes can run at once.
    pub cores: usize,
    /// Its model, as the kernel names it.
    pub processor: String,
    /// Name and version.
    pub kernel: String,
    /// What this was built with.
    pub compiler: &'static str,
    /// `debug` or `release`.
    pub build: &'static str,
    /// The day, in UTC.
    pub date: String,
}

impl Machine {
    /// This machine, now.
    pub fn here() -> Self {
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

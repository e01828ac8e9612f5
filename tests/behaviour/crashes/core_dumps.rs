//! A child that crashes leaves a core dump, as without the report.

use std::path::Path;
use std::{env, fs, process};

use multiproc::{Error, StartMethod};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use tests::crashes::first_level;

use crate::support::{METHODS, Outcome, TEST_TIMEOUT, trials, with};

trials![a_crash_leaves_a_core_dump];

/// The most bytes of a core dump, which is cut there.
const LIMIT: u64 = 16 << 20;

fn a_crash_leaves_a_core_dump() -> Outcome {
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern")?;
    let pattern = pattern.trim_end();
    if pattern.is_empty() || pattern.starts_with('|') || pattern.contains('/') {
        println!("Core dumps are not tested: the kernel's pattern for them is {pattern:?}");
        return Ok(());
    }
    let most = getrlimit(Resource::RLIMIT_CORE)?.1;
    if most < LIMIT {
        println!("Core dumps are not tested: they are limited to {most} bytes");
        return Ok(());
    }
    for method in METHODS {
        let directory = env::temp_dir().join(format!("multiproc-core-{}-{method:?}", process::id()));
        fs::create_dir(&directory)?;
        let error = crash_in(method, &directory);
        let files = fs::read_dir(&directory)?.map(|entry| fs::read(entry?.path()));
        let files = files.collect::<Result<Vec<_>, _>>();
        fs::remove_dir_all(&directory)?;
        let (error, files) = (error?, files?);
        assert_eq!(error.signal(), Some(Signal::SIGSEGV as i32), "{error}");
        assert!(error.backtrace().is_some(), "{error}");
        let [core] = &files[..] else { panic!("{method:?} has left {} files", files.len()) };
        assert!(core.starts_with(b"\x7fELF"), "{method:?}: {} bytes", core.len());
    }
    Ok(())
}

/// Has a child crash in that directory.
fn crash_in(method: StartMethod, directory: &Path) -> Outcome<Error> {
    let crash = |directory: String| {
        setrlimit(Resource::RLIMIT_CORE, LIMIT, LIMIT).unwrap();
        env::set_current_dir(directory).unwrap();
        first_level(16)
    };
    let mut child = with(method).spawn(crash, (directory.to_str().unwrap().to_owned(),))?;
    Ok(child.join_timeout(TEST_TIMEOUT).unwrap_err())
}

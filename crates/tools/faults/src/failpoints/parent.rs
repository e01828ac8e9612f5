//! The parent, killed at every failpoint of its own: none of its processes may outlive it.

use std::env;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use faults::Row;
use multiproc::failpoints::{Action, Controller, Failpoint, Target};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

use super::scenario::{self, AllowedFailures, Scenario};
use super::{Options, passes, round};

/// The environment variable that names the scenario of the parent under test.
pub(super) const VARIABLE: &str = "MULTIPROC_FAULTS_PARENT";

/// How long the orphans of a killed parent may outlive it.
const GRACE: Duration = Duration::from_secs(2);

/// Runs one scenario, as the parent under test.
pub(super) fn be(control: &'static Controller) -> Result<bool> {
    control.be_root();
    let name = env::var(VARIABLE)?;
    let scenario = scenario::ALL.iter().find(|scenario| scenario.name == name);
    let _limit = round::limit(format!("{name}, whose parent is killed"));
    (scenario.context("there is no such scenario")?.run)(AllowedFailures::default())?;
    Ok(true)
}

/// Kills parents, in each scenario at each failpoint that they pass.
pub(super) fn kill_all(control: &Controller, options: &Options) -> Result<bool> {
    prctl::set_child_subreaper(true).context("cannot become the parent of orphans")?;
    let mut good = true;
    let is_wanted =
        |scenario: &&Scenario| options.scenario.as_ref().is_none_or(|name| *name == scenario.name);
    for scenario in scenario::ALL.iter().filter(is_wanted) {
        control.count(Target::Root);
        ensure!(start(control, scenario)?.0 == Some(0), "{} fails, undisturbed", scenario.name);
        let counts: Vec<_> = Failpoint::ALL.iter().map(|&point| (point, control.hits(point))).collect();
        let mut line = Row::new("failpoints", format!("the parent killed: {}", scenario.name));
        for (point, count) in counts.into_iter().filter(|&(_, count)| count > 0) {
            if options.only.as_ref().is_some_and(|name| point.name() != name) {
                continue;
            }
            line.points += 1;
            for nth in passes(count, options.times) {
                match kill(control, scenario, point, nth) {
                    Ok(Some(milliseconds)) => line.passed(Some(milliseconds)),
                    Ok(None) => {} // this run passed it less often
                    Err(error) => {
                        let failure = format!("{} at the {nth}. {}: {error:#}", scenario.name, point.name());
                        eprintln!("the parent killed in {failure}");
                        line.fail(failure);
                    }
                }
            }
        }
        good &= line.failures.is_empty();
        line.print();
    }
    Ok(good)
}

fn kill(control: &Controller, scenario: &Scenario, point: Failpoint, nth: u32) -> Result<Option<f64>> {
    control.arm(point, nth, Action::Kill, Target::Root);
    let (code, signal, orphans) = start(control, scenario)?;
    match (control.disarm(), code, signal) {
        (Some(_), _, Some(signal)) if signal == Signal::SIGKILL as i32 => {
            Ok(Some(orphans.as_secs_f64() * 1e3))
        }
        (None, Some(0), _) => Ok(None),
        (_, code, signal) => bail!("it ended with code {code:?}, signal {signal:?}"),
    }
}

/// Runs the program. Returns its exit code, its signal, and how long its orphans outlived it.
fn start(control: &Controller, scenario: &Scenario) -> Result<(Option<i32>, Option<i32>, Duration)> {
    let mut program = Command::new(env::current_exe()?);
    program.arg("failpoints").env(multiproc::failpoints::ENV_VAR, control.path().context("no path")?);
    let status = program.env(VARIABLE, scenario.name).status().context("cannot start the parent")?;
    let ended = Instant::now();
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Err(Errno::ECHILD) => break,
            Ok(WaitStatus::StillAlive) if ended.elapsed() > GRACE => bail!("processes live on"),
            Ok(WaitStatus::StillAlive) => thread::sleep(Duration::from_millis(1)),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok((status.code(), status.signal(), ended.elapsed()))
}

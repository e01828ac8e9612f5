//! Failpoints: a kill, a stop or a refused system call at every named step of a protocol.
//!
//! A [scenario](scenario) is a workload that passes many failpoints. It runs once to count how often it
//! passes each; then once for each failpoint, some of those passes, and each action. The scenario checks its
//! results, and afterwards the process must hold the resources that it held before.

mod parent;
mod round;
mod scenario;

use std::collections::BTreeMap;
use std::env;
use std::panic::resume_unwind;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use faults::Row;
use multiproc::failpoints::{Action, Controller, ENV_VAR, Failpoint, Hit, Target, now};

use crate::resources::ResourceSnapshot;
use crate::stalls::Stalls;
use scenario::{AllowedFailures, Scenario};

#[derive(Args)]
pub(crate) struct Options {
    /// Only this failpoint
    #[arg(long, value_name = "POINT")]
    only: Option<String>,
    /// Only this scenario
    #[arg(long, value_name = "NAME")]
    scenario: Option<String>,
    /// At how many of its passes each failpoint is hit
    #[arg(long, value_name = "N", default_value = "3")]
    times: u32,
    /// Also kill the parent, in separate programs
    #[arg(long)]
    parent: bool,
}

pub(crate) fn run(options: &Options) -> Result<bool> {
    if let Some(name) = &options.only {
        named(name)?;
    }
    match Controller::of_environment() {
        Some(control) if env::var_os(parent::VARIABLE).is_some() => parent::be(control),
        // Not in the main thread: SIGCHLD would wake that from any sleep, and hide a missing wake-up.
        Some(control) => thread::scope(|scope| {
            scope.spawn(|| inject_all(control, options)).join().unwrap_or_else(|panic| resume_unwind(panic))
        }),
        None => {
            let control = Controller::create()?;
            let path = control.path().context("the control memory has no path")?;
            let mut program = Command::new(env::current_exe()?);
            program.args(env::args_os().skip(1)).env(ENV_VAR, &path);
            let mut good = program.status().context("cannot start the program under test")?.success();
            if options.parent {
                good &= parent::kill_all(&control, options)?;
            }
            Ok(good)
        }
    }
}

fn named(name: &str) -> Result<Failpoint> {
    let found = Failpoint::ALL.iter().find(|point| point.name() == name);
    found.copied().with_context(|| {
        let names: Vec<_> = Failpoint::ALL.iter().map(|point| point.name()).collect();
        format!("there is no failpoint `{name}`; there are {}", names.join(", "))
    })
}

/// How long after a fault every handle must have its result, beyond what the same work takes undisturbed.
const SETTLED: Duration = Duration::from_secs(2);

/// How often a scenario runs before the resource snapshot: the library caches received data and memory.
const WARM_UP: u32 = 10;

/// The results, by failpoint and action.
type Rows = BTreeMap<(&'static str, &'static str), Row>;

fn inject_all(control: &'static Controller, options: &Options) -> Result<bool> {
    control.be_root();
    round::continue_stopped(control)?;
    Stalls::begin(); // its thread is there before resources are counted
    let mut rows = Rows::new();
    let mut reached = Vec::new();
    for scenario in scenario::ALL {
        if options.scenario.as_ref().is_some_and(|name| *name != scenario.name) {
            continue;
        }
        reached.extend(inject_in(control, scenario, options, &mut rows)?);
    }
    let everything = options.only.is_none() && options.scenario.is_none();
    for point in Failpoint::ALL.iter().filter(|point| everything && !reached.contains(point)) {
        if is_for_this_method(*point) {
            let mut row = Row::new("failpoints", point.name());
            row.fail("no scenario passes this failpoint".to_owned());
            row.print();
        }
    }
    rows.values().for_each(Row::print);
    Ok(rows.values().all(|row| row.failures.is_empty()))
}

/// Where each child is executed, there is no zygote.
fn is_for_this_method(point: Failpoint) -> bool {
    let spawns = env::var("MULTIPROC_START_METHOD").is_ok_and(|method| method == "spawn");
    let is_of_zygote = ["zygote:", "preforked:"].iter().any(|area| point.name().starts_with(area))
        || [Failpoint::ForkRequested, Failpoint::BootstrapSent, Failpoint::Fork].contains(&point);
    !(spawns && is_of_zygote)
}

/// Strikes at every failpoint that the scenario passes. Returns these failpoints.
fn inject_in(
    control: &Controller,
    scenario: &Scenario,
    options: &Options,
    rows: &mut Rows,
) -> Result<Vec<Failpoint>> {
    let fault_free = |target| -> Result<()> {
        control.count(target);
        (scenario.run)(AllowedFailures::default())
            .with_context(|| format!("{}, undisturbed", scenario.name))?;
        Ok(())
    };
    for _ in 0..WARM_UP {
        fault_free(Target::Anyone)?;
    }
    let before = ResourceSnapshot::now()?;
    let mut reached = Vec::new();
    for act in [Action::Kill, Action::Stop, Action::Refuse] {
        let target = if act == Action::Refuse { Target::Anyone } else { Target::Descendant };
        fault_free(target)?;
        let counts: Vec<_> = Failpoint::ALL.iter().map(|&point| (point, control.hits(point))).collect();
        for (point, count) in counts.into_iter().filter(|&(_, count)| count > 0) {
            let is_wanted = options.only.as_ref().is_none_or(|name| point.name() == name);
            if !is_wanted || (act == Action::Refuse) != can_be_refused(point) {
                continue;
            }
            reached.push(point);
            let row = rows
                .entry((point.name(), word(act)))
                .or_insert_with(|| Row::new("failpoints", format!("{} {}", point.name(), word(act))));
            row.points += 1;
            for nth in passes(count, options.times) {
                let outcome = inject(control, scenario, &before, (point, nth, act, target));
                enter(row, outcome, scenario, (point, nth, act));
            }
        }
    }
    Ok(reached)
}

/// Enters the outcome of one fault into its row.
fn enter(
    row: &mut Row,
    outcome: Result<Option<f64>>,
    scenario: &Scenario,
    (point, nth, act): (Failpoint, u32, Action),
) {
    match outcome {
        Ok(Some(milliseconds)) => row.passed(Some(milliseconds)),
        Ok(None) => {} // this run passed it less often
        Err(error) => {
            let failure = format!("{} at the {nth}. {}: {error:#}", scenario.name, point.name());
            eprintln!("{} {failure}", word(act));
            row.fail(failure);
        }
    }
}

/// Runs the scenario with one fault. Returns the milliseconds from the fault until everything was settled.
fn inject(
    control: &Controller,
    scenario: &Scenario,
    before: &ResourceSnapshot,
    (point, nth, act, target): (Failpoint, u32, Action, Target),
) -> Result<Option<f64>> {
    let watch = round::limit(format!("{}: {} at the {nth}. {}", scenario.name, word(act), point.name()));
    let stalls = Stalls::begin();
    control.arm(point, nth, act, target);
    let done = (scenario.run)(AllowedFailures::by(point, act));
    let (settled, stalled) = (now(), stalls.time());
    let hit = round::end(control, act);
    let done = done.map_err(|error| match hit {
        Some(Hit { pid, .. }) => error.context(format!("process {pid} was hit")),
        None => error.context("no process was hit"),
    });
    let observed = done?;
    let Some(Hit { at, .. }) = hit else { return Ok(None) };
    if let Some(min) = must_cost(point, act)
        && observed.tasks < min
    {
        bail!("the running task has not failed, though its worker was killed");
    }
    before.wait_until_restored()?;
    control.count(Target::Anyone);
    let begun = now();
    (scenario.run)(AllowedFailures::default()).context("afterwards, undisturbed")?;
    let undisturbed = now().saturating_sub(begun);
    before.wait_until_restored().context("afterwards")?;
    drop(watch);
    let until_settled = observed.settled.unwrap_or(settled).saturating_sub(at);
    if until_settled > SETTLED + undisturbed + stalled {
        bail!("it took {until_settled:?} until everything was settled");
    }
    Ok(Some(until_settled.as_secs_f64() * 1e3))
}

/// The number of items that must fail: between these failpoints, a kill fails the running item.
fn must_cost(point: Failpoint, act: Action) -> Option<u32> {
    let is_within = matches!(
        point,
        Failpoint::ItemBegun
            | Failpoint::ItemReceived
            | Failpoint::MemoryReceived
            | Failpoint::ItemDecoded
            | Failpoint::ItemRan
            | Failpoint::ResultEncoded
            | Failpoint::ResultSpilled
            | Failpoint::ResultSent
            | Failpoint::ResultWritten
    );
    (act == Action::Kill && is_within).then_some(1)
}

fn can_be_refused(point: Failpoint) -> bool {
    point.name().starts_with("syscall:")
}

/// Some of the passes of a failpoint: the first, the last, and some between.
fn passes(count: u32, max: u32) -> Vec<u32> {
    let max = max.max(1).min(count);
    let mut passes: Vec<u32> =
        (0..max).map(|index| if max == 1 { 1 } else { 1 + (count - 1) * index / (max - 1) }).collect();
    passes.dedup();
    passes
}

fn word(act: Action) -> &'static str {
    match act {
        Action::Kill => "killed",
        Action::Stop => "stopped",
        Action::Refuse => "refused",
    }
}

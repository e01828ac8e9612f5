//! Kills, stops and refusals at every named step of a protocol.
//!
//! A [scenario](scenario) is a piece of work that comes through many of the points. It is done once to see
//! which, and how often each; then once for each point, each of some of those times, and each thing that can
//! happen there. Whatever happens, the scenario knows what must come out, and the process must have what it
//! had before.

mod parent;
mod scenario;
mod stopped;

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
use crate::target;
use scenario::{AllowedFailures, Scenario};

#[derive(Args)]
pub(crate) struct Options {
    /// Only this point
    #[arg(long, value_name = "POINT")]
    only: Option<String>,
    /// Only this scenario
    #[arg(long, value_name = "NAME")]
    scenario: Option<String>,
    /// At how many of the times that a process comes to a point it is struck
    #[arg(long, value_name = "N", default_value = "3")]
    times: u32,
    /// Also kill the parent, in programs of their own
    #[arg(long)]
    parent: bool,
}

pub(crate) fn run(options: &Options) -> Result<bool> {
    if let Some(name) = &options.only {
        named(name)?;
    }
    match Controller::of_environment() {
        Some(control) if env::var_os(parent::VARIABLE).is_some() => parent::be(control),
        // Not in the main thread: the signal that a child has died would wake that from any sleep, and hide
        // that nobody did.
        Some(control) => thread::scope(|scope| {
            scope.spawn(|| strike_all(control, options)).join().unwrap_or_else(|panic| resume_unwind(panic))
        }),
        None => {
            let control = Controller::create()?;
            let path = control.path().context("the memory has no path")?;
            let mut program = Command::new(env::current_exe()?);
            program.args(env::args_os().skip(1)).env(ENV_VAR, &path);
            let mut good = program.status().context("cannot start the program that is struck")?.success();
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
        format!("there is no point `{name}`; there are {}", names.join(", "))
    })
}

/// So soon after a fault must every handle have come to its result, the rest of the work included.
const SETTLED: Duration = Duration::from_secs(2);

/// So often is a scenario done before what the process has is looked at: it keeps some data that it has
/// received, and memory to use again.
const WARM_UP: u32 = 10;

/// What comes of each point.
type Lines = BTreeMap<(&'static str, &'static str), Row>;

fn strike_all(control: &'static Controller, options: &Options) -> Result<bool> {
    control.be_root();
    stopped::watch(control)?;
    let mut lines = Lines::new();
    let mut reached = Vec::new();
    for scenario in scenario::ALL {
        if options.scenario.as_ref().is_some_and(|name| *name != scenario.name) {
            continue;
        }
        reached.extend(strike_in(control, scenario, options, &mut lines)?);
    }
    let everything = options.only.is_none() && options.scenario.is_none();
    for point in Failpoint::ALL.iter().filter(|point| everything && !reached.contains(point)) {
        if is_for_this_method(*point) {
            let mut line = Row::new("failpoints", point.name());
            line.fail("no scenario comes here".to_owned());
            line.print();
        }
    }
    lines.values().for_each(Row::print);
    Ok(lines.values().all(|line| line.failures.is_empty()))
}

/// Where each child is executed, there is no zygote.
fn is_for_this_method(point: Failpoint) -> bool {
    let spawns = env::var("MULTIPROC_START_METHOD").is_ok_and(|method| method == "spawn");
    let is_of_zygote = ["zygote:", "preforked:"].iter().any(|area| point.name().starts_with(area))
        || [Failpoint::ForkRequested, Failpoint::BootstrapSent, Failpoint::Fork].contains(&point);
    !(spawns && is_of_zygote)
}

fn strike_in(
    control: &Controller,
    scenario: &Scenario,
    options: &Options,
    lines: &mut Lines,
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
            let line = lines
                .entry((point.name(), word(act)))
                .or_insert_with(|| Row::new("failpoints", format!("{} {}", point.name(), word(act))));
            line.places += 1;
            for nth in places(count, options.times) {
                let came = strike(control, scenario, &before, (point, nth, act, target));
                match came {
                    Ok(Some(milliseconds)) => line.passed(Some(milliseconds)),
                    Ok(None) => {} // it did not come so far this time
                    Err(error) => {
                        let failure = format!("{} at the {nth}. {}: {error:#}", scenario.name, point.name());
                        eprintln!("{} {failure}", word(act));
                        line.fail(failure);
                    }
                }
            }
        }
    }
    Ok(reached)
}

/// Does the scenario with one fault; says how long it took from there until everything was settled.
fn strike(
    control: &Controller,
    scenario: &Scenario,
    before: &ResourceSnapshot,
    (point, nth, act, target): (Failpoint, u32, Action, Target),
) -> Result<Option<f64>> {
    let watch = stopped::limit(format!("{}: {} at the {nth}. {}", scenario.name, word(act), point.name()));
    control.arm(point, nth, act, target);
    let done = (scenario.run)(AllowedFailures::by(point, act));
    let settled = now();
    let struck = control.disarm();
    if let (Action::Stop, Some(Hit { pid, .. })) = (act, &struck) {
        stopped::await_end(control, *pid);
    }
    // A spare that was struck is dead only when the system has taken it down; until then it would still get a
    // letter.
    if let (Action::Kill, Some(Hit { pid, .. })) = (act, &struck)
        && let Some(dying) = target::TargetProcess::open(*pid)
    {
        let _ = dying.has_ended(SETTLED); // if it has not, what follows says so
    }
    let done = done.map_err(|error| match struck {
        Some(Hit { pid, .. }) => error.context(format!("process {pid} was struck")),
        None => error.context("nobody was struck"),
    });
    let observed = done?;
    let Some(Hit { at, .. }) = struck else { return Ok(None) };
    if let Some(least) = must_cost(point, act)
        && observed.tasks < least
    {
        bail!("a task that was running has not failed, though its worker was killed");
    }
    before.wait_until_restored()?;
    control.count(Target::Anyone);
    (scenario.run)(AllowedFailures::default()).context("afterwards, undisturbed")?;
    before.wait_until_restored().context("afterwards")?;
    drop(watch);
    let until_settled = observed.settled.unwrap_or(settled).saturating_sub(at);
    if until_settled > SETTLED {
        bail!("it took {until_settled:?} until everything was settled");
    }
    Ok(Some(until_settled.as_secs_f64() * 1e3))
}

/// Between these, a kill fails the item that runs; no other does.
fn must_cost(point: Failpoint, act: Action) -> Option<u32> {
    let is_within = matches!(
        point,
        Failpoint::ItemBegun
            | Failpoint::ItemReceived
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
    point.name().starts_with("system:")
}

/// Some of the times that a process comes to a point: the first, the last, and between.
fn places(count: u32, most: u32) -> Vec<u32> {
    let most = most.max(1).min(count);
    let mut places: Vec<u32> =
        (0..most).map(|place| if most == 1 { 1 } else { 1 + (count - 1) * place / (most - 1) }).collect();
    places.dedup();
    places
}

fn word(act: Action) -> &'static str {
    match act {
        Action::Kill => "killed",
        Action::Stop => "stopped",
        Action::Refuse => "refused",
    }
}

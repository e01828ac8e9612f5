//! The main loop of a pool worker.

use std::time::Duration;

use super::call::TaskHeader;
use super::cancellation;
use super::item_loop::ItemLoop;
use super::state::{drop_worker_state, take_preloaded_state};
use crate::error::{Error, Result};
use crate::impl_serde::impl_serde;
use crate::ipc::packet::PacketSocket;
use crate::ipc::wire::{self, Arrived, SegmentId};
use crate::logs;
use crate::pool::worker_rings::{OUT_OF_LINE, TASK_HEADER, VALUE, WakeupPage, WorkerRings, WorkerSide};
use crate::spawn::bootstrap;
use crate::sys::failpoint::{self, Failpoint};
use crate::sys::fork_detect::OriginalProcess;
use crate::sys::limit::limit_memory;
use crate::sys::membarrier;
use crate::sys::process::exit_immediately;
use crate::task::TaskId;
use crate::task::initializer::Initializer;
use crate::trace;

/// The arguments of a worker process.
pub(crate) struct WorkerContext {
    /// The worker's index, counted from 0.
    pub(crate) index: usize,
    pub(crate) rings: WorkerRings,
    pub(crate) link: PacketSocket,
    pub(crate) wakeup_page: WakeupPage,
    /// The time to spin for items before sleeping.
    pub(crate) spin: Duration,
    /// Its memory limit in bytes.
    pub(crate) memory_limit: Option<u64>,
}

impl_serde!(struct WorkerContext { index, rings, link, wakeup_page, spin, memory_limit });

/// The main function of a worker process. Returns when the pool closes the rings.
pub(crate) fn serve(context: WorkerContext, initializers: Vec<Initializer>) -> Result<()> {
    bootstrap::set_worker_index(context.index);
    if let Some(own) = bootstrap::identity() {
        trace::name_worker(&own.name, context.index);
    }
    // Before the initializers: they may start threads, with which the call takes milliseconds.
    let has_barrier = membarrier::register();
    if let Some(bytes) = context.memory_limit {
        limit_memory(bytes)?;
    }
    initialize(initializers)?;
    cancellation::set_rings(context.rings.clone());
    let mut rings = WorkerSide::new(context.rings, context.link, context.wakeup_page, context.spin);
    if has_barrier {
        rings.claim_runs();
    }
    rings.signal_ready();
    logs::set_running_item(rings.running_item());
    let no_header = Error::decode("an item", "no header precedes it");
    let (mut task, mut is_timed): (Result<ItemLoop>, bool) = (Err(no_header), false);
    let mut function = None;
    loop {
        match rings.next() {
            Some(TASK_HEADER) => {
                (task, is_timed) = read_header(&mut rings, &mut function);
                if rings.next() == Some(TASK_HEADER) {
                    return Err(Error::decode("an item", "two headers precede it"));
                }
            }
            Some(kind @ (VALUE | OUT_OF_LINE)) => match &task {
                Ok(task) if kind == VALUE && !is_timed => (task.all)(&mut rings),
                task => run_one(&mut rings, kind, task.clone(), is_timed),
            },
            Some(kind) => return Err(Error::decode("an item", format!("unknown frame kind {kind}"))),
            None if wait(&mut rings)? => {}
            None => {
                failpoint::hit(Failpoint::ShutdownRequested);
                drop_worker_state();
                return Ok(());
            }
        }
    }
}

/// Makes the worker's state.
fn initialize(initializers: Vec<Initializer>) -> Result<()> {
    take_preloaded_state();
    for initializer in initializers {
        failpoint::hit(Failpoint::Initializing);
        let original = OriginalProcess::current();
        trace::Items::initialize(|| initializer.run())?;
        if !original.is_current() {
            exit_immediately(0); // a copy that the initializer has forked
        }
    }
    Ok(())
}

/// The function of the items after a header, and whether they have a time limit. `before` is that of the items before.
fn read_header(rings: &mut WorkerSide, before: &mut Option<TaskId>) -> (Result<ItemLoop>, bool) {
    let (number, mut is_timed, mut tag) = (rings.item_number(), false, trace::Tag::default());
    let mut segments: Vec<SegmentId> = Vec::new();
    let mut id = None;
    let task: Result<ItemLoop> = rings.read(|bytes| {
        let header: TaskHeader;
        (header, segments) = wire::decode_internal(bytes, Vec::new(), "a header")?;
        (is_timed, tag) = (header.is_timed, header.trace);
        id = Some(header.task);
        logs::begin_items(header.first, number);
        header.task.find()
    });
    if std::mem::replace(before, id) != id {
        rings.begin_function();
    }
    let task = rings.take_segments(&segments).and(task);
    let function = task.as_ref().map_or("unknown", |task| task.once.name());
    rings.trace.on_header(tag, function, number);
    (task, is_timed)
}

/// Waits for items; returns false when the pool closes the rings.
fn wait(rings: &mut WorkerSide) -> Result<bool> {
    rings.trace.pause();
    trace::waiting("wait", || rings.wait())
}

/// Runs an item outside the loop: it is out of line, has a time limit, or its function is unknown.
fn run_one(rings: &mut WorkerSide, kind: u32, task: Result<ItemLoop>, is_timed: bool) {
    let begun = rings.trace.begin(rings.item_number());
    if is_timed {
        rings.start_item_timer();
    }
    let mut result = Vec::new();
    let segments = rings.segments();
    let run = if kind == OUT_OF_LINE {
        rings.receive().and_then(|(args, descriptors)| {
            failpoint::hit(Failpoint::ItemReceived);
            let (task, arrived) = (task?, Arrived::new(descriptors, segments));
            args.with_bytes(|args| task.once.run(args, arrived, &mut result))
        })
    } else {
        rings.read(|args| task?.once.run(args, segments, &mut result))
    };
    let run = run.and_then(|descriptors| match descriptors.len() {
        0 => rings.write(VALUE, &result),
        _ => rings.write_with_descriptors(&result, descriptors),
    });
    if is_timed {
        rings.flush_running();
        rings.stop_item_timer();
    }
    match run {
        Ok(()) => rings.complete(),
        Err(error) => rings.fail(error),
    }
    rings.trace.end(begun, rings.item_number());
}

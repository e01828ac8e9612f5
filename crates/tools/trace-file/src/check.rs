//! What holds of every trace.

use std::collections::{BTreeMap, HashSet};

use crate::{Event, Phase, Trace};

const CATEGORIES: [&str; 9] =
    ["__metadata", "start", "init", "task", "item", "wait", "pool", "exit", "trace"];

/// Below the resolution of the clock: times are read as floating-point numbers.
const TOLERANCE: f64 = 0.000_5;

pub(crate) fn check(trace: &Trace) -> Result<(), String> {
    for event in &trace.events {
        check_event(event).map_err(|why| format!("{why}: {event:?}"))?;
    }
    check_names(trace)?;
    check_nesting(trace)?;
    check_flows(trace)
}

fn check_event(event: &Event) -> Result<(), String> {
    let Event { phase, category, ts, dur, scope, bind_id, flow_in, flow_out, args, .. } = event;
    let is_slice = *phase == Phase::Slice;
    let holds = [
        (CATEGORIES.contains(&&**category) || category == "death", "an unknown category"),
        (event.pid > 0 && event.tid > 0 && !event.name.is_empty(), "no process, thread or name"),
        (dur.is_some() == is_slice && dur.is_none_or(|dur| dur >= 0.0), "not a slice's duration"),
        ((scope.as_deref() == Some("p")) == (*phase == Phase::Instant), "not an instant's scope"),
        ((*phase == Phase::Name) == (category == "__metadata") && *ts >= 0.0, "not a time"),
        (bind_id.is_some() == (*flow_in || *flow_out) && (is_slice || bind_id.is_none()), "no flow"),
        (*phase != Phase::Name || event.text("name").is_some(), "no name"),
        (category != "item" || event.number("count").is_some_and(|count| count > 0), "no count"),
        (category != "item" || event.number("index").is_some(), "no index"),
        (category != "exit" || event.text("cause").is_some(), "no cause"),
        (args.values().all(|value| !value.is_object() && !value.is_array()), "an argument of many parts"),
    ];
    holds.iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, why)| Err((*why).to_owned()))
}

/// Each process with a slice has a name, and each thread of it but the first.
fn check_names(trace: &Trace) -> Result<(), String> {
    let named = |what| trace.named(what).map(|event| (event.pid, event.tid)).collect::<HashSet<_>>();
    let (processes, threads) = (named("process_name"), named("thread_name"));
    let has_name = |event: &&Event| {
        processes.contains(&(event.pid, event.pid))
            && (event.tid == event.pid || threads.contains(&(event.pid, event.tid)))
    };
    let nameless = trace.events.iter().find(|event| event.phase == Phase::Slice && !has_name(event));
    nameless.map_or(Ok(()), |event| Err(format!("its process or thread has no name: {event:?}")))
}

/// Slices of one thread lie one in the other or one after the other.
fn check_nesting(trace: &Trace) -> Result<(), String> {
    let mut threads: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for event in trace.events.iter().filter(|event| event.phase == Phase::Slice) {
        threads.entry((event.pid, event.tid)).or_default().push(event);
    }
    for slices in threads.values_mut() {
        slices.sort_by(|one, other| one.ts.total_cmp(&other.ts).then(other.end().total_cmp(&one.end())));
        let mut open: Vec<&Event> = Vec::new();
        for slice in slices.iter() {
            while open.pop_if(|outer| outer.end() <= slice.ts + TOLERANCE).is_some() {}
            if let Some(outer) = open.last().filter(|outer| slice.end() > outer.end() + TOLERANCE) {
                return Err(format!("two slices overlap: {outer:?} and {slice:?}"));
            }
            open.push(slice);
        }
    }
    Ok(())
}

/// Each arrow has one start, and begins there.
fn check_flows(trace: &Trace) -> Result<(), String> {
    let mut starts = HashSet::new();
    for event in trace.named("submit") {
        if !event.flow_out || !starts.insert(&event.bind_id) {
            return Err(format!("no arrow, or that of another submission: {event:?}"));
        }
    }
    Ok(())
}

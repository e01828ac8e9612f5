//! What processes do while all is well.

use std::collections::HashSet;

use trace_file::{Event, Trace};

use super::trace_of;
use crate::support::{METHODS, Outcome, trials};

trials![
    every_item_is_in_one_slice,
    each_process_has_a_track_with_its_name,
    waits_and_arrows_are_there,
    a_full_queue_and_a_task_that_was_not_begun_are_there,
    a_state_is_there_and_a_copied_one_is_not,
];

fn of_function<'t>(trace: &'t Trace, name: &'t str) -> Vec<&'t Event> {
    trace.of_category("item").filter(|event| event.name == format!("traced::{name}")).collect()
}

fn every_item_is_in_one_slice() -> Outcome {
    for method in METHODS {
        let trace = trace_of("work", method);
        let all = [
            ("add_one", (0..20_000).collect()),
            ("double", vec![0, 1]),
            ("pause", vec![0, 0, 1, 1, 2, 2, 3, 3, 4, 5]), // of two calls
        ];
        for (function, expected) in all {
            let range = |slice: &Event| {
                let first = slice.number("index").unwrap();
                first..first + slice.number("count").unwrap()
            };
            let mut indices: Vec<_> = of_function(&trace, function).into_iter().flat_map(range).collect();
            indices.sort_unstable();
            assert!(indices == expected, "{function}: {} of {} items", indices.len(), expected.len());
        }
        let pauses = of_function(&trace, "pause");
        assert!(pauses.iter().all(|slice| slice.number("count") == Some(1) && slice.dur.unwrap() >= 1000.0));
    }
    Ok(())
}

fn each_process_has_a_track_with_its_name() -> Outcome {
    for method in METHODS {
        let trace = trace_of("work", method);
        let mut names: Vec<_> = trace.names().into_values().collect();
        names.sort_unstable();
        assert_eq!(names, ["\"Anna\" \\\n\u{1} ü", "main", "pool-worker 0", "pool-worker 1"]);
        assert_eq!((trace.of_category("start").count(), trace.of_category("init").count()), (3, 2));
        let main = trace.names().into_iter().find(|(_, name)| *name == "main").unwrap().0;
        for start in trace.of_category("start") {
            assert_eq!(start.number("parent"), Some(main.into()));
            let exits: Vec<_> = trace.named("exit").filter(|exit| exit.pid == start.pid).collect();
            let [exit] = exits[..] else { panic!("{exits:?}") };
            assert!(exit.number("code") == Some(0) && exit.ts > start.end());
        }
        let tasks: Vec<_> = trace.of_category("task").map(|task| &*task.name).collect();
        assert_eq!(tasks, ["traced::receive"]);
        assert_eq!(trace.of_category("death").count(), 0);
    }
    Ok(())
}

fn waits_and_arrows_are_there() -> Outcome {
    for method in METHODS {
        let trace = trace_of("work", method);
        for name in ["wait", "results", "join", "receive"] {
            assert!(trace.named(name).any(|wait| wait.category == "wait"), "{name}");
        }
        let receive = trace.named("receive").map(|wait| wait.dur.unwrap()).fold(0.0, f64::max);
        assert!(receive > 1000.0, "the child has waited for a message");
        let submitted: u64 = trace.named("submit").filter_map(|submit| submit.number("count")).sum();
        let taken: u64 = trace.named("take").filter_map(|take| take.number("count")).sum();
        assert_eq!(taken, 20_012);
        assert!(submitted >= taken, "items that were taken back are submitted again");
        // An arrow leads from a submission to its first item, and from there to its result.
        let end = trace.named("take").find(|take| take.flow_in).unwrap();
        let follows = |event: &&Event| event.bind_id == end.bind_id;
        let start = trace.named("submit").find(follows).unwrap();
        let item = trace.of_category("item").find(follows).unwrap();
        assert!(start.ts <= item.ts && item.ts <= end.end(), "{start:?} {item:?} {end:?}");
        let ends: HashSet<_> = trace.named("take").filter_map(|take| take.bind_id.as_ref()).collect();
        let mut begun = trace.of_category("item").filter_map(|item| item.bind_id.as_ref());
        assert!(begun.all(|arrow| ends.contains(arrow)), "its submission was taken with another one");
        assert_eq!(
            (start.number("index"), start.number("worker")),
            (item.number("index"), Some(item.pid.into()))
        );
    }
    Ok(())
}

fn a_full_queue_and_a_task_that_was_not_begun_are_there() -> Outcome {
    for method in METHODS {
        let trace = trace_of("waits", method);
        let task = trace.named("traced::send_three").next().unwrap();
        let sends: Vec<_> = trace.named("send").collect();
        assert!(sends.iter().all(|send| send.category == "wait" && send.pid == task.pid), "{sends:?}");
        assert!(sends.iter().any(|send| send.dur.unwrap() >= 3_000.0), "{sends:?}");
        let main = trace.names().into_iter().find(|(_, name)| *name == "main").unwrap().0;
        let cancels: Vec<_> = trace.named("cancel").collect();
        assert!(matches!(cancels[..], [cancel] if cancel.pid == main), "{cancels:?}");
        assert!(of_function(&trace, "add_one").is_empty());
        assert_eq!(of_function(&trace, "receive").len(), 1);
    }
    Ok(())
}

fn a_state_is_there_and_a_copied_one_is_not() -> Outcome {
    for method in METHODS {
        let trace = trace_of("states", method);
        let slices: Vec<_> = trace.of_category("init").collect();
        let of_two_workers = |slice: &&Event| slice.name == "initializer" && slice.dur.unwrap() >= 2_000.0;
        assert!(slices.len() == 2 && slices.iter().all(of_two_workers), "{slices:?}");
        assert_eq!(trace.items(), 2);
    }
    Ok(())
}

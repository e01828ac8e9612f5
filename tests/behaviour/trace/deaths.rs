//! Processes that die, and are ended.

use trace_file::{Event, Trace};

use super::trace_of;
use crate::support::{METHODS, Outcome, trials};

trials![
    a_death_its_item_and_the_next_worker_are_there,
    a_time_limit_and_a_cancelled_task_are_there,
    a_process_that_ends_with_its_parent_is_there,
];

fn unfinished<'t>(trace: &'t Trace, name: &'t str) -> Vec<&'t Event> {
    trace.named(name).filter(|event| event.is_unfinished()).collect()
}

fn a_death_its_item_and_the_next_worker_are_there() -> Outcome {
    for method in METHODS {
        let trace = trace_of("deaths", method);
        let items: u64 = trace.named("traced::die_at_two").filter_map(|event| event.number("count")).sum();
        assert_eq!(items, 5);
        let [fatal] = unfinished(&trace, "traced::die_at_two")[..] else { panic!("{trace:?}") };
        assert!(fatal.number("index") == Some(2) && fatal.dur.unwrap() >= 3000.0);
        let exit = trace.named("exit").find(|exit| exit.pid == fatal.pid).unwrap();
        assert_eq!((exit.number("signal"), exit.text("cause")), (Some(9), Some("killed by SIGKILL")));
        let death = trace.named("death").find(|death| death.pid == fatal.pid).unwrap();
        assert!(death.text("cause").unwrap().contains("was killed by SIGKILL"), "{death:?}");
        let restart = trace.named("restart").find(|restart| restart.ts > death.ts).unwrap();
        assert_eq!(restart.number("index"), Some(0));
        let next = u32::try_from(restart.number("worker").unwrap())?;
        assert!(next != fatal.pid && trace.names()[&next] == "mortals 0");
        let [task] = unfinished(&trace, "traced::die")[..] else { panic!("{trace:?}") };
        assert!(task.category == "task" && task.dur.unwrap() >= 3000.0);
    }
    Ok(())
}

fn a_time_limit_and_a_cancelled_task_are_there() -> Outcome {
    for method in METHODS {
        let trace = trace_of("deaths", method);
        let [late] = unfinished(&trace, "traced::pause")[..] else { panic!("{trace:?}") };
        let [cancelled] = unfinished(&trace, "traced::begin_and_pause")[..] else { panic!("{trace:?}") };
        let timeout = trace.named("timeout").next().unwrap();
        assert_eq!((timeout.pid, timeout.text("limit")), (late.pid, Some("20ms")));
        assert!(late.dur.unwrap() >= 20_000.0);
        let cancel = trace.named("cancel").next().unwrap();
        assert_eq!(cancel.pid, cancelled.pid);
        assert_eq!(trace.named("restart").count(), 3);
    }
    Ok(())
}

fn a_process_that_ends_with_its_parent_is_there() -> Outcome {
    for method in METHODS {
        let trace = trace_of("orphan", method);
        let [parent] = unfinished(&trace, "traced::die_with_child")[..] else { panic!("{trace:?}") };
        let [orphan] = unfinished(&trace, "traced::stay")[..] else { panic!("{trace:?}") };
        let exits = |pid| trace.named("exit").filter(move |exit| exit.pid == pid).collect::<Vec<_>>();
        let ([exit], [end]) = (&exits(parent.pid)[..], &exits(orphan.pid)[..]) else { panic!("{trace:?}") };
        assert_eq!((exit.number("signal"), end.number("signal")), (Some(9), None));
        assert!(end.text("cause").unwrap().contains("its parent had ended"), "{end:?}");
    }
    Ok(())
}

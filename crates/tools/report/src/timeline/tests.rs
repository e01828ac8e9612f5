//! Timelines of traces: rows, slices, and traces that make none.

use super::*;

const TRACE: &str = include_str!("../../tests/trace.json");

#[test]
fn every_process_has_a_row_in_the_order_of_starting() {
    let timeline = timeline(TRACE).unwrap();
    let names: Vec<_> = timeline.rows.iter().map(|row| row.name.as_str()).collect();
    assert_eq!(names, ["main", "A", "B"]);
    assert_eq!(timeline.length, "10.0 ms");
    let ticks: Vec<_> = timeline.ticks.iter().map(|tick| format!("{} {}", tick.at, tick.text)).collect();
    assert_eq!(ticks[..2], ["0.00% 0 ms", "20.00% 2 ms"]);
    assert_eq!(timeline.more, 0);
}

#[test]
fn a_row_says_what_the_process_did() {
    let timeline = timeline(TRACE).unwrap();
    let [main, a, b] = timeline.rows.as_slice() else { panic!("{timeline:?}") };
    assert_eq!((main.width.as_str(), main.end.as_deref()), ("100.00%", None));
    assert_eq!(main.slices.last().unwrap().title, "join 7.00 ms");
    assert_eq!(a.summary, "starting 1.00 ms, running 2.00 ms, waiting 2.00 ms, exited with code 0");
    let drawn: Vec<_> = a.slices.iter().map(|slice| (slice.state, slice.from.as_str())).collect();
    assert_eq!(drawn, [(State::Running, "20.00%"), (State::Starting, "10.00%"), (State::Waiting, "30.00%")]);
    assert!(!a.died && b.died);
    assert_eq!(b.end.as_deref(), Some("90.00%"));
    assert!(b.summary.ends_with("killed by SIGSEGV"), "{}", b.summary);
}

#[test]
fn slices_too_near_to_tell_apart_are_one() {
    let item = |at: u32| {
        format!(
            r#"{{"ph":"X","cat":"item","name":"f","pid":2,"tid":2,"ts":{at},"dur":1,"args":{{"count":2}}}},"#
        )
    };
    let mut trace =
        "[\n{\"ph\":\"X\",\"cat\":\"wait\",\"name\":\"join\",\"pid\":1,\"tid\":1,\"ts\":0,\"dur\":9},\n"
            .to_owned();
    trace += &[0, 2, 10_000].map(item).join("\n");
    let timeline = timeline(&trace).unwrap();
    let titles: Vec<_> = timeline.rows[1].slices.iter().map(|slice| slice.title.as_str()).collect();
    assert_eq!(titles, ["4 times", "f 1.00 µs"]);
}

#[test]
fn a_trace_of_one_process_or_of_nothing_is_no_timeline() {
    assert!(timeline("").is_none());
    assert!(timeline("[\n{\"ph\":\"M\",\"pid\":1,\"ts\":0}").is_none());
}

//! Traces: the lines of events, full buffers, ended processes, and overwritten memory.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::id;
use std::thread;
use std::time::Duration;

use proptest::prelude::*;

use super::buffer::{Buffer, Run};
use super::buffers::Buffers;
use super::event::{Event, Track};
use super::file::Writer;
use super::items::{ITEM, State, run_slice};
use super::overflow::Overflow;
use super::submissions::Tag;
use super::tracer::Tracer;
use crate::sys::poll::Deadline;
use crate::sys::thread_id::ThreadId;
use crate::testing::cases;

const TRACK: Track = Track { pid: 7, tid: 8 };

#[test]
fn an_event_is_a_line_of_json() {
    let slice = Event::slice("pool", "take", TRACK, (1_234_567, 2_000_000)).flow(0x1f, true, false);
    let line = slice.count("count", 3_u32).text("cause", "none").flag("unfinished").end();
    assert_eq!(
        line,
        "{\"ph\":\"X\",\"cat\":\"pool\",\"name\":\"take\",\"pid\":7,\"tid\":8,\"ts\":1234.567,\"dur\":765.433,\
         \"bind_id\":\"0x1f\",\"flow_in\":true,\"args\":{\"count\":3,\"cause\":\"none\",\"unfinished\":true}},\n"
    );
    let instant = Event::instant("exit", "exit", 9, 1_000).number("signal", -1).end();
    assert_eq!(
        instant,
        "{\"ph\":\"i\",\"cat\":\"exit\",\"name\":\"exit\",\"pid\":9,\"tid\":9,\"ts\":1.000,\"s\":\"p\",\
         \"args\":{\"signal\":-1}},\n"
    );
}

#[test]
fn names_are_escaped_and_cut() {
    let line = |name: &str| Event::name("process_name", TRACK, name).end();
    assert!(
        line("\"\\\n\u{1}ü").contains("{\"name\":\"\\\"\\\\\\u000a\\u0001ü\"}"),
        "{}",
        line("\"\\\n\u{1}ü")
    );
    let long = line(&"ü".repeat(2_000));
    assert!(long.contains(&"ü".repeat(256)) && !long.contains(&"ü".repeat(257)));
    assert!(line(&format!("a{}", "ü".repeat(2_000))).contains("aü"), "cut between two characters");
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn times_have_three_decimals(begin in any::<u64>(), time in any::<u32>()) {
        let line = Event::slice("item", "f", TRACK, (begin, begin.saturating_add(time.into()))).end();
        let expected = format!("\"ts\":{}.{:03},\"dur\":", begin / 1000, begin % 1000);
        prop_assert!(line.contains(&expected), "{} {}", line, expected);
    }
}

#[test]
fn short_items_share_a_slice() {
    let run = |begin, end, index, count| Run { begin, end, index, count };
    let first = run(1_000, 1_900, 5, 1);
    assert_eq!(first.and(run(2_000, 2_900, 6, 1)), Some(run(1_000, 2_900, 5, 2)));
    assert_eq!(first.and(run(2_000, 9_000, 6, 10)), Some(run(1_000, 9_000, 5, 11)));
    assert_eq!(first.and(run(2_000, 3_000, 6, 1)), None, "a microsecond is not short");
    assert_eq!(first.and(run(60_000, 60_100, 6, 1)), None, "too far away");
    assert_eq!(first.and(run(2_000, 1_100_000, 6, 10_000)), None, "too long together");
    assert_eq!(Run::default().and(first), None, "there is none before");
}

/// A trace file that is removed in the end.
struct Traced {
    path: PathBuf,
    writer: Writer,
}

impl Traced {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("multiproc-{name}-{}.json", id()));
        fs::write(&path, "what it has held").unwrap();
        let writer = Writer::create(&path, &Buffers::create().unwrap()).unwrap();
        Self { path, writer }
    }

    fn claim(&self, pid: u64) -> Buffer {
        self.writer.buffers().claim(ThreadId::from_bits(pid), None).unwrap()
    }

    /// The same buffer, as another process sees it.
    fn buffer_of(&self, pid: u32) -> Buffer {
        self.writer.buffers().buffer_of(pid).unwrap()
    }

    /// The lines of the file after a flush.
    fn lines(&self) -> Vec<String> {
        self.writer.flush(Vec::new, Deadline::now());
        fs::read_to_string(&self.path).unwrap().lines().map(str::to_owned).collect()
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

#[test]
fn the_lines_of_an_ended_process_come_to_the_file() {
    let traced = Traced::new("ended");
    assert_eq!(traced.lines(), ["["]);
    let [one, other] = [1001, 1002].map(|pid| traced.claim(pid));
    one.put(b"one,\n");
    other.put(b"other,\n");
    one.set_label(ITEM, "f");
    let run = Run { begin: 1, end: 2, index: 3, count: 4 };
    one.set_run(run);
    one.begin(5, 6);
    let unfinished = traced.writer.buffers().release(1001).unwrap();
    assert_eq!((unfinished.kind, &*unfinished.label, unfinished.begun, unfinished.index), (ITEM, "f", 5, 6));
    assert_eq!(unfinished.run, run);
    assert!(traced.writer.buffers().release(1001).is_none());
    assert_eq!(traced.lines(), ["[", "one,", "other,"]);
    let next = traced.claim(1001);
    next.put(b"next,\n");
    let unfinished = traced.writer.buffers().release(1001).unwrap();
    assert_eq!((unfinished.begun, unfinished.run), (0, Run::default()), "those of the process before");
    assert_eq!(traced.lines(), ["[", "one,", "other,", "next,"]);
}

#[test]
fn a_process_with_a_full_buffer_waits_and_then_goes_on() {
    let traced = Traced::new("full");
    let buffer = traced.claim(1001);
    let line =
        |number: u64| run_slice("", Run { begin: number, end: number, index: number, count: 1 }, 0).end();
    thread::scope(|scope| {
        let writer = scope.spawn(|| (0..20_000).for_each(|number| buffer.put(line(number).as_bytes())));
        while !writer.is_finished() {
            traced.writer.buffers().wait(Duration::from_millis(5));
            traced.lines();
        }
    });
    // On a busy machine this thread may have come too late for some of them.
    let lines: Vec<_> = traced.lines().into_iter().filter(|line| !is_lost(line)).collect();
    assert!(lines.len() > 2_000, "{}", lines.len());
    let number = |line: &String| line.rsplit(':').next()?.strip_suffix("}},")?.parse::<u64>().ok();
    let numbers: Vec<_> = lines[1..].iter().map(|line| number(line).unwrap()).collect();
    assert!(numbers.is_sorted() && lines[1..].iter().zip(&numbers).all(|(a, &b)| *a == line(b).trim_end()));
}

#[test]
fn a_worker_writes_short_items_together_and_a_long_one_by_itself() {
    let traced = Traced::new("short");
    let tracer = Tracer::claim(traced.writer.buffers(), None, None).unwrap();
    let mut state = State::new(Box::leak(Box::new(tracer)));
    state.on_header(Tag { first: 100, flow: 9 }, "program::f", 0);
    let item = |index: u64, time| Run { begin: index * 2_000, end: index * 2_000 + time, index, count: 1 };
    (100..105).for_each(|index| state.add(item(index, 900)));
    state.add(item(105, 1_500));
    (106..108).for_each(|index| state.add(item(index, 100)));
    state.put_run();
    let lines = traced.lines();
    let slices = lines.iter().filter(|line| line.contains("program::f"));
    let slices: Vec<_> = slices.filter_map(|line| line.split_once("\"ts\":")).collect();
    let expected = [
        r#"200.000,"dur":8.900,"bind_id":"0x9","flow_in":true,"flow_out":true,"args":{"count":5,"index":100}},"#,
        r#"210.000,"dur":1.500,"args":{"count":1,"index":105}},"#,
        r#"212.000,"dur":2.100,"args":{"count":2,"index":106}},"#,
    ];
    assert!(slices.iter().map(|(_, rest)| *rest).eq(expected), "{slices:?}");
}

/// How many lines are said to be lost.
fn lost(lines: &[String]) -> usize {
    let count = |line: &String| line.rsplit(':').next()?.strip_suffix("}},")?.parse::<usize>().ok();
    lines.iter().filter(|line| is_lost(line)).map(|line| count(line).unwrap()).sum()
}

fn is_lost(line: &str) -> bool {
    line.contains("\"name\":\"lost\"")
}

#[test]
fn a_process_whose_events_are_not_taken_goes_on_without() {
    let traced = Traced::new("stuck");
    let buffer = traced.claim(1001);
    (0..20_000).for_each(|_| buffer.put(b"a line that takes some room,\n"));
    buffer.put(format!("{}\n", "x".repeat(1_000_000)).as_bytes()); // has no place in any buffer
    let lines = traced.lines();
    let written = lines.iter().filter(|line| line.starts_with("a line")).count();
    assert!(written < 20_000 && written > 2_000, "{written}");
    assert_eq!(lost(&lines), 20_001 - written);
    buffer.put(b"the next,\n");
    assert_eq!(traced.lines().len(), lines.len() + 1);
}

#[test]
fn a_thread_that_holds_a_lock_never_waits_for_room() {
    let traced = Traced::new("overflow");
    let (buffer, overflow) = (traced.claim(1001), Overflow::default());
    let line = |number: usize| format!("line {number},\n");
    overflow.put(&buffer, line(0).as_bytes());
    assert!(overflow.take().is_none(), "there is room in the buffer");
    let other = traced.buffer_of(1001);
    let held = other.hold();
    overflow.put(&buffer, line(1).as_bytes()); // else it waits for itself
    drop(held);
    overflow.put(&buffer, line(2).as_bytes());
    assert_eq!(traced.lines(), ["[", "line 0,", "line 1,", "line 2,"]);
    (3..=200_000).for_each(|number| overflow.put(&buffer, line(number).as_bytes()));
    let kept = overflow.take().unwrap();
    assert!(kept.len() <= 1024 * 1024 && overflow.take().is_none());
    traced.writer.flush(|| kept, Deadline::now());
    let lines = traced.lines();
    let numbers = |line: &String| line.strip_prefix("line ")?.strip_suffix(',')?.parse::<usize>().ok();
    let written: BTreeSet<_> = lines.iter().filter_map(numbers).collect();
    assert!(written.len() > 50_000 && written.last() < Some(&200_000), "{}", written.len());
    assert_eq!(written.len() + lost(&lines), 200_001);
}

#[test]
fn the_buffer_of_an_orphan_is_freed() {
    const NEVER: u64 = 1 << 22; // no process has this number
    let (traced, living) = (Traced::new("orphan"), ThreadId::current_and_process().1);
    let buffers = traced.writer.buffers();
    let ended = ThreadId::from_bits(NEVER);
    let buffer = buffers.claim(ended, Some(ended)).unwrap();
    buffer.put(b"last words,\n");
    for (process, parent) in [(ended, Some(living)), (living, Some(ended)), (ended, None)] {
        buffers.claim(process, parent).unwrap();
    }
    while buffers.claim(living, None).is_some() {}
    let [(pid, unfinished)] = &buffers.release_orphans()[..] else { panic!("one") };
    assert_eq!((u64::from(*pid), unfinished.begun), (NEVER, 0));
    assert!(buffers.release_orphans().is_empty() && buffers.claim(living, None).is_none());
    assert_eq!(traced.lines(), ["[", "last words,"]);
    assert!(buffers.claim(living, None).is_some() && buffers.claim(living, None).is_none());
}

#[test]
fn overwritten_memory_is_no_harm() {
    let traced = Traced::new("overwritten");
    let buffer = traced.claim(1001);
    buffer.overwrite(u64::MAX);
    buffer.put(b"lost,\n");
    assert!(traced.writer.buffers().release(1001).is_some());
    traced.lines();
    assert!(traced.writer.buffers().claim(ThreadId::from_bits(1002), None).is_some());
}

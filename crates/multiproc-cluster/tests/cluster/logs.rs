//! The feature `log`: what tasks log.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use log::kv::{Error, Key, Value, VisitSource};
use log::{LevelFilter, Log, Metadata, Record};

use crate::server::Server;
use crate::support::{Outcome, agent_with, trials, wait_until};

/// Records that fit into the queues between a task and its caller.
const MANY: u32 = 3000;
const ATTEMPTS: u32 = 5;

trials![what_a_task_logs_is_in_the_logger_of_its_caller_or_at_its_agent];

/// A record as this process's logger gets it.
#[derive(Clone, Debug, PartialEq)]
struct Logged {
    text: String,
    values: BTreeMap<String, String>,
}

struct TestLogger(Mutex<Vec<Logged>>);

static LOGGER: TestLogger = TestLogger(Mutex::new(Vec::new()));

struct Values(BTreeMap<String, String>);

impl<'kvs> VisitSource<'kvs> for Values {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        self.0.insert(key.to_string(), value.to_string());
        Ok(())
    }
}

impl Log for TestLogger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "tests"
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            if record.args().to_string().ends_with(LAST_WORDS) {
                thread::sleep(Duration::from_millis(300)); // as one that writes to a slow disk
            }
            let mut values = Values(BTreeMap::new());
            record.key_values().visit(&mut values).unwrap();
            let logged = Logged { text: record.args().to_string(), values: values.0 };
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(logged);
        }
    }

    fn flush(&self) {}
}

impl TestLogger {
    fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Waits until it has this many records.
    fn take(&self, count: usize) -> Vec<Logged> {
        wait_until("the records are there", || self.count() >= count);
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn log_twice(number: u32) -> u32 {
    log::warn!(target: "tests", number = number; "it is odd");
    log::info!(target: "tests", "it is {number}");
    log::debug!(target: "tests", "nothing wants it");
    std::process::id()
}

fn log_and_crash(count: u32) {
    for number in 1..count {
        log::warn!(target: "tests", "{number}");
    }
    log::error!(target: "tests", "{LAST_WORDS}");
    std::process::abort();
}

const LAST_WORDS: &str = "the last words";

fn what_a_task_logs_is_in_the_logger_of_its_caller_or_at_its_agent() -> Outcome {
    let server = Server::start();
    let program = std::env::current_exe()?;
    let agent = agent_with(&server.url(), "far", &program, &[("RUST_LOG", "tests=info")]);
    let worker = server.pool("logs").apply(log_twice, (3,))?;
    let line = format!("agent: host far: [WARN tests] pool-worker[{worker}]: it is odd number=3\n");
    wait_until("the record is there", || agent.log().contains(&line));

    log::set_logger(&LOGGER).map_err(|error| error.to_string())?;
    log::set_max_level(LevelFilter::Warn);
    let (pool, other) = (server.pool("logs"), server.pool("others"));
    let before = agent.log().lines().count();

    let worker = pool.apply(log_twice, (5,))?;
    let [logged] = &LOGGER.take(1)[..] else { panic!("it comes twice") };
    assert_eq!(logged.text, format!("host far: pool-worker[{worker}]: it is odd"));
    let values = [("host", "far"), ("number", "5"), ("process", "pool-worker")];
    let pid = worker.to_string();
    let values = values.into_iter().chain([("pid", &*pid)]);
    assert_eq!(logged.values, values.map(|(key, value)| (key.to_owned(), value.to_owned())).collect());

    let workers = other.map(log_twice, 100..400)?;
    let indices: Result<BTreeSet<u64>, _> =
        LOGGER.take(300).iter().map(|logged| index_of(logged, &workers)).collect();
    assert!(indices?.into_iter().eq(0..300), "each item has logged once, under its index");

    // All of them are there when the pool is dropped, also if much is on its way; on a busy machine after some
    // attempts.
    drop(pool);
    let is_complete = (0..ATTEMPTS).any(|_| {
        let pool = server.pool("logs");
        assert!(pool.apply(log_and_crash, (MANY,)).unwrap_err().is_died());
        drop(pool);
        let logged = LOGGER.take(0);
        let numbers = (1..MANY).map(|number| number.to_string());
        let texts = numbers.chain([LAST_WORDS.to_owned()]).map(|text| format!(": {text}"));
        texts.zip(&logged).all(|(text, logged)| logged.text.ends_with(&text)) && logged.len() == MANY as usize
    });
    assert!(is_complete, "records are missing");

    // What this logger does not want is at the agent, and what it wants is not.
    let agents: Vec<String> = agent.log().lines().skip(before).map(str::to_owned).collect();
    assert!(agents.iter().any(|line| line.ends_with("item 17: it is 117")), "{agents:#?}");
    assert!(!agents.iter().any(|line| line.contains("it is odd") || line.contains("nothing wants it")));
    Ok(())
}

/// The index of the item that has logged a record, whose text and key-values must go together.
fn index_of(logged: &Logged, workers: &[u32]) -> Result<u64, Box<dyn std::error::Error>> {
    let index: u64 = logged.values["item"].parse()?;
    let worker = workers[usize::try_from(index)?];
    assert_eq!(logged.text, format!("host far: pool-worker[{worker}] item {index}: it is odd"));
    assert_eq!(logged.values["number"], (index + 100).to_string());
    Ok(index)
}

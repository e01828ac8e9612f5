//! The cases of the benchmark: each is one row of figures.

/// One thing that every entrant that can does.
#[derive(Debug)]
pub struct Case {
    pub id: &'static str,
    pub workload: &'static str,
    pub title: &'static str,
    pub unit: &'static str,
    pub better: Direction,
    /// Longer ones are not repeated more often than this.
    pub most_rounds: usize,
}

impl Case {
    /// Whether its rounds say what they use.
    pub fn is_real(&self) -> bool {
        self.workload == REAL
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    LowerIsBetter,
    HigherIsBetter,
}

/// The workloads, each of one picture.
pub const WORKLOADS: [(&str, &str); 15] = [
    ("W1", "Start a child that does nothing, and join it"),
    ("W2", "Map n·n·n over numbers, two workers"),
    ("W3", "One call of a pool and its answer"),
    ("W4", "Messages from one process to another through a queue"),
    ("W5", "8 bytes to another process and back"),
    ("W6", "200 tasks: 8 MiB in, their sum out, two workers"),
    ("W7", "A pool from nothing, and what it costs when idle"),
    ("W8", "Locks, an event, a counter and an array in shared memory"),
    ("W9", "One call of a process that owns a state, and its answer"),
    ("W10", "A log record of a child"),
    ("W11", "One task submitted, and its result awaited"),
    ("W12", "A table of 64 MiB that each of two workers has"),
    (CLUSTER, "A pool of two agents on this machine, through a NATS server"),
    ("growth", "What grows with items and workers"),
    (REAL, "What programs do"),
];

/// The workload of the package `bench-cluster`, which is built for it alone.
pub const CLUSTER: &str = "cluster";

/// The workload whose rounds also say what they [use](crate::usage::Usage).
pub const REAL: &str = "real";

pub const START: Case = less("W1-start", "W1", "start and join", "µs");
pub const START_1GIB: Case = less("W1-1GiB", "W1", "start and join, parent of 1 GiB", "µs");
pub const START_X4: Case = less("W1-x4", "W1", "four at once", "µs");

pub const MAP: Case = more("W2-map", "W2", "1,000,000 items", "M items/s");
pub const MAP_10M: Case = more("W2-map-10M", "W2", "10,000,000 items", "M items/s");
pub const MAP_CHUNK1: Case = more("W2-chunk1", "W2", "100,000 items, chunk size 1", "M items/s");
pub const SUBMIT: Case = more("W2-submit", "W2", "10,000 tasks, submitted one by one", "M items/s");
pub const SUBMIT_MAP: Case = more("W2-submit-map", "W2", "1,000,000 items, submitted at once", "M items/s");
pub const MAP_SHARING: Case = more("W2-sharing", "W2", "100,000 items that hold the same slice", "M items/s");

pub const APPLY_HOT: Case = less("W3-hot", "W3", "back to back", "µs");
pub const APPLY_SLEEP: Case = less("W3-sleep", "W3", "from sleep (2 ms between calls)", "µs");

pub const QUEUE_8B: Case = more("W4-8B", "W4", "8 B, one by one", "M/s");
pub const QUEUE_8B_BATCH: Case = more("W4-8B-batch", "W4", "8 B, in batches of 1,000", "M/s");
pub const QUEUE_8B_2X2: Case = more("W4-8B-2x2", "W4", "8 B, two producers and two consumers", "M/s");
pub const QUEUE_64B: Case = more("W4-64B", "W4", "64 B", "M/s");
pub const QUEUE_1KIB: Case = more("W4-1KiB", "W4", "1 KiB", "M/s");
pub const QUEUE_1MIB: Case = more("W4-1MiB", "W4", "1 MiB", "GB/s");
pub const QUEUE_SHARED_SLICE: Case =
    more("W4-shared-slice", "W4", "the same 1 MiB again and again, not copied", "GB/s");

pub const PING_HOT: Case = less("W5-hot", "W5", "back to back", "µs");
pub const PING_SLEEP: Case = less("W5-sleep", "W5", "from sleep (2 ms between)", "µs");

pub const SUM: Case = more("W6-sum", "W6", "copied", "GB/s");
pub const SUM_SHARED: Case = more("W6-shared", "W6", "not copied", "GB/s");

pub const COLD: Case = less("W7-cold", "W7", "from nothing to a pool's first result", "ms");
pub const COLD_RUNNING: Case = less("W7-cold-2nd", "W7", "the same after a first child", "ms");
pub const PSS: Case = less("W7-PSS", "W7", "memory of an idle worker (PSS)", "kB");
pub const IDLE: Case =
    Case { most_rounds: 2, ..less("W7-idle", "W7", "CPU of an idle pool of 8", "% of a core") };

pub const LOG: Case = less("W10-log", "W10", "a record, in the child", "ns");

pub const AWAIT: Case = less("W11-await", "W11", "back to back", "µs");
pub const AWAIT_300: Case = less("W11-await-300", "W11", "a task of 300 µs", "µs");

pub const TABLE_MEMORY: Case = less("W12-memory", "W12", "memory of all processes (PSS)", "MB");
pub const TABLE_FIRST: Case = less("W12-first", "W12", "from nothing to a result of each worker", "ms");
pub const TABLE_REPLACED: Case =
    less("W12-replaced", "W12", "from the death of an idle worker to the result of the next one", "ms");

pub const LOCK: Case = less("W8-lock", "W8", "lock and unlock, one process", "ns");
pub const LOCK_X2: Case = more("W8-lock-x2", "W8", "lock and unlock, two processes at once", "M/s");
pub const SEMAPHORE: Case = less("W8-semaphore", "W8", "take a permit and give it back", "ns");
pub const EVENT: Case =
    less("W8-event", "W8", "set an event, and wait for another that the waiter sets", "µs");
pub const ATOMIC_X4: Case = more("W8-atomic-x4", "W8", "add 1 to a counter, four processes at once", "M/s");
pub const FILL: Case =
    more("W8-fill", "W8", "fill an array of 64 MiB in chunks of 1 MiB, two workers", "GB/s");

pub const SERVER_CALL: Case = less("W9-server-call", "W9", "back to back", "µs");
pub const SERVER_CALL_SLEEP: Case =
    less("W9-server-call-sleep", "W9", "from sleep (2 ms between calls)", "µs");

pub const CLUSTER_TASK: Case = less("cluster-task", CLUSTER, "one task and its result", "µs");
pub const CLUSTER_TASKS: Case = less("cluster-tasks", CLUSTER, "one of 1,000 tasks handed in at once", "µs");
pub const CLUSTER_0: Case = more("cluster-0", CLUSTER, "1,000,000 items of no work", "thousand items/s");
pub const CLUSTER_100: Case = more("cluster-100us", CLUSTER, "10,000 items of 100 µs", "thousand items/s");
pub const CLUSTER_1000: Case = more("cluster-1ms", CLUSTER, "2,000 items of 1 ms", "thousand items/s");
pub const CLUSTER_10000: Case = more("cluster-10ms", CLUSTER, "200 items of 10 ms", "thousand items/s");
pub const CLUSTER_IDLE: Case =
    Case { most_rounds: 2, ..less("cluster-idle", CLUSTER, "CPU of broker and hosts, idle", "% of a core") };

pub const GROWTH_MAP: Case = heavy("growth-map", "a further item of `map` at 10⁸ against one at 10⁶", "×");
pub const GROWTH_IMAP: Case = heavy("growth-imap", "a further item of `imap` at 10⁸ against one at 10⁶", "×");
pub const GROWTH_WORKERS: Case =
    heavy("growth-workers", "a further item with 64 workers against with 2", "×");
pub const GROWTH_MAP_MEMORY: Case =
    heavy("growth-map-mem", "memory of the parent for each result of `map`", "B");
pub const GROWTH_IMAP_MEMORY: Case =
    heavy("growth-imap-mem", "memory that the parent gains over all of `imap`", "MB");

pub const WORDS: Case = real("real-words", "count the words of 400 texts of very different size");
pub const THUMBNAILS: Case = real("real-thumbnails", "thumbnails of 96 JPEGs");
pub const MANDELBROT: Case = real("real-mandelbrot", "the Mandelbrot set, row by row");
pub const MONTE_CARLO: Case = real("real-monte-carlo", "Monte Carlo, a seed a task");
pub const JSON: Case = real("real-json", "parse 300,000 lines of JSON");
pub const HASH: Case = real("real-hash", "SHA-256 of 64 blobs of 8 MiB, copied");
pub const HASH_SHARED: Case = real("real-hash-shared", "SHA-256 of 64 blobs of 8 MiB, shared beforehand");
pub const SMALL: Case = real("real-small", "2,000,000 items of 50 ns");
pub const SKEWED: Case = real("real-skewed", "40,000 items of 5 µs, 80 of them of 5 ms");
pub const TABLE: Case = real("real-table", "a table of 50 MB that each worker needs");
pub const PIPELINE: Case = real("real-pipeline", "500,000 structs from a producer through two consumers");
pub const REQUESTS: Case =
    real("real-requests", "requests of 200 µs from four threads, one in a thousand crashes its worker");
pub const SLEEPS: Case = real("real-sleeps", "5,000 sleeps of 1 ms, 32 workers");

/// Every case, in the order in which they run and are shown.
pub const ALL: [&Case; 65] = [
    &START,
    &START_1GIB,
    &START_X4,
    &MAP,
    &MAP_10M,
    &MAP_CHUNK1,
    &SUBMIT,
    &SUBMIT_MAP,
    &MAP_SHARING,
    &APPLY_HOT,
    &APPLY_SLEEP,
    &QUEUE_8B,
    &QUEUE_8B_BATCH,
    &QUEUE_8B_2X2,
    &QUEUE_64B,
    &QUEUE_1KIB,
    &QUEUE_1MIB,
    &QUEUE_SHARED_SLICE,
    &PING_HOT,
    &PING_SLEEP,
    &SUM,
    &SUM_SHARED,
    &COLD,
    &COLD_RUNNING,
    &PSS,
    &IDLE,
    &LOG,
    &AWAIT,
    &AWAIT_300,
    &TABLE_MEMORY,
    &TABLE_FIRST,
    &TABLE_REPLACED,
    &LOCK,
    &LOCK_X2,
    &SEMAPHORE,
    &EVENT,
    &ATOMIC_X4,
    &SERVER_CALL,
    &SERVER_CALL_SLEEP,
    &FILL,
    &CLUSTER_TASK,
    &CLUSTER_TASKS,
    &CLUSTER_0,
    &CLUSTER_100,
    &CLUSTER_1000,
    &CLUSTER_10000,
    &CLUSTER_IDLE,
    &GROWTH_MAP,
    &GROWTH_IMAP,
    &GROWTH_WORKERS,
    &GROWTH_MAP_MEMORY,
    &GROWTH_IMAP_MEMORY,
    &WORDS,
    &THUMBNAILS,
    &MANDELBROT,
    &MONTE_CARLO,
    &JSON,
    &HASH,
    &HASH_SHARED,
    &SMALL,
    &SKEWED,
    &TABLE,
    &PIPELINE,
    &REQUESTS,
    &SLEEPS,
];

pub fn find(id: &str) -> Option<&'static Case> {
    ALL.into_iter().find(|case| case.id == id)
}

const fn less(id: &'static str, workload: &'static str, title: &'static str, unit: &'static str) -> Case {
    Case { id, workload, title, unit, better: Direction::LowerIsBetter, most_rounds: usize::MAX }
}

const fn more(id: &'static str, workload: &'static str, title: &'static str, unit: &'static str) -> Case {
    Case { better: Direction::HigherIsBetter, ..less(id, workload, title, unit) }
}

const fn heavy(id: &'static str, title: &'static str, unit: &'static str) -> Case {
    Case { most_rounds: 2, ..less(id, "growth", title, unit) }
}

const fn real(id: &'static str, title: &'static str) -> Case {
    less(id, REAL, title, "s")
}

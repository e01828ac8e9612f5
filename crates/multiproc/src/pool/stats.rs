//! `PoolStats`: what the workers of a pool have done so far, and how they ended.

use std::fmt;
use std::ops::AddAssign;
use std::time::Duration;

use super::histogram::Histogram;

/// What a pool has done so far. Made by [`Pool::stats`](super::Pool::stats); its `Display` is a table,
/// with a line for each histogram.
///
/// ```
/// use multiproc::Pool;
///
/// multiproc::init();
/// let pool = Pool::new(2)?;
/// let _ = pool.map_results(|n: u32| 12 / n, [1, 2, 0, 3])?;
/// let stats = pool.stats();
/// let total = stats.total();
/// assert_eq!((total.tasks_done, total.tasks_failed, stats.pending), (3, 1, 0));
/// assert_eq!(stats.workers.len(), 2);
/// println!("{stats}");
/// # Ok::<(), multiproc::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolStats {
    /// By [worker index](crate::ProcessInfo::worker_index): each with its predecessors of that index, and also
    /// those that a smaller pool no longer has.
    pub workers: Vec<WorkerStats>,
    /// The number of submitted tasks, items and broadcasts to one worker that have no result.
    pub pending: u64,
    /// How long tasks and items have waited from their submission until the pool gave them to a worker, to a tick of
    /// the kernel's coarse clock (1 to 10 ms); a shorter wait is 0. Without broadcasts. What a worker has given back,
    /// or has died with, counts once more, also from its submission.
    pub wait_times: Histogram,
}

/// What one worker of a pool, with its predecessors of the same index, or all of them together have done.
///
/// A task counts once a worker has begun it. Each item of a call is one; [`map_reduce`](super::Pool::map_reduce)
/// has its items in groups, and each of those is one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerStats {
    /// The process id of the present worker.
    pub pid: Option<u32>,
    /// The number of tasks that have returned. An `Err` that a task returns is its result.
    pub tasks_done: u64,
    /// The number of tasks that have panicked (but not in a [`map_reduce`](super::Pool::map_reduce)), died with their
    /// worker, or were ended with it.
    pub tasks_failed: u64,
    /// The number of further runs of tasks whose worker died ([`retries`](super::CallOptions::retries)).
    pub tasks_retried: u64,
    /// The number of workers that crashed, exited, were killed by others, or failed to start.
    pub died: u64,
    /// The number of workers that were killed because a task exceeded its [time
    /// limit](super::CallOptions::timeout).
    pub timed_out: u64,
    /// The number of workers that were killed because their task was
    /// [cancelled](super::TaskHandle::cancel).
    pub cancelled: u64,
    /// The number of workers that were replaced after their [number of
    /// tasks](super::PoolBuilder::max_tasks_per_worker).
    pub recycled: u64,
    /// The number of workers that were replaced because their memory had
    /// [grown too much](super::PoolBuilder::max_growth_per_worker).
    pub overgrown: u64,
    /// The number of workers that were told to exit because they had been idle for the pool's
    /// [time](super::PoolBuilder::idle_timeout).
    pub idled_out: u64,
    /// The number of workers that were told to exit because the pool [became smaller](super::Pool::resize).
    pub scaled_down: u64,
    /// The number of workers that were told to exit for another reason: the pool's end, a worker that begins nothing
    /// while work waits, or one that has missed a broadcast.
    pub shut_down: u64,
    /// The time with tasks, to read and write their values included.
    pub running: Duration,
    /// How long tasks have taken, as `running`. Short ones are counted at the mean of those between two reads of the
    /// clock, which together take about 20 µs. If they take longer, that is counted as one long task among them.
    /// Missing are the running task, those between it and the last read, and such tasks of a worker that has died.
    pub run_times: Histogram,
    /// The time without tasks.
    pub waiting: Duration,
    /// The time from each worker's start until its initializer has returned.
    pub starting: Duration,
}

impl PoolStats {
    /// The sum of all workers, without a `pid`.
    pub fn total(&self) -> WorkerStats {
        let mut total = WorkerStats::default();
        self.workers.iter().for_each(|worker| total += worker);
        total.pid = None;
        total
    }

    /// The worker with this index.
    pub(super) fn worker(&mut self, index: usize) -> &mut WorkerStats {
        if self.workers.len() <= index {
            self.workers.resize(index + 1, WorkerStats::default());
        }
        &mut self.workers[index]
    }
}

impl AddAssign<&Self> for WorkerStats {
    /// The `pid` is the later one, if any.
    fn add_assign(&mut self, other: &Self) {
        self.pid = other.pid.or(self.pid);
        self.tasks_done += other.tasks_done;
        self.tasks_failed += other.tasks_failed;
        self.tasks_retried += other.tasks_retried;
        self.died += other.died;
        self.timed_out += other.timed_out;
        self.cancelled += other.cancelled;
        self.recycled += other.recycled;
        self.overgrown += other.overgrown;
        self.idled_out += other.idled_out;
        self.scaled_down += other.scaled_down;
        self.shut_down += other.shut_down;
        self.running += other.running;
        self.run_times += &other.run_times;
        self.waiting += other.waiting;
        self.starting += other.starting;
    }
}

impl WorkerStats {
    /// The ways in which workers have ended, and how many have.
    fn ends(&self) -> [(&'static str, u64); 8] {
        [
            ("died", self.died),
            ("timed out", self.timed_out),
            ("cancelled", self.cancelled),
            ("recycled", self.recycled),
            ("overgrown", self.overgrown),
            ("idled out", self.idled_out),
            ("scaled down", self.scaled_down),
            ("shut down", self.shut_down),
        ]
    }

    /// The titles and cells of its row, with those ends that the pool has had.
    fn row(&self, name: String, total: &Self) -> Vec<(&'static str, String)> {
        let pid = self.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        let tasks =
            [("done", self.tasks_done), ("failed", self.tasks_failed), ("retried", self.tasks_retried)];
        let ends = self.ends().into_iter().zip(total.ends()).filter(|(_, (_, all))| *all > 0);
        let numbers = tasks.into_iter().chain(ends.map(|(end, _)| end));
        let times = [("running", self.running), ("waiting", self.waiting), ("starting", self.starting)];
        let mut row = vec![("worker", name), ("pid", pid)];
        row.extend(numbers.map(|(title, number)| (title, number.to_string())));
        row.extend(times.map(|(title, time)| (title, format!("{:.3} s", time.as_secs_f64()))));
        row
    }
}

/// A table with a row for each worker and one for all of them, and a line for each histogram, without a line end. The
/// table's columns for the ends of workers are those in which a number is not 0.
impl fmt::Display for PoolStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.total();
        write_table(f, &self.workers, &total)?;
        write!(f, "\nrun times: {}\nwait times: {}", total.run_times, self.wait_times)
    }
}

fn write_table(f: &mut fmt::Formatter<'_>, workers: &[WorkerStats], total: &WorkerStats) -> fmt::Result {
    let names = (0..workers.len()).map(|index| index.to_string()).chain(["all".to_owned()]);
    let table: Vec<_> =
        workers.iter().chain([total]).zip(names).map(|(worker, name)| worker.row(name, total)).collect();
    let titles = table[0].iter().map(|&(title, _)| title.to_owned()).collect();
    let cells = table.into_iter().map(|row| row.into_iter().map(|(_, cell)| cell).collect());
    let rows: Vec<Vec<String>> = [titles].into_iter().chain(cells).collect();
    for (number, row) in rows.iter().enumerate() {
        f.write_str(if number == 0 { "" } else { "\n" })?;
        for (column, text) in row.iter().enumerate() {
            let width = rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
            write!(f, "{}{text:>width$}", if column == 0 { "" } else { "  " })?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_row_for_each_worker_and_one_for_all() {
        let mut stats = PoolStats::default();
        *stats.worker(1) = WorkerStats {
            pid: Some(4321),
            tasks_done: 1234,
            tasks_failed: 5,
            running: Duration::from_millis(1500),
            died: 1,
            ..WorkerStats::default()
        };
        *stats.worker(0) += &WorkerStats { tasks_done: 6, ..WorkerStats::default() };
        stats.worker(1).run_times.add(2_000_000, 1239);
        let text = stats.to_string();
        let (table, times) = text.split_at(text.find("\nrun times").unwrap());
        assert!(times.starts_with("\nrun times: 50 % within 2.1 ms,"), "{text}");
        assert!(times.ends_with("\nwait times: none"), "{text}");
        let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows.len(), 4, "{table}");
        assert_eq!(rows[0][..3], ["worker", "pid", "done"]);
        assert_eq!(rows[1][..4], ["0", "-", "6", "0"]);
        assert_eq!(rows[2][..8], ["1", "4321", "1234", "5", "0", "1", "1.500", "s"]);
        assert_eq!(rows[3][..4], ["all", "-", "1240", "5"]);
        assert!(table.lines().all(|line| line.len() == table.lines().next().unwrap().len()), "{table}");
        assert!(table.contains("1.500 s"), "{table}");
    }
}

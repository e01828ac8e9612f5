//! `PoolStats`: what the hosts of a pool have done so far.

use std::fmt;
use std::ops::AddAssign;
use std::time::Duration;

/// What a pool has done so far. Made by [`Pool::stats`](crate::Pool::stats); its `Display` is a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolStats {
    /// Each host that has handed in results, or was given up with tasks, by its name.
    pub hosts: Vec<HostStats>,
    /// The number of submitted tasks and items that have no result.
    pub pending: u64,
}

/// What one host has done for a pool. Hosts of one name are one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HostStats {
    /// Its name, as in [`Pool::hosts`](crate::Pool::hosts).
    pub name: String,
    /// The number of tasks that have returned. An `Err` that a task returns is its result.
    pub tasks_done: u64,
    /// The number of tasks that have panicked, died with their worker, or were ended with it.
    pub tasks_failed: u64,
    /// The number of tasks that it had when it was given up. Other hosts may have done them.
    pub tasks_lost: u64,
    /// About the time that its workers had for the tasks that were handed in.
    pub running: Duration,
}

impl PoolStats {
    /// The sum of all hosts, without a name.
    pub fn total(&self) -> HostStats {
        let mut total = HostStats::default();
        self.hosts.iter().for_each(|host| total += host);
        total
    }
}

impl AddAssign<&Self> for HostStats {
    /// The name stays.
    fn add_assign(&mut self, other: &Self) {
        self.tasks_done += other.tasks_done;
        self.tasks_failed += other.tasks_failed;
        self.tasks_lost += other.tasks_lost;
        self.running += other.running;
    }
}

const COLUMNS: [&str; 5] = ["host", "done", "failed", "lost", "running"];

impl HostStats {
    fn row(&self, name: &str) -> [String; COLUMNS.len()] {
        let [done, failed, lost] =
            [self.tasks_done, self.tasks_failed, self.tasks_lost].map(|number| number.to_string());
        [name.to_owned(), done, failed, lost, format!("{:.3} s", self.running.as_secs_f64())]
    }
}

/// A table with a row for each host and one for all of them, without a line end.
impl fmt::Display for PoolStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts = self.hosts.iter().map(|host| host.row(&host.name));
        let total = self.total().row("all");
        let rows: Vec<_> = [COLUMNS.map(str::to_owned)].into_iter().chain(hosts).chain([total]).collect();
        for (number, row) in rows.iter().enumerate() {
            f.write_str(if number == 0 { "" } else { "\n" })?;
            for (column, text) in row.iter().enumerate() {
                let width = rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
                write!(f, "{}{text:>width$}", if column == 0 { "" } else { "  " })?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_row_for_each_host_and_one_for_all() {
        let host = |name: &str, tasks_done| HostStats {
            name: name.to_owned(),
            tasks_done,
            tasks_failed: 1,
            running: Duration::from_millis(1500),
            ..HostStats::default()
        };
        let stats = PoolStats { hosts: vec![host("one", 20), host("another", 3)], pending: 0 };
        let table = stats.to_string();
        let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[0], COLUMNS);
        assert_eq!(rows[1], ["one", "20", "1", "0", "1.500", "s"]);
        assert_eq!(rows[3], ["all", "23", "2", "0", "3.000", "s"]);
        assert!(table.lines().all(|line| line.len() == table.lines().next().unwrap().len()), "{table}");
    }
}

//! `PoolBuilder::record`, `record_limits`: whether a pool records the tasks that fail.

use std::path::Path;

use super::PoolBuilder;

impl<M> PoolBuilder<M> {
    /// Records each task that fails by the death of its worker, by its [time
    /// limit](crate::pool::CallOptions::timeout) or by a panic: in a file of its own in this directory, which is
    /// created (for this user alone) if there is none. By default, if the environment variable
    /// `MULTIPROC_RECORD` names a directory. The variable concerns each pool of the program, and
    /// each [`Process`](crate::Process) that is joined.
    ///
    /// The file holds the error, the function's name, and the encoded arguments; only its owner can read it.
    /// The program runs the task again, in its first process, where a debugger sees it:
    ///
    /// ```text
    /// MULTIPROC_REPLAY=FILE gdb --args PROGRAM
    /// ```
    ///
    /// [`init`](crate::init()) then runs the task and ends the program: with exit code 0 if the function
    /// returned, 101 if it panicked, and by the signal that kills it. The functions given to
    /// [`at_start`](crate::at_start), and what the pool's workers run first
    /// ([`initializer`](Self::initializer), [`state`](Self::state)), run before it. Another build of the
    /// program refuses the file with exit code 2.
    ///
    /// [`Error::record`](crate::Error::record) is the path. The file is written before the error is seen, by a thread
    /// that waits for results of this pool or by the pool's own, while the pool works on; that thread blocks until it
    /// is written. If it cannot be written, a message on standard error says so once.
    ///
    /// Not recorded are
    ///
    /// - arguments with descriptors: ends of queues and pipes, locks, files, shared memory. The file then
    ///   says so, and cannot be replayed. Likewise if an initializer of the pool has such arguments;
    /// - a task that was cancelled, or ended with its pool; an earlier death of a task that was [run
    ///   again](crate::pool::CallOptions::retries); a panic in a [`map_reduce`](crate::Pool::map_reduce);
    /// - calls of a [server](crate::server), which depend on the calls before them; and tasks in [inline
    ///   mode](Self::inline).
    ///
    /// [`record_limits`](Self::record_limits) limits the files and their size.
    ///
    /// ```
    /// use multiproc::Pool;
    ///
    /// fn main() -> Result<(), Box<dyn std::error::Error>> {
    ///     multiproc::init();
    ///     let directory = std::env::temp_dir().join(format!("records-{}", std::process::id()));
    ///     let pool = Pool::builder().workers(2).record(&directory).build()?;
    ///     let crash = |number: u64| if number == 7 { std::process::abort() } else { number };
    ///     let results = pool.map_results(crash, 0..10)?;
    ///     let error = results[7].as_ref().unwrap_err();
    ///     let record = error.record().ok_or("it is not recorded")?;
    ///     println!("{error}: see {}", record.display());
    ///     std::fs::remove_dir_all(directory)?;
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// [`build`](Self::build) fails if the directory cannot be created.
    pub fn record(mut self, directory: impl AsRef<Path>) -> Self {
        self.config.record.directory = Some(directory.as_ref().to_owned());
        self
    }

    /// Limits the [records](Self::record): the number of files in the directory, and the bytes of the
    /// arguments in each, with those of initializers and broadcasts. The default is 100 files, and 16 MiB each.
    /// At the first limit a message on standard error says so, and nothing more is recorded, until files are
    /// removed and the program starts again. A file whose arguments exceed the second says so instead of
    /// holding them. The error in a file has at most 64 KiB of a panic's message, as much of its backtrace, and
    /// the last 10 earlier attempts. Several processes that record at the same time may exceed the first limit by
    /// one file each.
    ///
    /// ```
    /// use multiproc::Pool;
    ///
    /// fn main() -> Result<(), Box<dyn std::error::Error>> {
    ///     multiproc::init();
    ///     let directory = std::env::temp_dir().join(format!("few-records-{}", std::process::id()));
    ///     let pool = Pool::builder().workers(2).record(&directory).record_limits(2, 1 << 20).build()?;
    ///     let results = pool.map_results(|number: u64| assert!(number > 5), 0..10)?;
    ///     let recorded = results.iter().filter_map(|result| result.as_ref().err()?.record());
    ///     assert_eq!(recorded.count(), 2);
    ///     std::fs::remove_dir_all(directory)?;
    ///     Ok(())
    /// }
    /// ```
    pub fn record_limits(mut self, files: usize, bytes: usize) -> Self {
        (self.config.record.max_files, self.config.record.max_bytes) = (files, bytes);
        self
    }
}

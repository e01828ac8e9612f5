//! `ProcessInfo`: the calling process, its parent and its children, by name and pid.

use std::sync::Arc;

use crate::spawn::bootstrap;
use crate::spawn::supervisor::{self, Child};
use crate::sys::process::own_pid;

/// The name and pid of a process: [`current`], its [`parent`], or one of the [`active_children`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessInfo {
    name: String,
    pid: u32,
    worker_index: Option<usize>,
}

impl ProcessInfo {
    /// Its name; the program's first process is called `main`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The [`current`] process's index among its pool's workers, from 0 up to their number. `None` in any
    /// other process, and for any process but the current one.
    ///
    /// No two workers that run tasks have the same index at a time, and a worker that replaces another has
    /// that one's index. So it can name what each of them has for itself: a file, a port, a device.
    ///
    /// ```
    /// use multiproc::Pool;
    ///
    /// fn main() -> multiproc::Result<()> {
    ///     multiproc::init();
    ///     assert_eq!(multiproc::current().worker_index(), None);
    ///     let pool = Pool::new(3)?;
    ///     let indices = pool.map(|_: u32| multiproc::current().worker_index(), 0..100)?;
    ///     assert!(indices.iter().all(|index| index.is_some_and(|index| index < 3)));
    ///     Ok(())
    /// }
    /// ```
    pub fn worker_index(&self) -> Option<usize> {
        self.worker_index
    }
}

/// The calling process.
///
/// ```
/// use multiproc::Process;
///
/// fn main() -> multiproc::Result<()> {
///     multiproc::init();
///     assert_eq!(multiproc::current().name(), "main");
///     let child = Process::builder().name("Anna").spawn(|| multiproc::current().name().to_owned(), ())?;
///     assert_eq!(child.join()?, "Anna");
///     Ok(())
/// }
/// ```
pub fn current() -> ProcessInfo {
    let identity = bootstrap::identity();
    let name = identity.as_ref().map_or_else(|| "main".to_owned(), |identity| identity.name.clone());
    ProcessInfo { name, pid: own_pid(), worker_index: identity.and_then(|identity| identity.worker_index) }
}

/// The process that started this one with this library; `None` in the program's first process.
///
/// ```
/// use multiproc::Process;
///
/// fn main() -> multiproc::Result<()> {
///     multiproc::init();
///     assert_eq!(multiproc::parent(), None);
///     let parents_pid = || multiproc::parent().map(|parent| parent.pid());
///     assert_eq!(Process::spawn(parents_pid, ())?.join()?, Some(std::process::id()));
///     Ok(())
/// }
/// ```
pub fn parent() -> Option<ProcessInfo> {
    let (name, pid) = bootstrap::identity()?.parent.clone()?;
    Some(ProcessInfo { name, pid, worker_index: None })
}

/// The living children of this process, workers of pools included.
///
/// ```
/// use multiproc::Pool;
///
/// fn main() -> multiproc::Result<()> {
///     multiproc::init();
///     let pool = Pool::new(2)?;
///     assert_eq!(multiproc::active_children().len(), 2);
///     pool.join();
///     assert!(multiproc::active_children().is_empty());
///     Ok(())
/// }
/// ```
pub fn active_children() -> Vec<ProcessInfo> {
    let children = supervisor::children().into_iter();
    let info = |child: Arc<Child>| ProcessInfo {
        name: child.name().to_owned(),
        pid: child.pid(),
        worker_index: None,
    };
    children.map(info).collect()
}

//! A copy of a caller that the program has forked by itself: it lacks the thread of the cluster.

use std::panic::{AssertUnwindSafe, catch_unwind};

use multiproc::Result;
use nix::libc;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, alarm, fork};

use crate::server::Server;
use crate::support::{Outcome, TEST_TIMEOUT, trials};
use crate::work::{HOUR, sleep, square};

trials![a_forked_copy_gets_errors_and_takes_nothing_away];

fn a_forked_copy_gets_errors_and_takes_nothing_away() -> Outcome {
    let server = Server::start();
    let _agent = server.agent("a");
    let cluster = server.cluster().connect()?;
    let pool = cluster.pool("forked")?;
    let mut results = pool.imap(square, 0..1000);
    assert_eq!(results.next().unwrap()?, 0);
    let task = pool.submit(sleep, (HOUR,))?;
    let mut made = Some((results, task, pool, cluster));
    let is_good = in_fork(|| {
        let (mut results, mut task, pool, cluster) = made.take().unwrap();
        let good = [
            refuses(cluster.pool("other")),
            refuses(pool.submit(square, (3,))),
            refuses(pool.apply(square, (3,))),
            refuses(pool.map(square, 0..3)),
            refuses(task.get_timeout(HOUR)),
            results.by_ref().any(refuses),
            results.next().is_none(),
            !task.cancel(),
        ];
        drop((results, task, pool, cluster));
        good == [true; 8]
    });
    assert!(is_good, "the copy hangs, or has something without an error");
    let (mut results, task, pool, _cluster) = made.unwrap();
    assert!(results.by_ref().map(Result::unwrap).eq((1..1000).map(square)));
    assert_eq!(pool.apply(square, (3,))?, 9);
    assert!(task.cancel());
    Ok(())
}

fn refuses<T>(outcome: Result<T>) -> bool {
    outcome.is_err_and(|error| error.to_string().contains("this is a forked copy"))
}

/// Runs this in a forked copy of the process; returns whether it returns true, and does not hang.
#[allow(unsafe_code)]
fn in_fork(act: impl FnOnce() -> bool) -> bool {
    // SAFETY: what the copy does takes no lock of the original but the allocator's, which the C library keeps in order,
    // and those whose owner, this library, must do so: that is what is tested.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            alarm::set(u32::try_from(TEST_TIMEOUT.as_secs()).unwrap()); // ends it if it hangs
            let is_good = catch_unwind(AssertUnwindSafe(act)).unwrap_or(false);
            // SAFETY: ends the process at once.
            unsafe { libc::_exit(i32::from(!is_good)) }
        }
        ForkResult::Parent { child } => matches!(waitpid(child, None), Ok(WaitStatus::Exited(_, 0))),
    }
}

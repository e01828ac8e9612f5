//! Workers that die: an error of their task, at once and nowhere else.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::server::Server;
use crate::support::{LEASE, Outcome, TEST_TIMEOUT, trials, wait_until};
use crate::work::{note_and_hold, square};

trials![a_task_whose_worker_is_killed_runs_once_and_fails_long_before_the_lease_ends];

fn a_task_whose_worker_is_killed_runs_once_and_fails_long_before_the_lease_ends() -> Outcome {
    let server = Server::start();
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("runs");
    let runs = || std::fs::read_to_string(&file).unwrap_or_default();
    let _agents = server.agents(&["a", "b"]);
    let pool = server.cluster().lease(LEASE * 300).connect()?.pool("died")?;
    pool.wait_for_hosts(2, TEST_TIMEOUT)?;
    let mut task = pool.submit(note_and_hold, (file.clone(),))?;
    wait_until("it runs", || runs().ends_with('\n'));
    kill(Pid::from_raw(runs().trim().parse()?), Signal::SIGKILL)?;
    let error = task.get_timeout(TEST_TIMEOUT).unwrap_err(); // a small part of the lease
    assert_eq!(error.signal(), Some(9), "{error}");
    assert!(["a", "b"].map(Some).contains(&error.host()), "{error}");
    assert_eq!(pool.map(square, 0..1000)?.len(), 1000);
    assert_eq!(runs().lines().count(), 1, "it has begun twice");
    drop(pool);
    assert!(server.streams().is_empty(), "{:?}", server.streams());
    Ok(())
}

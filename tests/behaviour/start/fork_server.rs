//! The fork server: one a process, invisible to the program, ended with its parent.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use multiproc::{Error, Pool, Process, Result, StartMethod, active_children};
use nix::libc;
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

use super::blocked_child;
use crate::support::{
    METHODS, Outcome, TEST_TIMEOUT, alone, children, eventually, fork_server, send_signal, trials, with,
};

trials![
    children_come_from_one_fork_server_that_is_no_active_child,
    a_fork_server_ignores_terminal_signals,
    a_killed_parent_takes_its_fork_server_along,
    a_child_that_had_children_leaves_no_orphans_to_the_subreaper,
    a_copy_of_a_process_has_a_fork_server_of_its_own,
    a_copy_that_joins_a_child_takes_nothing_away,
];

fn children_come_from_one_fork_server_that_is_no_active_child() -> Outcome {
    alone(|| {
        assert_eq!(children(), []);
        let some: Vec<_> = (0..3).map(|_| blocked_child()).collect::<Result<_>>()?;
        assert_eq!((children().len(), active_children().len()), (4, 3));
        let server = fork_server().unwrap();
        assert!(active_children().iter().all(|child| child.pid() != server));
        drop(some);
        Ok(())
    })
}

fn a_fork_server_ignores_terminal_signals() -> Outcome {
    alone(|| {
        let first = blocked_child()?;
        let server = fork_server().unwrap();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGTSTP, Signal::SIGUSR1] {
            send_signal(server, signal);
        }
        let (second, _latch) = blocked_child()?;
        assert_eq!(fork_server(), Some(server));
        second.terminate()?; // its children are not deaf
        assert_eq!(second.join().unwrap_err().signal(), Some(Signal::SIGTERM as i32));
        drop(first);
        Ok(())
    })
}

fn a_killed_parent_takes_its_fork_server_along() -> Outcome {
    let mut program = Command::new(env!("CARGO_BIN_EXE_orphans"))
        .env("MULTIPROC_START_METHOD", "fork-server")
        .stdout(Stdio::piped())
        .spawn()?;
    let mut output = BufReader::new(program.stdout.take().unwrap());
    assert!(output.by_ref().lines().any(|line| line.unwrap().is_empty()), "it has not started its children");
    let children = tests::children_of(program.id());
    assert!(children.iter().any(|(_, name)| name == "fork-server"), "{children:?}");
    program.kill()?;
    program.wait()?;
    for (pid, name) in children {
        eventually(&format!("{name} ends"), || {
            fs::read_to_string(format!("/proc/{pid}/comm")).map_or(true, |now| now.trim_end() != name)
        });
    }
    Ok(())
}

fn a_child_that_had_children_leaves_no_orphans_to_the_subreaper() -> Outcome {
    alone(|| {
        set_child_subreaper(true).unwrap();
        let rear = |count: usize| {
            (0..count).try_for_each(|_| Process::spawn(|| (), ())?.join())?;
            Pool::new(1)?.apply(|| (), ())
        };
        for method in METHODS {
            for count in 0..3 {
                with(method).spawn(rear, (count,))?.join()??;
                // An orphan would stay here as a zombie.
                eventually("there is no orphan", || {
                    let own = fork_server();
                    let family = tests::children_of(std::process::id());
                    family.iter().all(|(pid, name)| Some(*pid) == own || tests::is_preforked(*pid, name))
                });
            }
        }
        Ok(())
    })
}

#[allow(unsafe_code)]
fn a_copy_of_a_process_has_a_fork_server_of_its_own() -> Outcome {
    alone(|| {
        let (child, latch) = blocked_child()?;
        let server = fork_server();
        // SAFETY: the other threads of this process wait, and hold no lock that the copy needs.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                let family = blocked_child().map(|_| (fork_server(), children().len()));
                let right = family.is_ok_and(|(own, count)| own.is_some() && own != server && count == 2);
                // SAFETY: ends the copy, whatever its state.
                unsafe { libc::_exit((!right).into()) }
            }
            ForkResult::Parent { child } => {
                assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0));
            }
        }
        assert_eq!(with(StartMethod::ForkServer).spawn(|| 5, ())?.join()?, 5);
        assert_eq!(fork_server(), server, "the copy has taken ours with it");
        drop(latch);
        child.join()
    })
}

#[allow(unsafe_code)]
fn a_copy_that_joins_a_child_takes_nothing_away() -> Outcome {
    alone(|| {
        for method in [StartMethod::ForkServer, StartMethod::Spawn] {
            let mut child = with(method).spawn(|| 5, ())?;
            // SAFETY: as above.
            match unsafe { fork() }.unwrap() {
                ForkResult::Child => {
                    let refused = |error: Error| error.to_string().contains("forked copy");
                    let right = child.join_timeout(TEST_TIMEOUT).is_err_and(refused)
                        && child.join().is_err_and(refused);
                    // SAFETY: ends the copy, whatever its state.
                    unsafe { libc::_exit((!right).into()) }
                }
                ForkResult::Parent { child } => {
                    assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0));
                }
            }
            assert_eq!(child.join()?, 5);
        }
        Ok(())
    })
}

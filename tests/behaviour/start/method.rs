//! Both start methods give the same child, and the environment chooses between them.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::{env, thread};

use multiproc::{Pool, Process, Result, SharedSlice, StartMethod, current, parent, pipe, set_start_method};
use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::Signal;

use crate::support::{
    Latch, METHODS, Outcome, TEST_TIMEOUT, alone, block, blocked_child_by, descriptors, printed_by,
    send_signal, trials, with,
};

trials![
    both_methods_start_processes_and_pools,
    arguments_may_hold_as_many_descriptors_as_a_message_takes,
    the_environment_chooses_the_method,
    any_other_method_in_the_environment_is_an_error,
    the_programs_code_chooses_before_the_environment,
    a_builder_chooses_before_the_program,
    a_pool_keeps_the_method_that_it_began_with,
    a_lock_whose_holder_is_killed_goes_to_the_next,
    what_a_program_draws_before_init_no_child_draws_again,
    a_program_with_threads_before_init_executes_its_children,
    a_fork_server_in_which_a_thread_appears_forks_no_more,
    a_process_tells_by_which_signal_its_child_was_killed,
    functions_for_the_start_run_before_all_else,
    a_program_that_stops_its_fork_server_has_no_child_left,
];

fn both_methods_start_processes_and_pools() -> Outcome {
    alone(|| {
        for method in METHODS {
            let introduce = || (current().pid(), parent().unwrap().pid(), env::args().collect::<Vec<_>>());
            let child = with(method).name("clerk").spawn(introduce, ())?;
            let pid = child.pid();
            assert_eq!(child.join()?, (pid, std::process::id(), env::args().collect()));
            let error = with(method).spawn(|| -> () { panic!("on purpose") }, ())?.join().unwrap_err();
            assert!(error.is_panic(), "{error}");
            let in_a_thread = || thread::spawn(|| 7).join().unwrap();
            assert_eq!(with(method).spawn(in_a_thread, ())?.join()?, 7);
            let pool = Pool::builder().workers(2).start_method(method).build()?;
            assert_eq!(pool.map(|n: u32| n * n, 0..4)?, [0, 1, 4, 9]);
        }
        Ok(())
    })
}

fn arguments_may_hold_as_many_descriptors_as_a_message_takes() -> Outcome {
    alone(|| {
        for method in METHODS {
            for count in [200, 249, 250, 252] {
                let many: Vec<_> =
                    (0..count).map(|number| SharedSlice::from_slice(&[number])).collect::<Result<_>>()?;
                let held = |many: Vec<SharedSlice<u64>>| (many.len() as u64, descriptors().len() as u64);
                assert_eq!(with(method).spawn(held, (many,))?.join()?, (count, count + 4), "{method:?}");
            }
        }
        Ok(())
    })
}

/// The output of the fixture with this method in the environment.
fn said_with(method: Option<&str>) -> String {
    said_with_arguments(&[], method)
}

fn said_with_arguments(arguments: &[&str], method: Option<&str>) -> String {
    let mut program = Command::new(env!("CARGO_BIN_EXE_start_method"));
    program
        .args(arguments)
        .env_remove("MULTIPROC_START_METHOD")
        .envs(method.map(|method| ("MULTIPROC_START_METHOD", method)));
    let output = program.stdin(Stdio::null()).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{}", output.status);
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

fn the_environment_chooses_the_method() -> Outcome {
    for method in [None, Some("fork-server"), Some("forkserver")] {
        assert_eq!(said_with(method), "2 children, true", "{method:?}");
    }
    assert_eq!(said_with(Some("spawn")), "1 children, false");
    Ok(())
}

fn any_other_method_in_the_environment_is_an_error() -> Outcome {
    for method in ["", "fork", "SPAWN"] {
        let error = said_with(Some(method));
        assert!(error.contains("MULTIPROC_START_METHOD") && error.contains("\"spawn\""), "{error}");
    }
    Ok(())
}

fn the_programs_code_chooses_before_the_environment() -> Outcome {
    for method in [None, Some("fork-server"), Some("nonsense")] {
        assert_eq!(said_with_arguments(&["spawn"], method), "1 children, false", "{method:?}");
    }
    alone(|| {
        for method in METHODS {
            set_start_method(method);
            assert_eq!(StartMethod::default(), method);
            let is_executed = Process::spawn(|| tests::was_executed(std::process::id()), ())?.join()?;
            assert_eq!(is_executed, method == StartMethod::Spawn);
        }
        Ok(())
    })
}

fn a_builder_chooses_before_the_program() -> Outcome {
    alone(|| {
        for (method, other) in METHODS.into_iter().zip(METHODS.into_iter().rev()) {
            set_start_method(other);
            let is_executed = with(method).spawn(|| tests::was_executed(std::process::id()), ())?.join()?;
            assert_eq!(is_executed, method == StartMethod::Spawn);
        }
        Ok(())
    })
}

fn a_pool_keeps_the_method_that_it_began_with() -> Outcome {
    alone(|| {
        for (method, other) in METHODS.into_iter().zip(METHODS.into_iter().rev()) {
            set_start_method(method);
            let pool = Pool::builder().workers(1).max_tasks_per_worker(1).build()?;
            set_start_method(other);
            for _ in 0..3 {
                let is_executed = pool.apply(|| tests::was_executed(std::process::id()), ())?;
                assert_eq!(is_executed, method == StartMethod::Spawn);
            }
        }
        Ok(())
    })
}

/// Maps a robust lock in shared memory, which the kernel passes on when its holder has died.
#[allow(unsafe_code)]
fn map_lock(path: &Path) -> *mut libc::pthread_mutex_t {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let (length, protection) = (size_of::<libc::pthread_mutex_t>(), libc::PROT_READ | libc::PROT_WRITE);
    // SAFETY: a new mapping of a file that is large enough.
    let place = unsafe {
        libc::mmap(std::ptr::null_mut(), length, protection, libc::MAP_SHARED, file.as_raw_fd(), 0)
    };
    assert_ne!(place, libc::MAP_FAILED);
    place.cast()
}

#[allow(unsafe_code)]
fn hold_lock(path: String, latch: Latch) -> i32 {
    let lock = map_lock(Path::new(&path));
    // SAFETY: the parent has made a lock there.
    let result = unsafe { libc::pthread_mutex_lock(lock) };
    block(latch);
    result
}

/// The C library records its own thread id in a lock, which must be the child's.
#[allow(unsafe_code, clippy::multiple_unsafe_ops_per_block)]
fn a_lock_whose_holder_is_killed_goes_to_the_next() -> Outcome {
    alone(|| {
        let memory = nix::sys::memfd::memfd_create(c"lock", nix::sys::memfd::MFdFlags::empty()).unwrap();
        let mut file = File::from(memory);
        file.write_all(&[0; 4096]).unwrap();
        let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
        let lock = map_lock(Path::new(&path));
        // SAFETY: the attributes are made before they are used, and the lock's memory is mapped.
        unsafe {
            let mut attributes = std::mem::zeroed();
            libc::pthread_mutexattr_init(&raw mut attributes);
            libc::pthread_mutexattr_setpshared(&raw mut attributes, libc::PTHREAD_PROCESS_SHARED);
            libc::pthread_mutexattr_setrobust(&raw mut attributes, libc::PTHREAD_MUTEX_ROBUST);
            libc::pthread_mutex_init(lock, &raw const attributes);
        }
        for method in METHODS {
            let (latch, theirs) = pipe()?;
            let child = with(method).spawn(hold_lock, (path.clone(), theirs))?;
            latch.recv()?;
            // SAFETY: the lock lives.
            assert_eq!(unsafe { libc::pthread_mutex_trylock(lock) }, libc::EBUSY);
            child.kill()?;
            assert_eq!(child.join().unwrap_err().signal(), Some(9));
            // SAFETY: as above.
            let next = Errno::from_raw(unsafe { libc::pthread_mutex_trylock(lock) });
            assert_eq!(next, Errno::EOWNERDEAD, "{method:?}");
            // SAFETY: as above; this process holds it.
            unsafe { libc::pthread_mutex_consistent(lock) };
            // SAFETY: as above.
            assert_eq!(unsafe { libc::pthread_mutex_unlock(lock) }, 0);
        }
        Ok(())
    })
}

fn what_a_program_draws_before_init_no_child_draws_again() -> Outcome {
    let lines = printed_by(env!("CARGO_BIN_EXE_random_numbers"), None, StartMethod::ForkServer);
    assert_eq!(lines.len(), 6);
    assert!(lines.iter().all(|line| line.ends_with(": 0 twice")), "{lines:?}");
    Ok(())
}

fn a_program_with_threads_before_init_executes_its_children() -> Outcome {
    let lines = printed_by(env!("CARGO_BIN_EXE_threads"), Some("early"), StartMethod::ForkServer);
    assert_eq!(lines, ["true", "true", "true"]);
    Ok(())
}

fn a_fork_server_in_which_a_thread_appears_forks_no_more() -> Outcome {
    let lines = printed_by(env!("CARGO_BIN_EXE_threads"), Some("late"), StartMethod::ForkServer);
    assert_eq!(lines, ["false", "true", "true"]);
    Ok(())
}

fn a_program_that_stops_its_fork_server_has_no_child_left() -> Outcome {
    for method in METHODS {
        let lines = printed_by(env!("CARGO_BIN_EXE_no_children"), None, method);
        assert_eq!(lines, ["0 children at first"; 3], "{method:?}");
    }
    Ok(())
}

fn a_process_tells_by_which_signal_its_child_was_killed() -> Outcome {
    for method in METHODS {
        let (mut child, latch) = blocked_child_by(with(method))?;
        assert_eq!((child.signal(), child.exit_code()), (None, None));
        send_signal(child.pid(), Signal::SIGUSR1);
        assert!(child.join_timeout(TEST_TIMEOUT).is_err());
        assert_eq!((child.signal(), child.exit_code()), (Some(Signal::SIGUSR1 as i32), None), "{method:?}");
        drop(latch);
        let mut child = with(method).spawn(|| (), ())?;
        child.join_timeout(TEST_TIMEOUT)?;
        assert_eq!((child.signal(), child.exit_code()), (None, Some(0)), "{method:?}");
    }
    Ok(())
}

fn functions_for_the_start_run_before_all_else() -> Outcome {
    for method in METHODS {
        let lines = printed_by(env!("CARGO_BIN_EXE_at_start"), None, method);
        assert_eq!(lines, ["[1, 2]", "[1, 2]", "a panic: true", "[]"], "{method:?}");
    }
    Ok(())
}

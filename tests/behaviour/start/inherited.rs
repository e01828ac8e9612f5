//! What a child inherits: its descriptors, working directory, limits, ids, stack, root and control group.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};
use std::{env, thread};

use multiproc::queue::bounded;
use multiproc::{Process, StartMethod, pipe, stop_fork_server};
use nix::libc;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Gid, Pid, Uid, chroot, dup, dup2_stdout, getgroups, getuid, setgroups, setuid};

use crate::support::{
    Latch, METHODS, Outcome, alone, cannot_run, children, descriptors, eventually, fork_server, is_root,
    trials, with,
};

trials![
    a_child_has_nothing_but_what_it_was_given,
    a_child_writes_where_its_parent_does_at_that_moment,
    a_child_sees_what_its_parent_has_changed,
    a_child_sees_what_has_changed_while_the_fork_server_was_made,
    a_child_sees_its_parents_groups_however_many_they_are,
    a_program_that_changes_its_root_has_no_children_from_outside_of_it,
    a_child_has_the_stack_that_its_parent_has,
    a_child_that_becomes_another_user_is_that_in_all_its_threads,
    a_new_fork_server_is_where_its_program_is_at_that_moment,
];

fn a_child_has_nothing_but_what_it_was_given() -> Outcome {
    alone(|| {
        let inheritable: OwnedFd = dup(File::open("/dev/null").unwrap()).unwrap();
        let _queue = bounded::<u32>(4)?;
        for method in METHODS {
            // The standard streams, and the socket for its result.
            assert_eq!(with(method).spawn(descriptors, ())?.join()?, [0, 1, 2, 3], "{method:?}");
            // An end of a pipe is a socket, the memory, and two eventfds for each direction.
            let (ours, theirs) = pipe::<(), ()>()?;
            let with_an_argument = with(method).spawn(|_end: Latch| descriptors(), (theirs,))?.join()?;
            assert_eq!(with_an_argument, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], "{method:?}");
            assert!(
                ours.recv().unwrap_err().is_disconnected(),
                "another process still holds an end that was moved to a child"
            );
            let read = || std::io::stdin().read(&mut [0; 10]).unwrap();
            assert_eq!(with(method).spawn(read, ())?.join()?, 0, "standard input is empty");
        }
        drop(inheritable);
        Ok(())
    })
}

/// The pipe ends when this process has its old standard output back: no other process holds it.
fn a_child_writes_where_its_parent_does_at_that_moment() -> Outcome {
    alone(|| {
        for method in METHODS {
            with(method).spawn(|| (), ())?.join()?; // a fork server is there before
            let (mut reader, writer) = std::io::pipe().unwrap();
            let before = dup(std::io::stdout()).unwrap();
            dup2_stdout(writer).unwrap();
            let write = || {
                println!("a line");
                print!("and a half");
                // SAFETY: a text that ends with a zero.
                #[allow(unsafe_code)]
                unsafe {
                    libc::printf(c", and C".as_ptr())
                };
            };
            with(method).spawn(write, ())?.join()?;
            dup2_stdout(before).unwrap();
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            assert_eq!(text, "a line\nand a half, and C", "{method:?}");
        }
        Ok(())
    })
}

/// The state that a child inherits.
fn inherited_state() -> (Option<String>, (u64, u64), u64, bool) {
    let here = fs::metadata(".").unwrap();
    let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let ignored = fs::read_to_string("/proc/self/status").unwrap();
    let ignored = ignored.lines().find_map(|line| line.strip_prefix("SigIgn:\t")).unwrap();
    let ignored = u64::from_str_radix(ignored, 16).unwrap();
    (env::var("A_NEW_ONE").ok(), (here.dev(), here.ino()), limit, ignored & 1 << (libc::SIGUSR1 - 1) != 0)
}

#[allow(unsafe_code)]
fn a_child_sees_what_its_parent_has_changed() -> Outcome {
    alone(|| {
        for method in METHODS {
            let seen = || with(method).spawn(inherited_state, ())?.join();
            assert_eq!(seen()?, inherited_state());
            // SAFETY: no other thread reads the environment.
            unsafe { env::set_var("A_NEW_ONE", format!("{method:?}")) };
            assert_eq!(seen()?, inherited_state());
            assert_eq!(seen()?.0, Some(format!("{method:?}")));
            env::set_current_dir(if method == StartMethod::Spawn { "/" } else { "/proc" }).unwrap();
            assert_eq!(seen()?, inherited_state());
            let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
            setrlimit(Resource::RLIMIT_NOFILE, 100 + method as u64, hard).unwrap();
            assert_eq!(seen()?, inherited_state());
            // SAFETY: to ignore a signal runs no code of ours.
            unsafe { libc::signal(libc::SIGUSR1, libc::SIG_IGN) };
            assert_eq!(seen()?, inherited_state());
            assert!(seen()?.3);
            // SAFETY: as above.
            unsafe { libc::signal(libc::SIGUSR1, libc::SIG_DFL) };
            assert!(!seen()?.3);
        }
        eventually("the fork servers before the last one are gone", || children().len() <= 1);
        Ok(())
    })
}

fn a_child_sees_its_parents_groups_however_many_they_are() -> Outcome {
    if !is_root() {
        return Ok(());
    }
    alone(|| {
        for count in [2_000, 3_000] {
            let groups: Vec<Gid> = (10_000..10_000 + count).map(Gid::from_raw).collect();
            setgroups(&groups).unwrap();
            let seen = with(StartMethod::ForkServer).spawn(|| getgroups().unwrap().len(), ())?.join()?;
            assert_eq!(seen, groups.len());
        }
        Ok(())
    })
}

fn a_child_sees_what_has_changed_while_the_fork_server_was_made() -> Outcome {
    alone(|| {
        let seen = || with(StartMethod::ForkServer).spawn(inherited_state, ())?.join();
        for round in 0..80 {
            env::set_current_dir("/").unwrap();
            if let Some(pid) = fork_server() {
                // One that started in the wrong folder may just end.
                let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
            }
            thread::scope(|scope| {
                let starting = scope.spawn(seen);
                let start = Instant::now();
                while start.elapsed() < Duration::from_micros(10 * round) {}
                env::set_current_dir("/proc").unwrap();
                starting.join().unwrap()
            })?;
            env::set_current_dir("/").unwrap();
            assert_eq!(seen()?, inherited_state());
            env::set_current_dir("/proc").unwrap();
            assert_eq!(seen()?, inherited_state());
        }
        Ok(())
    })
}

fn a_program_that_changes_its_root_has_no_children_from_outside_of_it() -> Outcome {
    if !is_root() {
        return Ok(());
    }
    alone(|| {
        let root = || fs::metadata("/").map(|root| root.ino()).ok();
        assert_eq!(with(StartMethod::ForkServer).spawn(root, ())?.join()?, root());
        chroot(&env::current_dir().unwrap()).unwrap();
        // There is no program in there to execute, and no list of processes.
        let error = with(StartMethod::ForkServer).spawn(root, ()).unwrap_err();
        assert!(error.to_string().contains("/proc is not mounted"), "{error}");
        assert_eq!(error.os_error(), Some(libc::ENOENT));
        Ok(())
    })
}

/// Uses more stack than a thread has by default.
fn deep(depth: u32) -> u32 {
    let room = std::hint::black_box([depth; 256]);
    if depth == 0 { 0 } else { deep(depth - 1) + u32::from(room[255] == depth) }
}

fn a_child_has_the_stack_that_its_parent_has() -> Outcome {
    alone(|| {
        let (_, most) = getrlimit(Resource::RLIMIT_STACK).unwrap();
        for mebibytes in [8, 16, 32] {
            setrlimit(Resource::RLIMIT_STACK, mebibytes << 20, most).unwrap();
            for method in METHODS {
                // A quarter of the stack, more in a build without optimisation.
                let depth = u32::try_from(mebibytes << 8).unwrap();
                assert_eq!(with(method).spawn(deep, (depth,))?.join()?, depth, "{method:?}");
            }
        }
        Ok(())
    })
}

/// The C library changes the user in all threads that it knows of; a forked child lacks one of them.
fn a_child_that_becomes_another_user_is_that_in_all_its_threads() -> Outcome {
    if !is_root() {
        return Ok(());
    }
    let become_unprivileged = || {
        let (done, thread_may_end) = std::sync::mpsc::channel::<()>();
        let thread = thread::spawn(move || {
            let _ = thread_may_end.recv();
            getuid().as_raw()
        });
        setuid(Uid::from_raw(65_534)).unwrap();
        drop(done);
        (
            thread.join().unwrap(),
            getuid().as_raw(),
            std::process::id() == nix::unistd::gettid().as_raw().cast_unsigned(),
        )
    };
    for method in METHODS {
        assert_eq!(
            with(method).spawn(become_unprivileged, ())?.join()?,
            (65_534, 65_534, true),
            "{method:?}"
        );
    }
    Ok(())
}

/// Moves this process to a new control group, of any hierarchy. `None` without the rights.
fn other_control_group(name: &str) -> Option<std::path::PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let is_one = |line: &&str| line.split(' ').nth(2).is_some_and(|kind| kind.starts_with("cgroup"));
    let roots = mounts.lines().filter(is_one).filter_map(|line| line.split(' ').nth(1));
    roots.map(|root| Path::new(root).join(name)).find(|group| {
        let moved = fs::create_dir(group).is_ok() && fs::write(group.join("cgroup.procs"), "0").is_ok();
        if !moved {
            let _ = fs::remove_dir(group);
        }
        moved
    })
}

fn a_new_fork_server_is_where_its_program_is_at_that_moment() -> Outcome {
    let name = format!("multiproc-test-{}", std::process::id());
    let there = Process::spawn(move_to_another_control_group, (name,))?.join()?;
    match there {
        Some(group) => eventually("the group can be removed", || fs::remove_dir(&group).is_ok()),
        None => cannot_run("this user may not make a control group"),
    }
    Ok(())
}

fn move_to_another_control_group(name: String) -> Option<std::path::PathBuf> {
    let groups = || fs::read_to_string("/proc/self/cgroup").unwrap();
    for method in METHODS {
        assert_eq!(with(method).spawn(groups, ()).unwrap().join().unwrap(), groups());
    }
    let group = other_control_group(&name)?;
    assert!(groups().contains(&name));
    stop_fork_server().unwrap(); // a start does not check the control groups: that takes too long
    for method in METHODS {
        assert_eq!(with(method).spawn(groups, ()).unwrap().join().unwrap(), groups(), "{method:?}");
    }
    let score = || fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    fs::write("/proc/self/oom_score_adj", "321").unwrap();
    stop_fork_server().unwrap();
    for method in METHODS {
        assert_eq!(with(method).spawn(score, ()).unwrap().join().unwrap(), "321\n", "{method:?}");
    }
    Some(group)
}

//! **Start methods**: what a child is, however it was started, and what becomes of all when a fork server
//! dies.

use std::collections::BTreeSet;
use std::env;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use multiproc::queue::{Sender, bounded};
use multiproc::{
    Error, Pool, Process, Result, SharedSlice, StartMethod, active_children, current, parent, pipe,
    stop_fork_server,
};
use nix::errno::Errno;
use nix::libc;
use nix::sys::prctl::set_child_subreaper;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{
    ForkResult, Gid, Pid, Uid, chroot, dup, dup2_stdout, fork, getgroups, getuid, setgroups, setuid,
};

use crate::support::{
    Latch, Outcome, PATIENCE, alone, block, children, descriptors, eventually, fork_server,
    open_without_children, send_signal, trials, wait_for_state,
};

trials![
    both_methods_start_processes_and_pools,
    a_child_has_nothing_but_what_it_was_given,
    a_child_writes_where_its_parent_does_at_that_moment,
    a_child_sees_what_its_parent_has_changed,
    a_child_sees_what_has_changed_while_the_fork_server_was_made,
    a_child_sees_its_parents_groups_however_many_they_are,
    arguments_may_hold_as_many_descriptors_as_a_message_takes,
    the_environment_chooses_the_method,
    any_other_method_in_the_environment_is_an_error,
    children_come_from_one_fork_server_that_is_no_active_child,
    a_fork_server_minds_no_signal_of_the_terminal,
    children_of_a_killed_fork_server_live_on_and_the_next_start_makes_another,
    kills_of_the_fork_server_lose_nothing_and_leave_nothing,
    what_a_fork_server_has_ready_is_buried_when_it_is_killed_and_not_missed,
    all_that_a_fork_server_has_ready_can_die_and_the_next_start_works,
    a_program_that_becomes_another_user_has_other_children_ready_and_leaves_none,
    a_stopped_fork_server_delays_a_start_no_longer_than_its_time,
    a_killed_parent_takes_its_fork_server_along,
    a_child_that_had_children_leaves_nobody_to_who_adopts_orphans,
    a_copy_of_a_process_has_a_fork_server_of_its_own,
    a_copy_that_joins_a_child_takes_nothing_away,
    a_program_that_changes_its_root_has_no_children_from_outside_of_it,
    a_lock_whose_holder_is_killed_goes_to_the_next,
    what_a_program_draws_before_init_no_child_draws_again,
    a_program_with_threads_before_init_executes_its_children,
    a_fork_server_in_which_a_thread_appears_forks_no_more,
    a_program_that_stops_its_fork_server_has_no_child_left,
    a_child_has_the_stack_that_its_parent_has,
    a_child_that_becomes_another_user_is_that_in_all_its_threads,
    a_new_fork_server_is_where_its_program_is_at_that_moment,
    a_process_tells_by_which_signal_its_child_was_killed,
    an_initializer_that_never_returns_is_an_error_of_every_call,
    the_workers_of_a_pool_share_its_indices_and_a_new_one_has_that_of_the_old,
    functions_for_the_start_run_before_all_else,
];

const METHODS: [StartMethod; 2] = [StartMethod::ForkServer, StartMethod::Spawn];

fn with(method: StartMethod) -> multiproc::ProcessBuilder {
    Process::builder().start_method(method)
}

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

fn a_child_has_nothing_but_what_it_was_given() -> Outcome {
    alone(|| {
        let inheritable: OwnedFd = dup(File::open("/dev/null").unwrap()).unwrap();
        let _queue = bounded::<u32>(4)?;
        for method in METHODS {
            // The three standard ones, and the one over which its result goes.
            assert_eq!(with(method).spawn(descriptors, ())?.join()?, [0, 1, 2, 3], "{method:?}");
            // The end of a pipe is a socket, shared memory, and two bells for each way.
            let (ours, theirs) = pipe::<(), ()>()?;
            let with_an_argument = with(method).spawn(|_end: Latch| descriptors(), (theirs,))?.join()?;
            assert_eq!(with_an_argument, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], "{method:?}");
            assert!(
                ours.recv().unwrap_err().is_disconnected(),
                "somebody still holds an end that was handed to a child"
            );
            let read = || std::io::stdin().read(&mut [0; 10]).unwrap();
            assert_eq!(with(method).spawn(read, ())?.join()?, 0, "standard input is empty");
        }
        drop(inheritable);
        Ok(())
    })
}

/// The pipe ends when this process has its old standard output back: nobody else holds on to it.
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

/// What a child gets from its parent's surroundings.
fn surroundings() -> (Option<String>, (u64, u64), u64, bool) {
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
            let seen = || with(method).spawn(surroundings, ())?.join();
            assert_eq!(seen()?, surroundings());
            // SAFETY: no other thread reads the environment.
            unsafe { env::set_var("A_NEW_ONE", format!("{method:?}")) };
            assert_eq!(seen()?, surroundings());
            assert_eq!(seen()?.0, Some(format!("{method:?}")));
            env::set_current_dir(if method == StartMethod::Spawn { "/" } else { "/proc" }).unwrap();
            assert_eq!(seen()?, surroundings());
            let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
            setrlimit(Resource::RLIMIT_NOFILE, 100 + method as u64, hard).unwrap();
            assert_eq!(seen()?, surroundings());
            // SAFETY: to ignore a signal runs no code of ours.
            unsafe { libc::signal(libc::SIGUSR1, libc::SIG_IGN) };
            assert_eq!(seen()?, surroundings());
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
    if !Uid::effective().is_root() {
        println!("not tested: only root can change its groups");
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
        let seen = || with(StartMethod::ForkServer).spawn(surroundings, ())?.join();
        for round in 0..80 {
            env::set_current_dir("/").unwrap();
            if let Some(pid) = fork_server() {
                send_signal(pid, Signal::SIGKILL);
            }
            thread::scope(|scope| {
                let starting = scope.spawn(seen);
                let start = Instant::now();
                while start.elapsed() < Duration::from_micros(10 * round) {}
                env::set_current_dir("/proc").unwrap();
                starting.join().unwrap()
            })?;
            env::set_current_dir("/").unwrap();
            assert_eq!(seen()?, surroundings());
            env::set_current_dir("/proc").unwrap();
            assert_eq!(seen()?, surroundings());
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

/// What the fixture prints when the environment says so.
fn said_with(method: Option<&str>) -> String {
    let mut program = Command::new(env!("CARGO_BIN_EXE_start_method"));
    program
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

/// A child from the fork server that has begun and stays until its gate is dropped.
fn blocked_child() -> Result<(Process<()>, Latch)> {
    staying_child_by(StartMethod::ForkServer)
}

fn staying_child_by(method: StartMethod) -> Result<(Process<()>, Latch)> {
    let (gate, theirs) = pipe()?;
    let child = with(method).spawn(block, (theirs,))?;
    assert!(gate.poll(PATIENCE)?, "the child did not begin");
    gate.recv()?;
    Ok((child, gate))
}

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

fn a_fork_server_minds_no_signal_of_the_terminal() -> Outcome {
    alone(|| {
        let first = blocked_child()?;
        let server = fork_server().unwrap();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGTSTP, Signal::SIGUSR1] {
            send_signal(server, signal);
        }
        let (second, _gate) = blocked_child()?;
        assert_eq!(fork_server(), Some(server));
        second.terminate()?; // its children are not deaf
        assert_eq!(second.join().unwrap_err().signal(), Some(Signal::SIGTERM as i32));
        drop(first);
        Ok(())
    })
}

fn children_of_a_killed_fork_server_live_on_and_the_next_start_makes_another() -> Outcome {
    alone(|| {
        let (child, gate) = blocked_child()?;
        let server = fork_server().unwrap();
        send_signal(server, Signal::SIGKILL);
        eventually("the fork server is buried", || fork_server().is_none());
        assert!(child.is_alive());
        let (other, other_gate) = blocked_child()?;
        assert_ne!(fork_server(), Some(server));
        drop((gate, other_gate));
        child.join()?;
        other.join()
    })
}

/// Whoever starts children meanwhile gets a child, or an error that says so; each child that there is runs
/// once.
fn kills_of_the_fork_server_lose_nothing_and_leave_nothing() -> Outcome {
    alone(|| {
        blocked_child()?.0.kill()?;
        let before = open_without_children();
        let (runs, queue) = bounded::<u32>(10_000)?;
        let (done, killed, joined) = (AtomicBool::new(false), Mutex::default(), Mutex::default());
        thread::scope(|scope| {
            scope.spawn(|| kill_fork_servers(&killed, &done));
            let (runs, killed, joined) = (&runs, &killed, &joined);
            let start_some = |first| scope.spawn(move || start_many(first, runs, killed, joined));
            let starters = [0, 1000, 2000, 3000].map(start_some);
            let fates = starters.map(thread::ScopedJoinHandle::join);
            done.store(true, Ordering::Relaxed);
            assert!(fates.iter().all(std::result::Result::is_ok), "a child was lost");
        });
        drop(runs);
        let ran: Vec<u32> = queue.iter().collect::<Result<_>>()?;
        drop(queue);
        let distinct: BTreeSet<u32> = ran.iter().copied().collect();
        assert_eq!(ran.len(), distinct.len(), "a task has run twice");
        let joined: BTreeSet<u32> = joined.into_inner().unwrap();
        assert!(joined.is_subset(&distinct));
        assert!(!joined.is_empty() && !killed.into_inner().unwrap().is_empty());

        while fork_server().is_none() {
            blocked_child()?.0.kill()?; // what the last one had forked before it was killed is used first
        }
        eventually("there is a fork server and nothing else", || {
            let children = children();
            children.len() == 1 && children[0].1 == "fork-server"
        });
        assert_eq!(open_without_children(), before);
        Ok(())
    })
}

/// Kills every fork server, for some a moment after it was made, for others later.
fn kill_fork_servers(killed: &Mutex<BTreeSet<u32>>, done: &AtomicBool) {
    for pause in (0..).map(|turn: u64| 500 + turn * 7919 % 3000) {
        if done.load(Ordering::Relaxed) {
            return;
        }
        if let Some(pid) = fork_server() {
            // It may be a child that has not taken on its own name yet.
            killed.lock().unwrap().insert(pid);
            let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL); // it may be gone already
        }
        thread::sleep(Duration::from_micros(pause));
    }
}

fn start_many(first: u32, runs: &Sender<u32>, killed: &Mutex<BTreeSet<u32>>, joined: &Mutex<BTreeSet<u32>>) {
    for number in first..first + 300 {
        let run = |number: u32, runs: Sender<u32>| runs.send(number).map(|()| number).unwrap();
        let child = match with(StartMethod::ForkServer).spawn(run, (number, runs.clone())) {
            Ok(child) => child,
            Err(error) => {
                assert!(error.is_start(), "{error}");
                continue;
            }
        };
        let pid = child.pid();
        match child.join() {
            Ok(result) => {
                assert_eq!(result, number);
                joined.lock().unwrap().insert(number);
            }
            Err(error) => assert!(
                error.signal() == Some(9) && killed.lock().unwrap().contains(&pid),
                "{error}, and nobody has killed {pid}"
            ),
        }
    }
}

/// The children that wait for a task, once there are as many as are kept.
fn spares() -> Vec<u32> {
    let all = || -> Vec<u32> {
        let children = tests::children_of(std::process::id()).into_iter();
        children.filter(|(_, name)| name == "mp-preforked").map(|(pid, _)| pid).collect()
    };
    while all().len() < 2 {
        with(StartMethod::ForkServer).spawn(|| (), ()).unwrap().join().unwrap();
    }
    all()
}

fn lives(pid: u32) -> bool {
    fs::exists(format!("/proc/{pid}")).unwrap()
}

fn what_a_fork_server_has_ready_is_buried_when_it_is_killed_and_not_missed() -> Outcome {
    alone(|| {
        for signal in [Signal::SIGKILL, Signal::SIGTERM] {
            let [first, second] = spares()[..] else { panic!("there are others") };
            send_signal(second, signal);
            eventually("it is buried", || !lives(second));
            assert!(lives(first));
            assert_eq!(with(StartMethod::ForkServer).spawn(|| 1, ())?.join()?, 1);
            assert_eq!(with(StartMethod::ForkServer).spawn(|| 2, ())?.join()?, 2);
        }
        Ok(())
    })
}

fn all_that_a_fork_server_has_ready_can_die_and_the_next_start_works() -> Outcome {
    alone(|| {
        let server = {
            spares();
            fork_server().unwrap()
        };
        for turn in 0..20 {
            for pid in spares() {
                send_signal(pid, Signal::SIGKILL);
                eventually("it is dead", || !tests::is_spare(pid, "mp-preforked"));
            }
            assert_eq!(with(StartMethod::ForkServer).spawn(|turn: u32| turn, (turn,))?.join()?, turn);
        }
        assert_eq!(fork_server(), Some(server));
        Ok(())
    })
}

fn a_program_that_becomes_another_user_has_other_children_ready_and_leaves_none() -> Outcome {
    if !Uid::effective().is_root() {
        return Ok(()); // then it cannot
    }
    alone(|| {
        let old: Vec<u32> = spares().into_iter().chain(fork_server()).collect();
        setuid(Uid::from_raw(65_534)).unwrap();
        let user = || getuid().as_raw();
        assert_eq!(with(StartMethod::ForkServer).spawn(user, ())?.join()?, 65_534);
        for pid in old {
            eventually("it is buried", || !lives(pid));
        }
        Ok(())
    })
}

fn a_stopped_fork_server_delays_a_start_no_longer_than_its_time() -> Outcome {
    alone(|| {
        let (child, _gate) = blocked_child()?;
        let server = fork_server().unwrap();
        send_signal(server, Signal::SIGSTOP);
        wait_for_state(server, 'T');
        let time = Duration::from_millis(200);
        let run = |sender: Sender<u32>| sender.send(1).unwrap();
        // What it had forked before is still to be had.
        let late = (0..5).find_map(|_| {
            let (sender, receiver) = bounded::<u32>(1).unwrap();
            let start = Instant::now();
            let started = with(StartMethod::ForkServer).start_timeout(time).spawn(run, (sender,));
            started.err().map(|error| (error, receiver, start.elapsed()))
        });
        let (error, receiver, took) = late.unwrap();
        assert!(took >= time);
        assert!(error.is_start() && error.to_string().contains("did not answer within 0.2 s"), "{error}");
        assert!(receiver.recv().unwrap_err().is_disconnected(), "the task has run");
        eventually("the fork server is buried", || children().iter().all(|&(pid, _)| pid != server));
        assert!(child.is_alive());
        assert_eq!(with(StartMethod::ForkServer).spawn(|| 3, ())?.join()?, 3);
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

fn a_child_that_had_children_leaves_nobody_to_who_adopts_orphans() -> Outcome {
    alone(|| {
        set_child_subreaper(true).unwrap();
        let rear = |count: usize| {
            (0..count).try_for_each(|_| Process::spawn(|| (), ())?.join())?;
            Pool::new(1)?.apply(|| (), ())
        };
        for method in METHODS {
            for count in 0..3 {
                with(method).spawn(rear, (count,))?.join()??;
                // Nobody buries what comes here, so it would stay.
                eventually("nobody else is there", || {
                    let own = fork_server();
                    let family = tests::children_of(std::process::id());
                    family.iter().all(|(pid, name)| Some(*pid) == own || tests::is_spare(*pid, name))
                });
            }
        }
        Ok(())
    })
}

#[allow(unsafe_code)]
fn a_copy_of_a_process_has_a_fork_server_of_its_own() -> Outcome {
    alone(|| {
        let (child, gate) = blocked_child()?;
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
        drop(gate);
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
                    let refused = |error: Error| error.to_string().contains("a forked copy");
                    let right =
                        child.join_timeout(PATIENCE).is_err_and(refused) && child.join().is_err_and(refused);
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

fn a_program_that_changes_its_root_has_no_children_from_outside_of_it() -> Outcome {
    if !Uid::effective().is_root() {
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

/// A lock in memory that processes share, which the system hands on when its holder has died.
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
fn hold_lock(path: String, gate: Latch) -> i32 {
    let lock = map_lock(Path::new(&path));
    // SAFETY: the parent has made a lock there.
    let result = unsafe { libc::pthread_mutex_lock(lock) };
    block(gate);
    result
}

/// The C library takes its own word for who owns a lock, and that word must be the child's.
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
            let (gate, theirs) = pipe()?;
            let child = with(method).spawn(hold_lock, (path.clone(), theirs))?;
            gate.recv()?;
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

/// What a fixture program prints, line by line.
fn printed_by(program: &str, argument: Option<&str>, method: StartMethod) -> Vec<String> {
    let method = if method == StartMethod::Spawn { "spawn" } else { "fork-server" };
    let mut program = Command::new(program);
    program.env("MULTIPROC_START_METHOD", method).args(argument).stdin(Stdio::null());
    let output = program.stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{program:?}: {}", output.status);
    output.stdout.lines().map(|line| line.unwrap()).collect()
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

/// Uses more of the stack than a thread has unless somebody asks for more.
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
                // A quarter of it, and what a build without optimisation takes beside.
                let depth = u32::try_from(mebibytes << 8).unwrap();
                assert_eq!(with(method).spawn(deep, (depth,))?.join()?, depth, "{method:?}");
            }
        }
        Ok(())
    })
}

/// The C library tells all threads that it knows of, and there is one that a forked child has not.
fn a_child_that_becomes_another_user_is_that_in_all_its_threads() -> Outcome {
    if !Uid::effective().is_root() {
        return Ok(());
    }
    let become_nobody = || {
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
        assert_eq!(with(method).spawn(become_nobody, ())?.join()?, (65_534, 65_534, true), "{method:?}");
    }
    Ok(())
}

/// A control group of some hierarchy that this process may move to; none where it has not got the rights.
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
    if let Some(group) = there {
        eventually("the group can be removed", || fs::remove_dir(&group).is_ok());
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
    stop_fork_server().unwrap(); // to look which groups it is in takes too long before each start
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

fn a_process_tells_by_which_signal_its_child_was_killed() -> Outcome {
    for method in METHODS {
        let (mut child, gate) = staying_child_by(method)?;
        assert_eq!((child.signal(), child.exit_code()), (None, None));
        send_signal(child.pid(), Signal::SIGUSR1);
        assert!(child.join_timeout(PATIENCE).is_err());
        assert_eq!((child.signal(), child.exit_code()), (Some(Signal::SIGUSR1 as i32), None), "{method:?}");
        drop(gate);
        let mut child = with(method).spawn(|| (), ())?;
        child.join_timeout(PATIENCE)?;
        assert_eq!((child.signal(), child.exit_code()), (None, Some(0)), "{method:?}");
    }
    Ok(())
}

fn an_initializer_that_never_returns_is_an_error_of_every_call() -> Outcome {
    for method in METHODS {
        let pool = Pool::builder().workers(2).start_method(method);
        let hang = || thread::sleep(Duration::from_secs(1000));
        let limit = Duration::from_millis(200);
        let pool = pool.initializer(hang, ()).initializer_timeout(limit).build()?;
        for fate in [pool.apply(|| (), ()), pool.map(|_: u32| (), 0..10).map(drop)] {
            let error = fate.unwrap_err();
            let says_why = error.to_string().contains("its initializer did not return within 0.2 s");
            assert!(error.is_start() && says_why, "{error}");
        }
        // One that takes its time, but not too much, and one that is not there, are not ended.
        let pause = || thread::sleep(Duration::from_millis(300));
        let pool = Pool::builder().workers(1).start_method(method).initializer(pause, ()).build()?;
        assert_eq!(pool.apply(|| 3, ())?, 3);
        let none = Pool::builder().workers(1).start_method(method).initializer_timeout(Duration::ZERO);
        assert_eq!(none.build()?.apply(|| 3, ())?, 3);
    }
    Ok(())
}

fn the_workers_of_a_pool_share_its_indices_and_a_new_one_has_that_of_the_old() -> Outcome {
    assert_eq!(current().worker_index(), None);
    let index = |_: u32| (current().pid(), current().worker_index().unwrap());
    for method in METHODS {
        let pool = Pool::builder().workers(3).chunk_size(1).start_method(method).build()?;
        let mut seen = BTreeSet::new();
        while seen.len() < 3 {
            seen.extend(pool.map(index, 0..30)?);
        }
        let indices = |seen: &BTreeSet<(u32, usize)>| -> Vec<usize> {
            let mut indices: Vec<_> = seen.iter().map(|&(_, index)| index).collect();
            indices.sort_unstable();
            indices
        };
        assert_eq!(indices(&seen), [0, 1, 2], "{method:?}");
        let Some(&(victim, place)) = seen.iter().nth(1) else { panic!("there are three") };
        send_signal(victim, Signal::SIGKILL);
        seen.remove(&(victim, place));
        while seen.len() < 3 {
            // A task that the dead one had in hand is lost.
            seen.extend(pool.map_results(index, 0..30)?.into_iter().flatten().filter(|it| it.0 != victim));
        }
        assert_eq!(indices(&seen), [0, 1, 2], "{method:?}");
        let in_a_child = || Process::spawn(|| current().worker_index(), ()).unwrap().join().unwrap();
        assert_eq!(pool.apply(in_a_child, ())?, None);
        // However often they are replaced, there are no others.
        let pool = Pool::builder().workers(2).max_tasks_per_worker(1).start_method(method).build()?;
        let places: BTreeSet<usize> = pool.map(index, 0..12)?.into_iter().map(|(_, place)| place).collect();
        assert!(places.iter().all(|&place| place < 2), "{method:?}: {places:?}");
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

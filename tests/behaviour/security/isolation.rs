//! Names, descriptors, environment and memory that other processes could reach.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStringExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::{env, thread};

use multiproc::queue::{Sender, bounded};
use multiproc::{Connection, Pool, Process, Result, SharedSlice, pipe};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::libc;

use super::become_unprivileged;
use crate::support::{METHODS, Outcome, alone, blocked_child, children, descriptors, is_root, trials, with};

trials![
    sockets_have_no_names_and_memory_keeps_its_size,
    every_descriptor_is_closed_on_exec,
    programs_that_are_executed_get_the_standard_streams_alone,
    programs_that_are_executed_get_the_users_environment_alone,
    other_users_cannot_look_inside,
];

/// Calls `look` while this process holds an object of each kind.
fn among_everything<R>(look: impl FnOnce() -> Result<R>) -> Result<R> {
    let _queue = bounded::<u32>(4)?;
    let _pipe = pipe::<u32, u32>()?;
    let _slice = SharedSlice::from_slice(&[1_u64; 100])?;
    let pool = Pool::new(2)?;
    assert_eq!(pool.map(|bytes: Vec<u8>| bytes.len(), [vec![7; 1 << 20]])?, [1 << 20]); // its memory is kept
    let _child = blocked_child()?;
    look()
}

fn sockets_have_no_names_and_memory_keeps_its_size() -> Outcome {
    alone(|| {
        among_everything(|| {
            let with_names = names_of_sockets();
            let (mut sockets, mut memories) = (0, 0);
            for number in descriptors() {
                let place = format!("/proc/self/fd/{number}");
                let target = fs::read_link(&place).unwrap().into_os_string().into_string().unwrap();
                if let Some(inode) = target.strip_prefix("socket:[") {
                    assert!(!with_names.contains(inode.trim_end_matches(']')), "{target}");
                    sockets += 1;
                } else if target.starts_with("/memfd:") {
                    assert!(target.ends_with(" (deleted)"), "{target}");
                    let seals = fcntl(File::open(&place).unwrap(), FcntlArg::F_GET_SEALS).unwrap();
                    let seals = SealFlag::from_bits_truncate(seals);
                    assert!(seals.contains(SealFlag::F_SEAL_SHRINK), "{number} {target}: {seals:?}");
                    memories += 1;
                }
            }
            assert!(sockets >= 6 && memories >= 5, "{sockets}, {memories}");
            Ok(())
        })
    })
}

/// The inodes of all sockets that have a name, in the file system or the abstract one.
fn names_of_sockets() -> BTreeSet<String> {
    let list = fs::read_to_string("/proc/net/unix").unwrap();
    let fields = list.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    fields.filter(|fields| fields.len() > 7).map(|fields| fields[6].to_owned()).collect()
}

/// The descriptors above standard error that an executed program would inherit.
fn inheritable() -> Vec<u32> {
    let stays_open = |&number: &u32| {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:\t")).unwrap();
        i32::from_str_radix(flags, 8).unwrap() & libc::O_CLOEXEC == 0
    };
    descriptors().into_iter().filter(|&number| number > 2).filter(stays_open).collect()
}

fn every_descriptor_is_closed_on_exec() -> Outcome {
    alone(|| {
        among_everything(|| {
            assert!(inheritable().is_empty());
            assert!(Pool::new(1)?.apply(inheritable, ())?.is_empty());
            for method in METHODS {
                let look = |_: Sender<u32>, _: Connection<u32, u32>, _: SharedSlice<u64>| inheritable();
                let (sender, _receiver) = bounded(1)?;
                let args = (sender, pipe()?.0, SharedSlice::from_slice(&[1])?);
                let child = with(method).spawn(look, args)?;
                assert!(child.join()?.is_empty(), "{method:?}");
            }
            Ok(())
        })
    })
}

/// The descriptors that an executed `ls` sees; the last is its own, of the folder.
fn descriptors_of_a_program() -> String {
    let output = Command::new("ls").arg("/proc/self/fd").stdin(Stdio::null()).output().unwrap();
    String::from_utf8(output.stdout).unwrap().lines().collect::<Vec<_>>().join(" ")
}

/// Also programs that are executed while children are started.
fn programs_that_are_executed_get_the_standard_streams_alone() -> Outcome {
    alone(|| {
        among_everything(|| {
            let done = AtomicBool::new(false);
            thread::scope(|scope| {
                let programs = scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        assert_eq!(descriptors_of_a_program(), "0 1 2 3");
                    }
                });
                for method in METHODS.into_iter().cycle().take(40) {
                    let (sender, receiver) = bounded(1)?;
                    let look = |sender: Sender<String>| {
                        sender.send(descriptors_of_a_program()).unwrap();
                    };
                    let child = with(method).spawn(look, (sender,))?;
                    let pool = Pool::builder().workers(1).start_method(method).build()?;
                    assert_eq!(pool.apply(descriptors_of_a_program, ())?, "0 1 2 3", "{method:?}");
                    assert_eq!(receiver.recv()?, "0 1 2 3", "{method:?}");
                    child.join()?;
                }
                done.store(true, Ordering::Relaxed);
                programs.join().unwrap();
                Ok(())
            })
        })
    })
}

/// The environment of a program that this process executes.
fn environment_of_a_program() -> BTreeSet<OsString> {
    let output = Command::new("env").arg("-0").output().unwrap();
    let variables = output.stdout.split(|&byte| byte == 0).filter(|variable| !variable.is_empty());
    variables.map(|variable| OsString::from_vec(variable.to_vec())).collect()
}

fn programs_that_are_executed_get_the_users_environment_alone() -> Outcome {
    let join = |(name, value): (OsString, OsString)| [name, value].join("=".as_ref());
    let own: BTreeSet<OsString> = env::vars_os().map(join).collect();
    for method in METHODS {
        let grandchild = || Process::spawn(environment_of_a_program, ()).unwrap().join().unwrap();
        let child = || with(method);
        assert_eq!(child().spawn(environment_of_a_program, ())?.join()?, own, "{method:?}");
        assert_eq!(child().spawn(grandchild, ())?.join()?, own, "{method:?}");
        let pool = Pool::builder().workers(1).start_method(method).build()?;
        assert_eq!(pool.apply(environment_of_a_program, ())?, own, "{method:?}");
    }
    Ok(())
}

/// Only root can become another user.
fn other_users_cannot_look_inside() -> Outcome {
    if !is_root() {
        return Ok(());
    }
    alone(|| {
        among_everything(|| {
            let mut family: Vec<u32> = children().into_iter().map(|(pid, _)| pid).collect();
            family.push(std::process::id());
            assert!(family.len() >= 4);
            Process::spawn(pry, (family,))?.join()
        })
    })
}

fn pry(pids: Vec<u32>) {
    become_unprivileged();
    for pid in pids {
        for secret in ["fd/0", "fd/3", "fd/4", "fd/5", "maps", "mem", "environ"] {
            let error = File::open(format!("/proc/{pid}/{secret}")).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{secret}");
        }
        for place in ["fd", "map_files"] {
            let error = fs::read_dir(format!("/proc/{pid}/{place}")).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{place}");
        }
    }
}

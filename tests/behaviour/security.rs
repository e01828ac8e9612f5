//! **Security**: no one else gets in, and nothing gets out: not to other users, nor to programs that are executed.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::{env, thread};

use multiproc::queue::{Sender, bounded};
use multiproc::{Connection, Frozen, Pool, Process, Result, StartMethod, pipe};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};

use crate::support::{Outcome, alone, children, descriptors, staying_child, trials};

trials![
    sockets_have_no_names_and_memory_keeps_its_size,
    every_descriptor_is_closed_on_exec,
    programs_that_are_executed_get_the_standard_streams_alone,
    programs_that_are_executed_get_the_users_environment_alone,
    other_users_cannot_look_inside,
    a_program_that_was_replaced_or_deleted_goes_on_with_what_it_was,
    a_letter_from_another_build_is_refused,
    a_letter_from_anybody_but_the_parent_is_refused,
    whatever_stands_in_standard_input_nothing_runs_but_main,
];

const METHODS: [StartMethod; 2] = [StartMethod::ForkServer, StartMethod::Spawn];

/// Calls `look` while this process holds some of everything.
fn among_everything<R>(look: impl FnOnce() -> Result<R>) -> Result<R> {
    let _queue = bounded::<u32>(4)?;
    let _pipe = pipe::<u32, u32>()?;
    let _frozen = Frozen::from_slice(&[1_u64; 100])?;
    let pool = Pool::new(2)?;
    assert_eq!(pool.map(|bytes: Vec<u8>| bytes.len(), [vec![7; 1 << 20]])?, [1 << 20]); // its memory is kept
    let _child = staying_child()?;
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

/// The descriptors above standard error that a program would get which this process executes.
fn inheritable() -> Vec<u32> {
    let stays_open = |&number: &u32| {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:\t")).unwrap();
        i32::from_str_radix(flags, 8).unwrap() & nix::libc::O_CLOEXEC == 0
    };
    descriptors().into_iter().filter(|&number| number > 2).filter(stays_open).collect()
}

fn every_descriptor_is_closed_on_exec() -> Outcome {
    alone(|| {
        among_everything(|| {
            assert!(inheritable().is_empty());
            assert!(Pool::new(1)?.apply(inheritable, ())?.is_empty());
            for method in METHODS {
                let look = |_: Sender<u32>, _: Connection<u32, u32>, _: Frozen<u64>| inheritable();
                let (sender, _receiver) = bounded(1)?;
                let args = (sender, pipe()?.0, Frozen::from_slice(&[1])?);
                let child = Process::builder().start_method(method).spawn(look, args)?;
                assert!(child.join()?.is_empty(), "{method:?}");
            }
            Ok(())
        })
    })
}

/// What a program is told of its descriptors, the last of which is the one with which it looks.
fn descriptors_of_a_program() -> String {
    let output = Command::new("ls").arg("/proc/self/fd").stdin(Stdio::null()).output().unwrap();
    String::from_utf8(output.stdout).unwrap().lines().collect::<Vec<_>>().join(" ")
}

/// Also of one that is started while children are.
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
                    let child = Process::builder().start_method(method).spawn(look, (sender,))?;
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
        let child = || Process::builder().start_method(method);
        assert_eq!(child().spawn(environment_of_a_program, ())?.join()?, own, "{method:?}");
        assert_eq!(child().spawn(grandchild, ())?.join()?, own, "{method:?}");
        let pool = Pool::builder().workers(1).start_method(method).build()?;
        assert_eq!(pool.apply(environment_of_a_program, ())?, own, "{method:?}");
    }
    Ok(())
}

/// Only root can become somebody else to try; for others, this tests nothing.
fn other_users_cannot_look_inside() -> Outcome {
    if !Uid::effective().is_root() {
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
    setgroups(&[]).unwrap();
    setgid(Gid::from_raw(65_534)).unwrap();
    setuid(Uid::from_raw(65_534)).unwrap();
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

const LETTERS: &str = env!("CARGO_BIN_EXE_letters");
/// Another program, and so another build. It prints that its main runs.
const HASTY: &str = env!("CARGO_BIN_EXE_hasty");

/// A folder that goes with this value.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = env::temp_dir().join(format!("multiproc-{name}-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        Self(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn a_program_that_was_replaced_or_deleted_goes_on_with_what_it_was() -> Outcome {
    let folder = Folder::new("replaced");
    let (program, other) = (folder.0.join("program"), folder.0.join("other"));
    let replace = || {
        fs::copy(HASTY, &other).unwrap();
        fs::rename(&other, &program).unwrap();
    };
    let delete = || fs::remove_file(&program).unwrap();
    for change in [&replace as &dyn Fn(), &delete] {
        fs::copy(LETTERS, &program)?;
        let mut running =
            Command::new(&program).arg("late").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut lines = BufReader::new(running.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap()?, "ready");
        change();
        running.stdin.take().unwrap().write_all(b"now\n")?;
        assert_eq!(lines.collect::<std::io::Result<Vec<_>>>()?, ["4", "4"]);
        assert!(running.wait()?.success());
    }
    Ok(())
}

/// A letter that was written for a child of `letters`.
fn letter(purpose: &str) -> Vec<u8> {
    let folder = Folder::new(purpose);
    let file = folder.0.join("letter");
    assert!(Command::new(LETTERS).arg("keep").arg(&file).status().unwrap().success());
    fs::read(file).unwrap()
}

/// A pair of sockets such as a parent makes for its child, or others.
fn sockets(kind: SockType) -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC).unwrap()
}

/// Runs a program to its end, with this socket as standard input.
fn run_with(socket: OwnedFd, program: &mut Command) -> Output {
    program.stdin(socket).stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap()
}

fn text(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

fn a_letter_from_another_build_is_refused() -> Outcome {
    let letter = letter("other-build");
    for (program, is_its) in [(LETTERS, true), (HASTY, false)] {
        let (ours, theirs) = sockets(SockType::SeqPacket);
        send(ours.as_raw_fd(), &letter, MsgFlags::empty())?;
        let output = run_with(theirs, Command::new(program).arg("late"));
        let mut answer = [0; 1000];
        let length = recv(ours.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        if is_its {
            assert_eq!(text(&output.stdout), "the task runs\n", "else this test shows nothing");
        } else {
            assert_eq!(
                (output.status.code(), &output.stdout[..], &output.stderr[..]),
                (Some(1), &[][..], &[][..])
            );
            let answer = text(&answer[..length]);
            assert!(answer.contains("parent and child are different builds of the program"), "{answer}");
        }
    }
    Ok(())
}

/// A shell is the parent, and not who made the socket.
fn a_letter_from_anybody_but_the_parent_is_refused() -> Outcome {
    let (ours, theirs) = sockets(SockType::SeqPacket);
    send(ours.as_raw_fd(), &letter("no-parent"), MsgFlags::empty())?;
    let output = run_with(theirs, Command::new("sh").args(["-c", "\"$0\" late; echo $?", LETTERS]));
    assert_eq!((text(&output.stdout), text(&output.stderr)), ("1\n".into(), "".into()));
    Ok(())
}

fn whatever_stands_in_standard_input_nothing_runs_but_main() -> Outcome {
    let letter = letter("any-input");
    let greeting = b"\0multiproc start 1\n";
    assert!(letter.starts_with(greeting), "else this test shows nothing");
    let garbage: Vec<u8> = (0..10_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let in_memory = [&[1], &100_u64.to_le_bytes()[..], &greeting[1..]].concat();
    let mut contents = vec![b"x".to_vec(), garbage.clone(), in_memory, letter.clone()];
    contents.extend([1, 8, greeting.len() - 1, greeting.len()].map(|length| letter[..length].to_vec()));
    contents.extend([1, 9, 20].map(|less| letter[..letter.len() - less].to_vec()));
    contents.extend((0..40).map(|start| [greeting, &garbage[start * 200..(start + 1) * 200]].concat()));
    contents.push([greeting, &[0xff; 1000][..]].concat());
    for kind in [SockType::SeqPacket, SockType::Stream, SockType::Datagram] {
        survives(kind, None);
        for content in &contents {
            survives(kind, Some(content));
        }
    }
    Ok(())
}

/// The other end of the socket stays open: whoever waited for more would wait for ever.
fn survives(kind: SockType, content: Option<&Vec<u8>>) {
    let (ours, theirs) = sockets(kind);
    if let Some(content) = content {
        send(ours.as_raw_fd(), content, MsgFlags::empty()).unwrap();
    }
    let output = run_with(theirs, &mut Command::new(HASTY));
    let (said, errors) = (text(&output.stdout), text(&output.stderr));
    // One of the kind that is for children, and made by the parent, is never anybody's ordinary input: to go on would be
    // to run the whole program in each child of one that has read its input before `init`.
    let expected = if kind == SockType::SeqPacket { (Some(1), "") } else { (Some(0), "main runs\n") };
    let right = (output.status.code(), &said[..]) == expected && !errors.contains("panicked");
    assert!(right, "{kind:?}, {content:?}: {output:?}");
}

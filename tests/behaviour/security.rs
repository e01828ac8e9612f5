//! **Security**: no one else gets in, and nothing gets out: not to other users, nor to programs that are
//! executed.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ffi::{CString, OsString};
use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::{env, thread};

use multiproc::queue::{Sender, bounded};
use multiproc::{Connection, Pool, Process, Result, SharedSlice, StartMethod, pipe};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::libc;
use nix::sys::prctl::get_no_new_privs;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, recv, send, setsockopt, socketpair, sockopt,
};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::unistd::{Gid, Uid, chown, setgid, setgroups, setuid};

use crate::support::{Outcome, alone, blocked_child, children, descriptors, trials};

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
    a_program_with_more_rights_than_its_user_obeys_no_stranger,
    rights_that_a_program_has_given_up_do_not_come_back_in_its_children,
    capabilities_that_root_has_given_up_do_not_come_back_in_its_children,
    children_have_the_rights_that_a_program_has_kept,
    children_of_an_ordinary_program_may_execute_others_that_have_more_rights,
    the_loader_executes_no_other_program,
    what_is_opened_before_init_stays_open,
    a_program_without_read_only_relocations_has_children,
    cargo_refuses_two_copies_of_the_library_in_one_program,
];

const METHODS: [StartMethod; 2] = [StartMethod::ForkServer, StartMethod::Spawn];

/// Calls `look` while this process holds some of everything.
fn among_everything<R>(look: impl FnOnce() -> Result<R>) -> Result<R> {
    let _queue = bounded::<u32>(4)?;
    let _pipe = pipe::<u32, u32>()?;
    let _frozen = SharedSlice::from_slice(&[1_u64; 100])?;
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

/// The descriptors above standard error that a program would get which this process executes.
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
    become_nobody();
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

/// Copies a program by another one: what this process had opened to be written, each child that other tests
/// start just then would hold, too, until it executes its own program, and the system executes no file that
/// is open so.
fn copy(program: &str, place: &Path) {
    assert!(Command::new("cp").arg(program).arg(place).status().unwrap().success());
}

fn a_program_that_was_replaced_or_deleted_goes_on_with_what_it_was() -> Outcome {
    let folder = Folder::new("replaced");
    let (program, other) = (folder.0.join("program"), folder.0.join("other"));
    let replace = || {
        copy(HASTY, &other);
        fs::rename(&other, &program).unwrap();
    };
    let delete = || fs::remove_file(&program).unwrap();
    for change in [&replace as &dyn Fn(), &delete] {
        copy(LETTERS, &program);
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

/// A pair of sockets of some kind.
fn sockets(kind: SockType) -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC).unwrap()
}

/// A pair of sockets such as a parent makes for its child, whose end, the second one, is marked.
fn start_sockets() -> (OwnedFd, OwnedFd) {
    let (ours, theirs) = sockets(SockType::SeqPacket);
    setsockopt(&theirs, sockopt::SendTimeout, &TimeVal::seconds(0x6d75_6c74)).unwrap();
    (ours, theirs)
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
        let (ours, theirs) = start_sockets();
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
    let (ours, theirs) = start_sockets();
    send(ours.as_raw_fd(), &letter("no-parent"), MsgFlags::empty())?;
    let output = run_with(theirs, Command::new("sh").args(["-c", "\"$0\" late; echo $?", LETTERS]));
    assert_eq!((text(&output.stdout), text(&output.stderr)), ("1\n".into(), "".into()));
    Ok(())
}

fn whatever_stands_in_standard_input_nothing_runs_but_main() -> Outcome {
    let letter = letter("any-input");
    let greeting = concat!("\0multiproc start ", env!("CARGO_PKG_VERSION"), "\n").as_bytes();
    assert!(letter.starts_with(greeting), "else this test shows nothing");
    let garbage: Vec<u8> = (0..10_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let in_memory = [&[1], &100_u64.to_le_bytes()[..], &greeting[1..]].concat();
    let mut contents = vec![b"x".to_vec(), garbage.clone(), in_memory, letter.clone()];
    contents.extend([1, 8, greeting.len() - 1, greeting.len()].map(|length| letter[..length].to_vec()));
    contents.extend([1, 9, 20].map(|less| letter[..letter.len() - less].to_vec()));
    contents.extend((0..40).map(|start| [greeting, &garbage[start * 200..(start + 1) * 200]].concat()));
    contents.push([greeting, &[0xff; 1000][..]].concat());
    let main_runs = (Some(0), "main runs\n");
    for content in contents.iter().map(Some).chain([None]) {
        for kind in [SockType::SeqPacket, SockType::Stream, SockType::Datagram] {
            survives(sockets(kind), content, main_runs);
        }
        // One that is marked was made for a child: to go on would be to run the whole program in each child
        // of one that has read its input before `init`.
        survives(start_sockets(), content, (Some(1), ""));
    }
    Ok(())
}

/// The other end of the socket stays open: whoever waited for more would wait for ever.
fn survives((ours, theirs): (OwnedFd, OwnedFd), content: Option<&Vec<u8>>, expected: (Option<i32>, &str)) {
    if let Some(content) = content {
        send(ours.as_raw_fd(), content, MsgFlags::empty()).unwrap();
    }
    let output = run_with(theirs, &mut Command::new(HASTY));
    let (said, errors) = (text(&output.stdout), text(&output.stderr));
    let right = (output.status.code(), &said[..]) == expected && !errors.contains("panicked");
    assert!(right, "{content:?}: {output:?}");
}

/// How a program can have more rights than who executes it.
#[derive(Clone, Copy, Debug)]
enum More {
    User,
    Group,
    Capability,
}

/// Nobody, whose rights are the fewest.
const NOBODY: u32 = 65_534;

/// Some group that is not that user's.
const GROUP: u32 = 60;

/// A copy of a program, which whoever executes it has more rights in. Nothing where this cannot be had, and
/// says so.
fn with_more_rights(program: &str, more: More, folder: &Folder) -> Option<PathBuf> {
    let copy = folder.0.join(format!("{more:?}"));
    self::copy(program, &copy);
    let made = match more {
        More::User => chmod(&copy, 0o4755),
        More::Group => chown(&copy, None, Some(Gid::from_raw(GROUP))).and_then(|()| chmod(&copy, 0o2755)),
        More::Capability => chmod(&copy, 0o755).and_then(|()| give_capability(&copy)),
    };
    if let Err(errno) = made {
        println!("not tested: this user cannot give a program more rights ({more:?}): {errno}");
    }
    made.is_ok().then_some(copy)
}

fn chmod(path: &Path, mode: u32) -> nix::Result<()> {
    let set = fs::set_permissions(path, Permissions::from_mode(mode));
    set.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or_default()))
}

/// That of passing by the permissions of files, as `setcap` gives it.
#[allow(unsafe_code)]
fn give_capability(path: &Path) -> nix::Result<()> {
    let (version_and_effective, dac_override) = (0x0200_0001_u32, 1_u32 << 1);
    let value: Vec<u8> =
        [version_and_effective, dac_override, 0, 0, 0].iter().flat_map(|word| word.to_le_bytes()).collect();
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    let (name, start, length) = (c"security.capability", value.as_ptr().cast(), value.len());
    // SAFETY: two texts that end with a zero, and so many bytes.
    Errno::result(unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), start, length, 0) }).map(drop)
}

fn become_nobody() {
    setgroups(&[]).unwrap();
    setgid(Gid::from_raw(NOBODY)).unwrap();
    setuid(Uid::from_raw(NOBODY)).unwrap();
}

/// Calls `test` with a copy of the program for each way to have more rights; says where it cannot.
fn with_each_right(program: &str, purpose: &str, test: impl Fn(More, PathBuf)) {
    let folder = Folder::new(purpose);
    let is_ignored = statvfs(&folder.0).unwrap().flags().contains(FsFlags::ST_NOSUID);
    if !Uid::effective().is_root() || is_ignored || get_no_new_privs().unwrap() {
        println!("not tested: only root can make programs with more rights than their user, not everywhere");
        return;
    }
    for more in [More::User, More::Group, More::Capability] {
        if let Some(copy) = with_more_rights(program, more, &folder) {
            test(more, copy);
        }
    }
}

fn a_program_with_more_rights_than_its_user_obeys_no_stranger() -> Outcome {
    let letter = letter("stranger");
    with_each_right(LETTERS, "obeys-no-stranger", |more, program| {
        let obeyed = Process::spawn(command, (program, letter.clone())).unwrap().join().unwrap();
        assert_eq!(obeyed, (Some(1), String::new()), "{more:?}");
    });
    Ok(())
}

/// Executes a program, and tells it as its parent would what to do; gives its exit code and what it printed.
fn command(program: PathBuf, letter: Vec<u8>) -> (Option<i32>, String) {
    become_nobody();
    let (ours, theirs) = start_sockets();
    send(ours.as_raw_fd(), &letter, MsgFlags::empty()).unwrap();
    let output = run_with(theirs, Command::new(program).arg("late"));
    (output.status.code(), text(&output.stdout).into_owned())
}

const RIGHTS: &str = env!("CARGO_BIN_EXE_rights");

/// What such a program prints: its rights, and those of its children by each method.
fn rights(program: PathBuf, what: &str) -> Vec<String> {
    let run = |program: PathBuf, what: String| {
        become_nobody();
        let output = Command::new(program).arg(what).stdin(Stdio::null()).output().unwrap();
        text(&output.stdout).lines().map(str::to_owned).collect()
    };
    Process::spawn(run, (program, what.to_owned())).unwrap().join().unwrap()
}

fn rights_that_a_program_has_given_up_do_not_come_back_in_its_children() -> Outcome {
    with_each_right(RIGHTS, "given-up", |more, program| {
        let nobody = format!("{NOBODY}");
        let ids = [nobody.as_str(); 4].join(" ");
        let expected = format!("Uid: {ids} Gid: {ids} Groups: CapPrm: {}", "0".repeat(16));
        assert_eq!(rights(program, "drop"), [&expected[..]; 3], "{more:?}");
    });
    Ok(())
}

/// Whatever root executes has all capabilities, as a rule.
fn capabilities_that_root_has_given_up_do_not_come_back_in_its_children() -> Outcome {
    if !Uid::effective().is_root() {
        println!("not tested: this user is not root");
        return Ok(());
    }
    let output = Command::new(RIGHTS).arg("drop").stdin(Stdio::null()).output()?;
    let rights: Vec<_> = text(&output.stdout).lines().map(str::to_owned).collect();
    assert!(
        rights[0].starts_with("Uid: 0 0 0 0") && rights[0].ends_with("CapPrm: 0000000000000000"),
        "{rights:?}"
    );
    assert_eq!(rights, [&rights[0][..]; 3]);
    Ok(())
}

fn children_have_the_rights_that_a_program_has_kept() -> Outcome {
    with_each_right(RIGHTS, "kept", |more, program| {
        let rights = rights(program, "keep");
        let own = &rights[0];
        let has_more = match more {
            More::User => own.contains("Uid: 65534 0 0 0"),
            More::Group => own.contains("Gid: 65534 60 60 60"),
            More::Capability => own.contains("CapPrm: 0000000000000002"),
        };
        assert!(has_more, "else this test shows nothing: {own}");
        assert_eq!(rights, [&own[..]; 3], "{more:?}");
    });
    Ok(())
}

fn children_of_an_ordinary_program_may_execute_others_that_have_more_rights() -> Outcome {
    let own = get_no_new_privs()?;
    for method in METHODS {
        let child = Process::builder().start_method(method).spawn(|| get_no_new_privs().unwrap(), ())?;
        assert_eq!(child.join()?, own, "{method:?}");
    }
    Ok(())
}

const ORDINARY: &str = env!("CARGO_BIN_EXE_ordinary");
/// What a program prints that starts a child by each method.
const EACH_RAN: &str = "a child ran\na child ran\n";

/// To the system, a program that is run so is the loader. Executed again, that would take the first argument
/// for the program to load.
fn the_loader_executes_no_other_program() -> Outcome {
    let output =
        Command::new(interpreter(ORDINARY)).args([ORDINARY, "/bin/echo", "another program"]).output()?;
    assert_eq!((text(&output.stdout), text(&output.stderr)), (EACH_RAN.into(), "".into()));
    let folder = Folder::new("loader");
    let program = folder.0.join("program");
    copy(LETTERS, &program);
    let mut loaded = Command::new(interpreter(LETTERS));
    loaded.arg(&program).args(["late"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = loaded.spawn()?;
    let mut lines = BufReader::new(running.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap()?, "ready");
    copy(HASTY, &folder.0.join("other"));
    fs::rename(folder.0.join("other"), &program)?; // what is there now is another program
    running.stdin.take().unwrap().write_all(b"now\n")?;
    assert_eq!(lines.collect::<std::io::Result<Vec<_>>>()?, [""; 0], "nothing else was executed");
    let output = running.wait_with_output()?;
    assert!(text(&output.stderr).contains("was loaded by"), "{output:?}");
    Ok(())
}

/// The program that an executable names to load it.
fn interpreter(program: &str) -> PathBuf {
    let bytes = fs::read(program).unwrap();
    let number = |at: usize, length: usize| {
        bytes[at..at + length].iter().rev().fold(0_usize, |number, byte| number << 8 | usize::from(*byte))
    };
    let (headers, size, count) = (number(32, 8), number(54, 2), number(56, 2));
    let is_interpreter = |&at: &usize| number(at, 4) == 3;
    let header = (0..count).map(|index| headers + index * size).find(is_interpreter).unwrap();
    let (start, length) = (number(header + 8, 8), number(header + 32, 8));
    PathBuf::from(OsString::from_vec(bytes[start..start + length - 1].to_vec()))
}

fn what_is_opened_before_init_stays_open() -> Outcome {
    let output = Command::new(env!("CARGO_BIN_EXE_early_descriptor")).output()?;
    assert_eq!((text(&output.stdout), text(&output.stderr)), ("true\ntrue\n".into(), "".into()));
    Ok(())
}

fn a_program_without_read_only_relocations_has_children() -> Outcome {
    let output = Command::new(env!("CARGO_BIN_EXE_without_relro")).output()?;
    assert_eq!((text(&output.stdout), text(&output.stderr)), (EACH_RAN.into(), "".into()));
    Ok(())
}

/// Each would take the other's children for its own.
fn cargo_refuses_two_copies_of_the_library_in_one_program() -> Outcome {
    let manifest =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../crates/multiproc/Cargo.toml"))?;
    let links = manifest.lines().find(|line| line.starts_with("links = ")).unwrap_or_default();
    let folder = Folder::new("two-copies");
    let package = |place: &str, text: String| {
        let place = folder.0.join(place);
        fs::create_dir_all(place.join("src")).unwrap();
        for (file, text) in [("src/lib.rs", ""), ("build.rs", "fn main() {}"), ("Cargo.toml", &text)] {
            fs::write(place.join(file), text).unwrap();
        }
    };
    let dependency = |name| format!("{name} = {{ path = \"../{name}\", package = \"multiproc\" }}\n");
    let dependencies = ["one", "two"].map(dependency).concat();
    package("program", format!("[package]\nname = \"program\"\n[workspace]\n[dependencies]\n{dependencies}"));
    for (links, is_refused) in [(links, true), ("", false)] {
        for (name, version) in [("one", "0.1.0"), ("two", "0.2.0")] {
            let head = format!("[package]\nname = \"multiproc\"\nversion = \"{version}\"");
            package(name, format!("{head}\n{links}\n"));
        }
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["metadata", "--offline", "--format-version", "1"]).current_dir(folder.0.join("program"));
        let output = cargo.output()?;
        assert_eq!(output.status.success(), !is_refused, "{output:?}");
        assert_eq!(
            text(&output.stderr).contains("links to the native library `multiproc`"),
            is_refused,
            "{output:?}"
        );
    }
    Ok(())
}

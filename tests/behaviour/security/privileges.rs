//! Programs with more privileges than the user who executes them, and privileges that were given up.

use std::env;
use std::ffi::CString;
use std::fs::{self, Permissions};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use multiproc::Process;
use nix::errno::Errno;
use nix::libc;
use nix::sys::prctl::{get_no_new_privs, set_no_new_privs};
use nix::sys::socket::{MsgFlags, send};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{Gid, chown};

use super::{
    BOOTSTRAP_MESSAGES, Folder, UNPRIVILEGED, become_unprivileged, bootstrap, copy, rights, run_with,
    start_sockets, text,
};
use crate::support::{METHODS, Outcome, cannot_run, is_root, trials, with};

trials![
    a_program_with_more_privileges_than_its_user_takes_no_task_from_an_unrelated_process,
    rights_that_a_program_has_given_up_do_not_come_back_in_its_children,
    rights_that_a_program_gives_up_between_two_starts_do_not_come_back,
    capabilities_that_root_has_given_up_do_not_come_back_in_its_children,
    children_have_the_rights_that_a_program_has_kept,
    a_program_that_must_not_gain_privileges_has_children,
    children_of_an_ordinary_program_may_execute_others_that_have_more_rights,
    a_program_with_more_privileges_than_its_user_replays_records_and_traces_nothing,
    a_program_with_more_privileges_than_its_user_ignores_how_to_start_children,
];

/// The ways in which a program can have more rights than its user.
#[derive(Clone, Copy, Debug)]
enum More {
    User,
    Group,
    Capability,
}

/// Some group that is not that user's.
const GROUP: u32 = 60;

/// A copy of a program that gives more rights to the user who executes it. `None`, with a message, where that
/// is not possible ([`cannot_run`]).
fn with_more_rights(program: &str, more: More, folder: &Folder) -> Option<PathBuf> {
    let copy = folder.0.join(format!("{more:?}"));
    self::copy(program, &copy);
    let made = match more {
        More::User => chmod(&copy, 0o4755),
        More::Group => chown(&copy, None, Some(Gid::from_raw(GROUP))).and_then(|()| chmod(&copy, 0o2755)),
        More::Capability => chmod(&copy, 0o755).and_then(|()| give_capability(&copy)),
    };
    if let Err(errno) = made {
        cannot_run(&format!("this user cannot give a program more rights ({more:?}): {errno}"));
    }
    made.is_ok().then_some(copy)
}

fn chmod(path: &Path, mode: u32) -> nix::Result<()> {
    let set = fs::set_permissions(path, Permissions::from_mode(mode));
    set.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or_default()))
}

/// Gives the file `CAP_DAC_OVERRIDE`, as `setcap` does.
#[allow(unsafe_code)]
fn give_capability(path: &Path) -> nix::Result<()> {
    let (version_and_effective, dac_override) = (0x0200_0001_u32, 1_u32 << 1);
    let value: Vec<u8> =
        [version_and_effective, dac_override, 0, 0, 0].iter().flat_map(|word| word.to_le_bytes()).collect();
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    let (name, start, length) = (c"security.capability", value.as_ptr().cast(), value.len());
    // SAFETY: two texts that end with a zero, and `length` bytes.
    Errno::result(unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), start, length, 0) }).map(drop)
}

/// Calls `test` with a copy of the program for each way to have more rights; prints which are not tested.
fn with_each_right(program: &str, purpose: &str, test: impl Fn(More, PathBuf)) {
    let folder = Folder::new(purpose);
    let is_ignored = statvfs(&folder.0).unwrap().flags().contains(FsFlags::ST_NOSUID);
    if !is_root() {
        return;
    }
    if is_ignored || get_no_new_privs().unwrap() {
        return cannot_run("the kernel ignores here that a program has more rights than its user");
    }
    for more in [More::User, More::Group, More::Capability] {
        if let Some(copy) = with_more_rights(program, more, &folder) {
            test(more, copy);
        }
    }
}

fn a_program_with_more_privileges_than_its_user_takes_no_task_from_an_unrelated_process() -> Outcome {
    let bootstrap = bootstrap("stranger");
    with_each_right(BOOTSTRAP_MESSAGES, "obeys-no-stranger", |more, program| {
        for what in ["late", "restricted"] {
            let args = (program.clone(), what.to_owned(), bootstrap.clone());
            let obeyed = Process::spawn(command, args).unwrap().join().unwrap();
            assert_eq!(obeyed, (Some(1), String::new()), "{more:?} {what}");
        }
    });
    Ok(())
}

/// Executes a program with a bootstrap message, as its parent would. Returns its exit code and output.
fn command(program: PathBuf, what: String, bootstrap: Vec<u8>) -> (Option<i32>, String) {
    become_unprivileged();
    let (ours, theirs) = start_sockets();
    send(ours.as_raw_fd(), &bootstrap, MsgFlags::empty()).unwrap();
    let output = run_with(theirs, Command::new(program).arg(what));
    (output.status.code(), text(&output.stdout).into_owned())
}

const RIGHTS: &str = env!("CARGO_BIN_EXE_rights");

fn rights_that_a_program_has_given_up_do_not_come_back_in_its_children() -> Outcome {
    with_each_right(RIGHTS, "given-up", |more, program| {
        let id = format!("{UNPRIVILEGED}");
        let ids = [id.as_str(); 4].join(" ");
        let expected = format!("Uid: {ids} Gid: {ids} Groups: CapPrm: {}", "0".repeat(16));
        assert_eq!(rights(program, "drop"), [&expected[..]; 3], "{more:?}");
    });
    Ok(())
}

fn rights_that_a_program_gives_up_between_two_starts_do_not_come_back() -> Outcome {
    with_each_right(RIGHTS, "given-up-late", |more, program| {
        if matches!(more, More::Capability) {
            return; // they belong to a thread, and the library's own has them still (docs/limits.md)
        }
        let rights = rights(program, "late");
        assert!(rights[0].ends_with(&"0".repeat(16)), "{more:?}: {rights:?}");
        assert_eq!(rights, [&rights[0][..]; 4], "{more:?}");
    });
    Ok(())
}

/// Programs that root executes have all capabilities, as a rule.
fn capabilities_that_root_has_given_up_do_not_come_back_in_its_children() -> Outcome {
    if !is_root() {
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

/// As in many containers. The kernel calls one with capabilities privileged all the same.
fn a_program_that_must_not_gain_privileges_has_children() -> Outcome {
    let restricted = |program: PathBuf| {
        set_no_new_privs().unwrap();
        rights(program, "keep")
    };
    with_each_right(RIGHTS, "restricted", |more, program| {
        let rights = Process::spawn(restricted, (program,)).unwrap().join().unwrap();
        assert!(
            rights[0].starts_with("Uid: 65534 65534 65534 65534 Gid: 65534 65534 65534 65534"),
            "{rights:?}"
        );
        assert_eq!(rights, [&rights[0][..]; 3], "{more:?}");
    });
    Ok(())
}

fn children_of_an_ordinary_program_may_execute_others_that_have_more_rights() -> Outcome {
    let own = get_no_new_privs()?;
    for method in METHODS {
        let child = with(method).spawn(|| get_no_new_privs().unwrap(), ())?;
        assert_eq!(child.join()?, own, "{method:?}");
    }
    Ok(())
}

fn a_program_with_more_privileges_than_its_user_replays_records_and_traces_nothing() -> Outcome {
    with_each_right(RIGHTS, "no-records", |more, program| {
        let folder = Folder::new("unwanted");
        chmod(&folder.0, 0o777).unwrap();
        let code = Process::spawn(with_variables, (program, folder.0.clone())).unwrap().join().unwrap();
        assert_eq!(code, Some(0), "{more:?}");
        assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 0, "{more:?}");
    });
    Ok(())
}

/// Executes a program with the variables that have a record replayed, failures recorded and a trace written.
/// Returns its exit code.
fn with_variables(program: PathBuf, folder: PathBuf) -> Option<i32> {
    become_unprivileged();
    let mut command = Command::new(program);
    command.env("MULTIPROC_RECORD", folder.join("records")).env("MULTIPROC_TRACE", folder.join("trace"));
    let output = command.env("MULTIPROC_REPLAY", "/dev/null").stdin(Stdio::null()).output().unwrap();
    output.status.code()
}

fn a_program_with_more_privileges_than_its_user_ignores_how_to_start_children() -> Outcome {
    fn has_processes(program: PathBuf, variable: String, value: String) -> String {
        become_unprivileged();
        let output = Command::new(program).arg("process").env(variable, value).stdin(Stdio::null()).output();
        text(&output.unwrap().stdout).into_owned()
    }
    with_each_right(RIGHTS, "own-start-method", |more, program| {
        for (variable, value) in [("MULTIPROC_INLINE", "1"), ("MULTIPROC_START_METHOD", "nonsense")] {
            let args = (program.clone(), variable.to_owned(), value.to_owned());
            let has_processes = Process::spawn(has_processes, args).unwrap().join().unwrap();
            assert_eq!(has_processes, "true\n", "{more:?}: {variable}");
        }
    });
    Ok(())
}

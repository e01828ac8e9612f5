//! The executable of a child: replaced, deleted, run by the loader, or with two copies of the library.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::{BOOTSTRAP_MESSAGES, Folder, HASTY, copy, text};
use crate::support::{Outcome, trials};

trials![
    a_program_that_was_replaced_or_deleted_goes_on_with_what_it_was,
    the_loader_executes_no_other_program,
    what_is_opened_before_init_stays_open,
    a_program_without_read_only_relocations_has_children,
    cargo_refuses_two_copies_of_the_library_in_one_program,
];

fn a_program_that_was_replaced_or_deleted_goes_on_with_what_it_was() -> Outcome {
    let folder = Folder::new("replaced");
    let (program, other) = (folder.0.join("program"), folder.0.join("other"));
    let replace = || {
        copy(HASTY, &other);
        fs::rename(&other, &program).unwrap();
    };
    let delete = || fs::remove_file(&program).unwrap();
    for change in [&replace as &dyn Fn(), &delete] {
        copy(BOOTSTRAP_MESSAGES, &program);
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

const ORDINARY: &str = env!("CARGO_BIN_EXE_ordinary");
/// The output of a program that starts a child by each method.
const EACH_RAN: &str = "a child ran\na child ran\n";

/// To the kernel, this program is the loader. Executed again, the loader would load the program that the
/// first argument names.
fn the_loader_executes_no_other_program() -> Outcome {
    let output =
        Command::new(interpreter(ORDINARY)).args([ORDINARY, "/bin/echo", "another program"]).output()?;
    assert_eq!((text(&output.stdout), text(&output.stderr)), (EACH_RAN.into(), "".into()));
    let folder = Folder::new("loader");
    let program = folder.0.join("program");
    copy(BOOTSTRAP_MESSAGES, &program);
    let mut loaded = Command::new(interpreter(BOOTSTRAP_MESSAGES));
    loaded.arg(&program).args(["late"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = loaded.spawn()?;
    let mut lines = BufReader::new(running.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap()?, "ready");
    copy(HASTY, &folder.0.join("other"));
    fs::rename(folder.0.join("other"), &program)?; // the path leads to another program now
    running.stdin.take().unwrap().write_all(b"now\n")?;
    assert_eq!(lines.collect::<std::io::Result<Vec<_>>>()?, [""; 0], "nothing else was executed");
    let output = running.wait_with_output()?;
    assert!(text(&output.stderr).contains("was loaded by"), "{output:?}");
    Ok(())
}

/// The loader that an executable names (`PT_INTERP`).
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

/// Each copy would take the other's children for its own.
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

//! **Ctrl-C**: SIGINT to all processes of a program at any moment. Its first process decides the effect.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;
use std::{fs, thread};

use multiproc::{Pool, Process, Server};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::support::{Outcome, alone, blocked_child, eventually, send_signal, trials, wait_for_state};

trials![
    a_program_ends_by_sigint_and_leaves_nothing,
    a_program_that_handles_it_finishes_its_work,
    a_program_that_handles_it_once_ends_by_the_second,
    a_child_leaves_it_to_its_parent,
    what_the_program_has_said_about_it_holds_in_children,
    programs_that_a_child_executes_know_nothing_of_it,
    the_time_for_which_a_program_was_stopped_counts_against_no_limit,
    it_counts_against_nothing_else,
    threads_of_the_library_take_no_signals,
];

const METHODS: [&str; 2] = ["fork-server", "spawn"];

/// A running fixture in a process group of its own, as a shell would start it.
struct Program {
    process: Child,
    stdout: BufReader<ChildStdout>,
    stderr: ChildStderr,
}

impl Program {
    fn begin(what: &str, method: &str) -> Self {
        let mut program = Self::spawn(what, method);
        program.wait_until_begun();
        program
    }

    fn spawn(what: &str, method: &str) -> Self {
        let mut program = Command::new(env!("CARGO_BIN_EXE_interrupted"));
        program.arg(what).env("MULTIPROC_START_METHOD", method).process_group(0).stdin(Stdio::null());
        let mut process = program.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(process.stdout.take().unwrap());
        let stderr = process.stderr.take().unwrap();
        Self { process, stdout, stderr }
    }

    fn wait_until_begun(&mut self) {
        assert_eq!(self.line(), "begun");
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Sends SIGINT as a terminal does at Ctrl-C. Must be called before the program's status is collected.
    fn interrupt(&self) {
        killpg(self.group(), Signal::SIGINT).unwrap();
    }

    /// Stops the group as a terminal does at Ctrl-Z.
    fn stop(&self) {
        killpg(self.group(), Signal::SIGSTOP).unwrap();
        wait_for_state(self.process.id(), 'T');
    }

    /// Continues the group as a shell does at `fg`.
    fn go_on(&self) {
        killpg(self.group(), Signal::SIGCONT).unwrap();
    }

    fn group(&self) -> Pid {
        Pid::from_raw(self.process.id().cast_signed())
    }

    /// Waits for all of its processes. Returns its exit status, and the output since.
    fn end(mut self) -> (ExitStatus, String, String) {
        let status = self.process.wait().unwrap();
        let (mut output, mut errors) = (String::new(), String::new());
        self.stdout.read_to_string(&mut output).unwrap();
        self.stderr.read_to_string(&mut errors).unwrap();
        (status, output, errors)
    }
}

fn a_program_ends_by_sigint_and_leaves_nothing() -> Outcome {
    for method in METHODS {
        for what in ["map", "join", "receive", "start", "start", "start", "start"] {
            let program = Program::begin(what, method);
            let family = tests::children_of(program.process.id());
            program.interrupt();
            let (status, output, errors) = program.end();
            assert_eq!(status.signal(), Some(Signal::SIGINT as i32), "{what}: {status}");
            assert_eq!((&output[..], &errors[..]), ("", ""), "{what}");
            for (pid, name) in family {
                eventually(&format!("{name} ends"), || !lives(pid, &name));
            }
        }
    }
    Ok(())
}

/// Whether the process with this id and name is alive. A zombie is not.
fn lives(pid: u32, name: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.contains(&format!("({name})")) && !stat.contains(") Z ")
}

fn a_program_that_handles_it_finishes_its_work() -> Outcome {
    for method in METHODS {
        let mut program = Program::begin("finish", method);
        while program.process.try_wait()?.is_none() {
            program.interrupt();
            thread::sleep(Duration::from_millis(2));
        }
        let (status, output, errors) = program.end();
        assert_eq!((&output[..], &errors[..]), ("done\n", ""), "{method}");
        assert_eq!(status.code(), Some(0));
    }
    Ok(())
}

fn a_program_that_handles_it_once_ends_by_the_second() -> Outcome {
    for method in METHODS {
        let mut program = Program::begin("twice", method);
        program.interrupt();
        assert_eq!(program.line(), "once");
        program.interrupt();
        let (status, output, errors) = program.end();
        assert_eq!((&output[..], &errors[..]), ("", ""), "{method}");
        assert_eq!(status.signal(), Some(Signal::SIGINT as i32));
    }
    Ok(())
}

fn a_child_leaves_it_to_its_parent() -> Outcome {
    let (child, latch) = blocked_child()?;
    send_signal(child.pid(), Signal::SIGINT);
    drop(latch);
    Ok(child.join()?)
}

/// Whether a process of which this is the status ignores SIGINT, whether it handles it, and whether it blocks
/// it.
fn parse_signal_masks(status: &str) -> [bool; 3] {
    ["SigIgn:\t", "SigCgt:\t", "SigBlk:\t"].map(|name| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        u64::from_str_radix(line, 16).unwrap() & 1 << (Signal::SIGINT as i32 - 1) != 0
    })
}

fn own_status() -> String {
    fs::read_to_string("/proc/self/status").unwrap()
}

/// To ignore a signal is passed on to programs, and so to children.
#[allow(unsafe_code)]
fn what_the_program_has_said_about_it_holds_in_children() -> Outcome {
    assert_eq!(parse_signal_masks(&Process::spawn(own_status, ())?.join()?), [false, true, false]);
    alone(|| {
        // SAFETY: to ignore a signal runs no code of ours.
        unsafe { nix::sys::signal::signal(Signal::SIGINT, nix::sys::signal::SigHandler::SigIgn) }.unwrap();
        assert_eq!(parse_signal_masks(&Process::spawn(own_status, ())?.join()?), [true, false, false]);
        Ok(())
    })
}

fn programs_that_a_child_executes_know_nothing_of_it() -> Outcome {
    let execute = || {
        let output = Command::new("cat").arg("/proc/self/status").output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(parse_signal_masks(&Process::spawn(execute, ())?.join()?), [false; 3]);
    assert_eq!(parse_signal_masks(&Pool::new(1)?.apply(execute, ())?), [false; 3]);
    Ok(())
}

/// The item needs 0.4 s of 3 s. (Where the program is slow, it is stopped when the item is over, which proves
/// nothing.)
fn the_time_for_which_a_program_was_stopped_counts_against_no_limit() -> Outcome {
    for method in METHODS {
        let program = Program::begin("limited", method);
        program.stop();
        thread::sleep(Duration::from_secs(4));
        program.go_on();
        let (status, output, errors) = program.end();
        assert!(status.success() && output == "done\n", "{method}: {status} {output} {errors}");
    }
    Ok(())
}

/// Each needs 1 s of 6 s: the cleanup of a cancelled item, an initializer, a task when its pool is dropped, a child
/// before `init`. The pause before a retry, and the time after which an idle worker is shut down, last as long as
/// without the stop. (Where a program is slow, it is stopped when that is over, which proves nothing.)
fn it_counts_against_nothing_else() -> Outcome {
    const LIMITED: [&str; 6] = ["grace", "initializer", "shutdown", "slow start", "backoff", "idle"];
    for method in METHODS {
        let mut programs = LIMITED.map(|what| Program::spawn(what, method));
        programs.iter_mut().for_each(Program::wait_until_begun);
        programs.iter().for_each(Program::stop);
        thread::sleep(Duration::from_secs(7));
        programs.iter().for_each(Program::go_on);
        let ends = LIMITED.iter().zip(programs.map(Program::end));
        let failed: Vec<_> =
            ends.filter(|(_, (status, output, _))| !status.success() || output != "done\n").collect();
        assert!(failed.is_empty(), "{method}: {failed:?}");
    }
    Ok(())
}

/// A program may wait for its signals in one thread (`sigwait`), and blocks them in all others that it knows.
fn threads_of_the_library_take_no_signals() -> Outcome {
    let pool = Pool::new(1)?;
    let server = Server::spawn(|| (), ())?;
    pool.submit(|| (), ())?.on_done(drop)?;
    let of_server =
        || threads_that_take_sigterm().is_ok_and(|threads| threads.0.contains(&"mp-server".to_owned()));
    eventually("the thread of a server has its name", of_server);
    let (_, taking) = threads_that_take_sigterm()?;
    assert_eq!(taking, [] as [String; 0]);
    let (_, taking) = server.call(|(): &mut ()| threads_that_take_sigterm().unwrap(), ())?;
    assert_eq!(taking, [] as [String; 0], "in the server");
    Ok(())
}

/// The names of the library's threads in this process, and of those of them that do not block SIGTERM.
fn threads_that_take_sigterm() -> Outcome<(Vec<String>, Vec<String>)> {
    let (mut all, mut taking) = (Vec::new(), Vec::new());
    for thread in fs::read_dir("/proc/self/task")? {
        let folder = thread?.path();
        // A thread may end here.
        let (Ok(name), Ok(status)) =
            (fs::read_to_string(folder.join("comm")), fs::read_to_string(folder.join("status")))
        else {
            continue;
        };
        let name = name.trim_end().to_owned();
        let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap_or_default();
        let blocked = u64::from_str_radix(blocked.trim(), 16)?;
        if name.starts_with("mp-") {
            if blocked & (1 << (Signal::SIGTERM as u32 - 1)) == 0 {
                taking.push(name.clone());
            }
            all.push(name);
        }
    }
    Ok((all, taking))
}

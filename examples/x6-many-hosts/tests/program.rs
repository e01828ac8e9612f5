//! The program's command line, and the files that it writes.

#![allow(clippy::unwrap_used)] // a test that cannot go on may panic

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use image::RgbImage;

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_x6-many-hosts"))
}

#[test]
fn wrong_arguments_are_errors_with_the_usage() {
    let wrong: [&[&str]; 4] = [&["nats://host"], &["nats://host", "folder", "more"], &["--what"], &["-x"]];
    for arguments in wrong {
        let Output { status, stdout, stderr } = program().args(arguments).output().unwrap();
        let text = String::from_utf8(stderr).unwrap();
        assert!(text.starts_with("error: ") && text.contains("\nUsage: x6-many-hosts ["), "{text}");
        assert_eq!((status.code(), stdout), (Some(2), Vec::new()), "{arguments:?}");
    }
}

#[test]
fn files_that_differ_in_the_extension_have_a_thumbnail_each() {
    let folder = tempfile::tempdir().unwrap();
    let Some((server, _processes)) = start(folder.path()) else { return };
    let pictures = tempfile::tempdir().unwrap();
    for name in ["a.jpeg", "a.jpg", "a.png"] {
        RgbImage::new(100, 100).save(pictures.path().join(name)).unwrap();
    }
    let output = program().arg(server).arg(pictures.path()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let thumbnails = pictures.path().join("thumbnails").read_dir().unwrap();
    let mut names: Vec<_> = thumbnails.map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["a.jpeg.png", "a.jpg.png", "a.png.png"]);
}

#[test]
fn a_picture_that_cannot_be_read_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let Some((server, _processes)) = start(folder.path()) else { return };
    let pictures = tempfile::tempdir().unwrap();
    RgbImage::new(100, 100).save(pictures.path().join("a.png")).unwrap();
    symlink("/proc/self/mem", pictures.path().join("b.png")).unwrap(); // a file, of which nothing is at its beginning
    let output = program().arg(server).arg(pictures.path()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("os error"), "{output:?}");
}

/// Without a host the caller waits for a lease, with as many pictures as a few workers have out.
#[test]
fn pictures_are_read_when_there_is_room_for_them() {
    const COUNT: u64 = 64;
    const LEN: u64 = 4_000_000;
    let folder = tempfile::tempdir().unwrap();
    let Some((server, [agent, _server])) = start(folder.path()) else { return };
    drop(agent);
    let pictures = tempfile::tempdir().unwrap();
    for number in 0..COUNT {
        File::create(pictures.path().join(number.to_string())).unwrap().set_len(LEN).unwrap();
    }
    let mut caller = Running::start(program().arg(server).arg(pictures.path()));
    let mut bytes = 0;
    while caller.0.try_wait().unwrap().is_none() {
        bytes = bytes_read(caller.0.id()).unwrap_or(bytes);
        thread::sleep(Duration::from_millis(10));
    }
    assert!(bytes > LEN && bytes < COUNT * LEN / 2, "{bytes} bytes"); // those of its program, too
}

/// What a process has read.
fn bytes_read(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("rchar: "))?.parse().ok()
}

/// A process that is killed when it is dropped.
struct Running(Child);

/// A server and an agent. `None` if this machine has no server.
fn start(folder: &Path) -> Option<(String, [Running; 2])> {
    let mut version = Command::new("nats-server");
    if version.arg("--version").output().is_err() {
        println!("skipped: this test needs nats-server (apt-get install nats-server)");
        assert!(std::env::var_os("CI").is_none());
        return None;
    }
    // Another program may take the port between the two: then the server ends, and another port is tried.
    let (server, port) = (0..10).find_map(|_| serve(folder)).unwrap();
    let url = format!("nats://127.0.0.1:{port}");
    let agent = Running::start(program().env("MULTIPROC_AGENT", &url));
    Some((url, [agent, server]))
}

/// `None` if the server ends.
fn serve(folder: &Path) -> Option<(Running, u16)> {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut server = Command::new("nats-server");
    server.args(["-js", "-a", "127.0.0.1", "-p", &port.to_string(), "-sd"]).arg(folder);
    let mut server = Running::start(&mut server);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        if server.0.try_wait().unwrap().is_some() {
            return None;
        }
        thread::sleep(Duration::from_millis(10));
    }
    Some((server, port))
}

impl Running {
    fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

//! `from-url` against servers that misbehave: what it prints, what it leaves, how it exits.

#![allow(clippy::unwrap_used)] // a test that cannot go on may panic

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// Six downloads by each method; of twelve requests in all, four are a third one.
const COUNT: usize = 6;
const THIRDS: usize = 4;

#[test]
fn a_good_server_gives_whole_images() {
    let (output, folder) = run(&serve(|_, stream| image(stream)));
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    assert_eq!(images(folder.path()), 2 * COUNT);
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_eq!(printed.matches(&format!("seconds to download {COUNT} images")).count(), 2, "{printed}");
}

#[test]
fn a_refused_connection_is_an_error() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap(); // closed again at once
    let url = format!("http://{address}/image.png");
    all_fail(&url, "refused");
}

#[test]
fn redirects_are_followed() {
    let target = serve(|_, stream| image(stream));
    let (output, folder) = run(&serve(move |_, stream| {
        answer(stream, &format!("302 Found\r\nLocation: {target}"), b"");
    }));
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(images(folder.path()), 2 * COUNT);
}

#[test]
fn redirects_without_end_are_an_error() {
    all_fail(&serve(|_, stream| answer(stream, "302 Found\r\nLocation: /again", b"")), "redirect");
}

#[test]
fn every_third_404_leaves_the_others() {
    a_third_fails("404 Not Found", "status 404");
}

#[test]
fn every_third_500_leaves_the_others() {
    a_third_fails("500 Internal Server Error", "status 500");
}

#[test]
fn a_body_cut_short_is_an_error() {
    let cut = |_, mut stream: TcpStream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly this");
    };
    all_fail(&serve(cut), "closed before the end");
}

#[test]
fn a_body_cut_short_that_announced_no_length_is_an_error() {
    let cut = |_, mut stream: TcpStream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
        let _ = stream.write_all(&png()[..50]);
    };
    all_fail(&serve(cut), "no whole image");
}

#[test]
fn no_answer_within_the_time_limit_is_an_error() {
    let silent = |_, mut stream: TcpStream| {
        let _ = stream.read_to_end(&mut Vec::new()); // until the client gives up
    };
    let url = serve(silent);
    let (output, folder) = run_with(&url, &["--count", "2", "--timeout", "1"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(files(folder.path()), 0);
    assert_eq!(complaints(&output, &url, "within the time limit"), 4, "{output:?}");
}

#[test]
fn an_interrupt_leaves_what_is_whole_and_nothing_else() {
    is_stopped_by(Signal::SIGINT);
}

#[test]
fn a_kill_leaves_what_is_whole_and_nothing_else() {
    is_stopped_by(Signal::SIGKILL);
}

/// Stops the program within its second download.
fn is_stopped_by(signal: Signal) {
    let (begun, has_begun) = mpsc::channel();
    let url = serve(move |n, mut stream| {
        if n == 0 {
            return image(stream);
        }
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly this");
        let _ = begun.send(());
        let _ = stream.read_to_end(&mut Vec::new()); // until the client is gone
    });
    let (folder, temporary) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    // These tests may run in the background of a shell, which has SIGINT ignored there.
    let mut command = Command::new("env");
    command.args(["--default-signal=INT", env!("CARGO_BIN_EXE_from-url"), &url, "--out"]);
    command.arg(folder.path()).env("TMPDIR", temporary.path());
    let mut running = command.spawn().unwrap();
    has_begun.recv().unwrap();
    kill(Pid::from_raw(running.id().cast_signed()), signal).unwrap();
    assert_eq!(running.wait().unwrap().signal(), Some(signal as i32));
    assert_eq!((files(folder.path()), images(folder.path())), (1, 1));
    assert_eq!(files(temporary.path()), 0);
}

#[test]
fn wrong_options_are_refused() {
    for (arguments, complaint) in [
        (&[][..], "missing argument <URL>"),
        (&["--count", "0", "x"], "`--count` takes a number from 1 to 1000"),
        (&["--count", "many", "x"], "the value of `--count`: cannot parse argument \"many\""),
        (&["--count"], "missing argument for option '--count'"),
        (&["x", "y"], "unexpected argument \"y\""),
        (&["--uri", "x"], "invalid option '--uri'"),
    ] {
        let output = program().args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(complaint), "{output:?}");
    }
}

#[cfg(not(feature = "https"))]
#[test]
fn https_without_its_feature_is_an_error_that_names_it() {
    all_fail(&serve(|_, stream| image(stream)).replace("http:", "https:"), "--features https");
}

#[test]
fn a_folder_that_cannot_be_made_is_an_error() {
    let output = program().args(["http://127.0.0.1:1/", "--out", "/dev/null/images"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot create the folder"), "{output:?}");
}

fn a_third_fails(status: &'static str, complaint: &str) {
    let url = serve(move |n, stream| if n % 3 == 2 { answer(stream, status, b"") } else { image(stream) });
    let (output, folder) = run(&url);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(complaints(&output, &url, complaint), THIRDS, "{output:?}");
    assert_eq!(images(folder.path()), 2 * COUNT - THIRDS);
    assert_eq!(files(folder.path()), 2 * COUNT - THIRDS);
}

fn all_fail(url: &str, complaint: &str) {
    let (output, folder) = run(url);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(files(folder.path()), 0);
    let named = if complaint == "no whole image" { "" } else { url };
    assert_eq!(complaints(&output, named, complaint), 2 * COUNT, "{output:?}");
}

fn run(url: &str) -> (Output, TempDir) {
    run_with(url, &["--count", &COUNT.to_string()])
}

fn run_with(url: &str, options: &[&str]) -> (Output, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let output = program().args([url, "--out"]).arg(folder.path()).args(options).output().unwrap();
    (output, folder)
}

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_from-url"))
}

/// The number of lines of standard error that name both the address and the cause.
fn complaints(output: &Output, url: &str, cause: &str) -> usize {
    let text = String::from_utf8_lossy(&output.stderr).to_lowercase();
    text.lines()
        .filter(|line| line.starts_with("error: ") && line.contains(url) && line.contains(cause))
        .count()
}

fn files(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

fn images(folder: &Path) -> usize {
    let whole =
        |path: &Path| image::ImageReader::open(path).unwrap().with_guessed_format().unwrap().decode().is_ok();
    std::fs::read_dir(folder).unwrap().filter(|entry| whole(&entry.as_ref().unwrap().path())).count()
}

/// Starts a server that passes each connection, with its number, to `treat`; returns its address.
fn serve(treat: impl Fn(usize, TcpStream) + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/image.png", listener.local_addr().unwrap());
    let (treat, count) = (Arc::new(treat), AtomicUsize::new(0));
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let n = count.fetch_add(1, Ordering::Relaxed);
            let treat = Arc::clone(&treat);
            thread::spawn(move || {
                read_request(&mut stream);
                treat(n, stream);
            });
        }
    });
    url
}

/// Reads up to the empty line that ends a request; an answer sent sooner could be lost with the connection.
fn read_request(stream: &mut TcpStream) {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|count| count == 1) {
        request.extend(byte);
    }
}

fn answer(mut stream: TcpStream, status: &str, body: &[u8]) {
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
}

fn image(stream: TcpStream) {
    answer(stream, "200 OK", &png());
}

fn png() -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image::RgbImage::new(20, 30).write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

//! An image server in a process of its own, so that the programs need no network.

use std::io::{self, BufRead, BufReader, Cursor, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Barrier;
use std::thread::{self, sleep};
use std::time::Duration;

use anyhow::{Result, bail};
use image::{ColorType, ImageFormat};
use multiproc::{Connection, Process, TaskError, pipe};

/// How long the server thinks before it answers, as a distant one would.
const DELAY: Duration = Duration::from_millis(400);
const WIDTH: u32 = 2000;
const HEIGHT: u32 = 3000;

/// A running server. Dropping it ends its process.
pub struct Server {
    process: Process<Result<(), TaskError>>,
    url: String,
}

impl Server {
    /// Starts a server that answers `at_once` requests together, as soon as it has all of them.
    /// Blocks until the server listens.
    ///
    /// # Errors
    /// The process cannot be started, or it cannot listen.
    pub fn start(at_once: usize) -> Result<Self> {
        let (ours, theirs) = pipe::<(), String>()?;
        let process = Process::builder().name("image-server").spawn(serve, (theirs, at_once))?;
        match ours.recv() {
            Ok(url) => Ok(Self { process, url }),
            Err(_) => bail!("the image server did not start: {:?}", process.join()?),
        }
    }

    /// The address of the image.
    pub fn url(&self) -> String {
        self.url.clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill(); // it holds nothing that could be lost
    }
}

/// The task of the server's process: tells the parent the address, then serves until it is killed.
fn serve(parent: Connection<String, ()>, at_once: usize) -> Result<(), TaskError> {
    let image = image()?;
    let all_asked = Barrier::new(at_once);
    let listener = TcpListener::bind("127.0.0.1:0")?;
    parent.send(format!("http://{}/image.jpg", listener.local_addr()?))?;
    // Each connection has its own thread, so no request waits for another one's delay.
    thread::scope(|scope| {
        for connection in listener.incoming().flatten() {
            scope.spawn(|| answer(connection, &all_asked, &image)); // an error is the client's departure
        }
    });
    Ok(())
}

fn answer(connection: TcpStream, all_asked: &Barrier, image: &[u8]) -> io::Result<()> {
    let mut request = BufReader::new(&connection).lines();
    while request.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    all_asked.wait();
    sleep(DELAY);
    write!(&connection, "HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nConnection: close\r\n")?;
    write!(&connection, "Content-Length: {}\r\n\r\n", image.len())?;
    (&connection).write_all(image)
}

/// A JPEG of 2000 × 3000 pixels: a row of colours, repeated.
fn image() -> Result<Vec<u8>> {
    let mut row = Vec::new();
    for x in 0..WIDTH {
        let [shade, ..] = (x * 256 / WIDTH).to_le_bytes();
        row.extend([shade, 255 - shade, 128]);
    }
    let mut bytes = Cursor::new(Vec::new());
    let pixels = row.repeat(HEIGHT as usize);
    image::write_buffer_with_format(&mut bytes, &pixels, WIDTH, HEIGHT, ColorType::Rgb8, ImageFormat::Jpeg)?;
    Ok(bytes.into_inner())
}

//! A server in a process of its own, so that the program needs no network.

use std::io::Cursor;
use std::thread::{self, sleep};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use image::{ImageFormat, Rgb, RgbImage};
use multiproc::{Connection, Process, pipe};
use tiny_http::{Header, Response};

/// How long the server thinks before it answers: what a server far away would cost.
const DELAY: Duration = Duration::from_millis(400);
const WIDTH: u32 = 2000;
const HEIGHT: u32 = 3000;

pub(crate) struct Server {
    process: Process<Result<(), String>>,
    url: String,
}

impl Server {
    /// Starts the server and waits until it can be reached.
    pub(crate) fn start() -> Result<Self> {
        let (ours, theirs) = pipe::<(), String>()?;
        let process = Process::builder().name("image-server").spawn(serve, (theirs,))?;
        match ours.recv()? {
            Some(url) => Ok(Self { process, url }),
            None => bail!("the image server did not start: {:?}", process.join()?),
        }
    }

    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill(); // it keeps nothing that could be lost
    }
}

/// The task of the server's process: says where it is, then serves until it is killed.
fn serve(parent: Connection<String, ()>) -> Result<(), String> {
    try_serve(&parent).map_err(|error| format!("{error:#}"))
}

fn try_serve(parent: &Connection<String, ()>) -> Result<()> {
    let picture = picture()?;
    let server = tiny_http::Server::http("127.0.0.1:0").map_err(anyhow::Error::from_boxed)?;
    let address = server.server_addr().to_ip().context("the server has no address")?;
    parent.send(format!("http://{address}/picture.jpg"))?;
    thread::scope(|scope| {
        for request in server.incoming_requests() {
            let picture = &picture;
            scope.spawn(move || {
                sleep(DELAY);
                let mut response = Response::from_data(picture.clone());
                if let Ok(header) = Header::from_bytes("Content-Type", "image/jpeg") {
                    response.add_header(header);
                }
                let _ = request.respond(response); // who has gone away meanwhile misses nothing
            });
        }
    });
    Ok(())
}

/// A picture of 2000 × 3000 pixels, as a JPEG.
fn picture() -> Result<Vec<u8>> {
    let point = |x: u32, y: u32| {
        let [red, green, blue] = [x * 255 / WIDTH, y * 255 / HEIGHT, (x ^ y) & 0xff];
        Rgb([red, green, blue].map(|shade| u8::try_from(shade).unwrap_or(u8::MAX)))
    };
    let mut bytes = Cursor::new(Vec::new());
    RgbImage::from_fn(WIDTH, HEIGHT, point).write_to(&mut bytes, ImageFormat::Jpeg)?;
    Ok(bytes.into_inner())
}

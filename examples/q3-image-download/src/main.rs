//! Ten downloads one after another, then ten at once in ten processes.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use multiproc::{Pool, Process};
use q3_image_download::download::{check_image, download, image_folder};
use q3_image_download::server::Server;

fn main() -> Result<()> {
    multiproc::init();
    let server = Server::start(1)?; // in a process of its own; it thinks for 0.4 seconds before each answer
    let folder = image_folder();
    let file = |method: &str, number: u32| folder.join(format!("{method}-{number:02}.jpg"));

    let start = Instant::now();
    let mut normal = Vec::new();
    for number in 1..=10 {
        normal.push(download(server.url(), file("normal", number))?);
    }
    report("Normal method took          :", start, &normal);

    let start = Instant::now();
    let mut children = Vec::new();
    for number in 1..=10 {
        children.push(Process::spawn(download, (server.url(), file("multi", number)))?);
    }
    let mut multi = Vec::new();
    for child in children {
        // The first `?` is for a child that panicked or was killed, the second for a download that failed.
        multi.push(child.join()??);
    }
    report("Multiprocessing method took :", start, &multi);

    // To decode is work for the CPU, so it is no part of the times above.
    for checked in Pool::new(2)?.map(check_image, [normal, multi].concat())? {
        checked?;
    }
    Ok(())
}

fn report(method: &str, start: Instant, images: &[PathBuf]) {
    let seconds = start.elapsed().as_secs_f64();
    println!("{method} {seconds:.3} seconds to download {} images", images.len());
}

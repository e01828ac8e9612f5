//! The thumbnails of a folder, made by a pool on many hosts; two agents on this machine by default.

mod demo;
mod options;

use std::fs::{self, DirEntry};
use std::io::{self, Cursor};
use std::path::Path;

use image::{DynamicImage, ImageFormat, ImageReader};
use multiproc::TaskError;
use multiproc_cluster::Cluster;

use crate::demo::Demo;

/// Runs on any host, so it gets and returns the files' contents.
fn shrink(picture: Vec<u8>) -> Result<Vec<u8>, TaskError> {
    let picture = ImageReader::new(Cursor::new(picture)).with_guessed_format()?.decode()?;
    let mut thumbnail = Vec::new();
    DynamicImage::thumbnail(&picture, 64, 64).write_to(&mut Cursor::new(&mut thumbnail), ImageFormat::Png)?;
    Ok(thumbnail)
}

/// Makes the thumbnails of a folder with the hosts of a server. Few pictures are in memory at a time.
fn shrink_all(server: &str, folder: &Path) -> anyhow::Result<()> {
    let pool = Cluster::connect(server)?.pool("thumbnails")?;
    let entries = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    let files: Vec<_> = entries.into_iter().filter(|entry| entry.path().is_file()).collect();
    fs::create_dir_all(folder.join("thumbnails"))?;
    let mut unreadable = Ok(());
    let read = |file: &DirEntry| fs::read(file.path()).map_err(|error| unreadable = Err(error)).ok();
    let thumbnails = pool.imap(shrink, files.iter().map_while(read));
    for (file, thumbnail) in files.iter().zip(thumbnails) {
        let mut name = file.file_name();
        name.push(".png"); // after the extension: `a.jpg` and `a.png` have a thumbnail each
        fs::write(folder.join("thumbnails").join(name), thumbnail??)?;
    }
    unreadable?;
    let hosts: Vec<String> = pool.hosts().into_iter().map(|host| host.name).collect();
    println!("{} thumbnails; hosts of the pool: {}", files.len(), hosts.join(", "));
    Ok(())
}

fn main() -> anyhow::Result<()> {
    multiproc_cluster::init(); // with MULTIPROC_AGENT set, this program is an agent
    if let Some((server, folder)) = options::server_and_folder() {
        return shrink_all(&server, &folder);
    }
    if let Some(demo) = Demo::start()? {
        return shrink_all(&demo.server, demo.folder());
    }
    println!("no thumbnails: this needs nats-server (apt-get install nats-server)");
    Ok(())
}

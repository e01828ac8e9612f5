//! The thumbnails of a folder, made by a pool on many hosts; two agents on this machine by default.

mod demo;

use std::fs;
use std::io::Cursor;
use std::path::Path;

use image::{DynamicImage, ImageFormat, ImageReader};
use multiproc::TaskError;
use multiproc_cluster::Cluster;

use crate::demo::Demo;

/// Runs on any host, so it gets and returns the files' contents.
fn shrink(name: String, picture: Vec<u8>) -> Result<(String, Vec<u8>), TaskError> {
    let picture = ImageReader::new(Cursor::new(picture)).with_guessed_format()?.decode()?;
    let mut thumbnail = Vec::new();
    DynamicImage::thumbnail(&picture, 64, 64).write_to(&mut Cursor::new(&mut thumbnail), ImageFormat::Png)?;
    Ok((name, thumbnail))
}

/// Makes the thumbnails of a folder with the hosts of a server.
fn shrink_all(server: &str, folder: &Path) -> anyhow::Result<()> {
    let pool = Cluster::connect(server)?.pool("thumbnails")?;
    let mut tasks = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_file() {
            let name =
                path.with_extension("png").file_name().unwrap_or_default().to_string_lossy().into_owned();
            tasks.push(pool.submit(shrink, (name, fs::read(&path)?))?);
        }
    }
    fs::create_dir_all(folder.join("thumbnails"))?;
    let count = tasks.len();
    for task in tasks {
        let (name, thumbnail) = task.get()??;
        fs::write(folder.join("thumbnails").join(name), thumbnail)?;
    }
    let hosts: Vec<String> = pool.hosts().into_iter().map(|host| host.name).collect();
    println!("{count} thumbnails; hosts of the pool: {}", hosts.join(", "));
    Ok(())
}

fn main() -> anyhow::Result<()> {
    multiproc_cluster::init(); // with MULTIPROC_AGENT set, this program is an agent
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [server, folder] = &arguments[..] {
        return shrink_all(server, Path::new(folder));
    }
    if let Some(demo) = Demo::start()? {
        return shrink_all(&demo.server, demo.folder());
    }
    println!("no thumbnails: this needs nats-server (apt-get install nats-server)");
    Ok(())
}

//! Ten processes ask a server that answers none of them before all ten have asked.

use anyhow::Result;
use multiproc::Process;
use q3_image_download::download::{download, image_folder};
use q3_image_download::server::Server;

fn main() -> Result<()> {
    multiproc::init();
    let server = Server::start(10)?;

    let mut children = Vec::new();
    for number in 1..=10 {
        let file = image_folder().join(format!("rendezvous-{number:02}.jpg"));
        children.push(Process::spawn(download, (server.url(), file))?);
    }
    for child in children {
        child.join()??;
    }
    println!("The server had 10 requests before it answered the first.");
    Ok(())
}

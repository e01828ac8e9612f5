//! What the example uses if it is given no server: one of its own, two agents, and a folder of pictures.

use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::bail;
use image::{Rgb, RgbImage};
use tempfile::TempDir;

pub(crate) struct Demo {
    pub(crate) server: String,
    folder: TempDir,
    _processes: Vec<Running>,
    _storage: TempDir,
}

/// A process that is killed when it is dropped.
struct Running(Child);

impl Demo {
    /// `None` if this machine has no server.
    pub(crate) fn start() -> anyhow::Result<Option<Self>> {
        let storage = tempfile::tempdir()?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut server = Command::new("nats-server");
        server.args(["-js", "-a", "127.0.0.1", "-p", &port.to_string(), "-sd"]).arg(storage.path());
        let mut server = match Running::start(&mut server) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            started => started?,
        };
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if let Some(status) = server.0.try_wait()? {
                bail!("nats-server has ended with {status}");
            }
            thread::sleep(Duration::from_millis(10));
        }
        let url = format!("nats://127.0.0.1:{port}");
        let mut processes = vec![server];
        for host in ["left", "right"] {
            let mut agent = Command::new(std::env::current_exe()?);
            agent.env("MULTIPROC_AGENT", &url).env("MULTIPROC_AGENT_HOST", host);
            processes.insert(0, Running::start(&mut agent)?); // agents end before their server
        }
        let folder = tempfile::tempdir()?;
        paint(folder.path(), 12)?;
        Ok(Some(Self { server: url, folder, _processes: processes, _storage: storage }))
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }
}

fn paint(folder: &Path, count: u8) -> anyhow::Result<()> {
    for number in 0..count {
        let shade = number * 20;
        let picture =
            RgbImage::from_fn(640, 480, |x, y| Rgb([shade, x.to_le_bytes()[0], y.to_le_bytes()[0]]));
        picture.save(folder.join(format!("{number}.jpg")))?;
    }
    Ok(())
}

impl Running {
    fn start(command: &mut Command) -> std::io::Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().map(Self)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

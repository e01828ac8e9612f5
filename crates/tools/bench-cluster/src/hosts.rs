//! A broker and agents on this machine.

use std::env;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use multiproc_cluster::{Cluster, Pool};
use tempfile::TempDir;

const BROKER: &str = "nats-server";
/// How long broker and agents may take to be there.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// A pool, and what it needs. Ends all of it when it is dropped.
pub(crate) struct Hosts {
    pub(crate) pool: Pool,
    _agents: [Process; 2],
    _broker: Broker,
}

/// A server with `JetStream`, until this is dropped.
pub(crate) struct Broker {
    pub(crate) url: String,
    _process: Process,
    _storage: TempDir,
}

struct Process(Child);

pub(crate) fn has_broker() -> bool {
    let mut version = Command::new(BROKER);
    version.arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

impl Hosts {
    pub(crate) fn start() -> Result<Self> {
        let broker = Broker::start()?;
        let agents = [agent(&broker.url, "a")?, agent(&broker.url, "b")?];
        let pool = Cluster::connect(&broker.url)?.pool("bench")?;
        pool.wait_for_hosts(agents.len(), START_TIMEOUT)?;
        Ok(Self { pool, _agents: agents, _broker: broker })
    }
}

impl Broker {
    pub(crate) fn start() -> Result<Self> {
        let storage = tempfile::tempdir()?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut server = Command::new(BROKER);
        server.args(["-js", "-a", "127.0.0.1", "-p", &port.to_string(), "-sd"]).arg(storage.path());
        let mut process = Process::start(&mut server)?;
        let deadline = Instant::now() + START_TIMEOUT;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let runs = process.0.try_wait()?.is_none(); // another program may have taken the port
            ensure!(runs && Instant::now() < deadline, "{BROKER} does not start");
            thread::sleep(Duration::from_millis(10));
        }
        ensure!(process.0.try_wait()?.is_none(), "another program has the port of {BROKER}");
        Ok(Self { url: format!("nats://127.0.0.1:{port}"), _process: process, _storage: storage })
    }
}

/// This program, as the agent of a host with one worker.
fn agent(url: &str, host: &str) -> Result<Process> {
    let mut agent = Command::new(env::current_exe()?);
    agent.env("MULTIPROC_AGENT", url).env("MULTIPROC_AGENT_HOST", host).env("MULTIPROC_AGENT_WORKERS", "1");
    Process::start(&mut agent)
}

impl Process {
    fn start(command: &mut Command) -> Result<Self> {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        child.map(Self).with_context(|| format!("cannot start {command:?}"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

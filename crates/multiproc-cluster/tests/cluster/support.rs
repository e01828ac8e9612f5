//! Servers, agents and waiting.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::{Failed, Trial};
use multiproc_cluster::{Cluster, ClusterBuilder, Pool, Storage};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

pub(crate) type Outcome = Result<(), Failed>;

/// With this variable, the test's program is a caller of that server.
pub(crate) const CALLER: &str = "CLUSTER_TEST_CALLER";
/// Short for a test, and long for a machine that is busy.
pub(crate) const LEASE: Duration = Duration::from_secs(2);
/// How long a test waits for an event before it fails. Generous: it measures nothing.
pub(crate) const TEST_TIMEOUT: Duration = Duration::from_secs(60);

macro_rules! trials {
    ($($test:ident),* $(,)?) => {
        pub(crate) fn trials() -> Vec<libtest_mimic::Trial> {
            vec![$(crate::support::trial(stringify!($test), $test)),*]
        }
    };
}
pub(crate) use trials;

/// A test that ends the program if it does not end.
pub(crate) fn trial(name: &'static str, test: fn() -> Outcome) -> Trial {
    Trial::test(name, move || {
        let (done, watch) = mpsc::channel::<()>();
        let watchdog = thread::spawn(move || {
            if watch.recv_timeout(TEST_TIMEOUT * 10) == Err(mpsc::RecvTimeoutError::Timeout) {
                eprintln!("{name} does not end");
                std::process::abort();
            }
        });
        let outcome = test();
        drop(done);
        let _ = watchdog.join();
        outcome
    })
}

pub(crate) fn has_server() -> bool {
    Command::new("nats-server").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

/// A server on a free port of the loopback, with a folder of its own.
pub(crate) struct Server {
    port: u16,
    token: Option<String>,
    folder: TempDir,
    process: Running,
}

/// A process that is killed when it is dropped.
pub(crate) struct Running(Child);

impl Server {
    pub(crate) fn start() -> Self {
        Self::with_token(None)
    }

    pub(crate) fn with_token(token: Option<&str>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let token = token.map(str::to_owned);
        // Another program may take the port between the two: then the server ends, and another port is tried.
        for _ in 0..10 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            if let Some(process) = launch(port, token.as_deref(), folder.path()) {
                return Self { port, token, folder, process };
            }
        }
        panic!("nats-server does not start");
    }

    pub(crate) fn url(&self) -> String {
        match &self.token {
            Some(token) => format!("nats://{token}@127.0.0.1:{}", self.port),
            None => format!("nats://127.0.0.1:{}", self.port),
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    pub(crate) fn restart(&mut self) {
        self.process.kill();
        let deadline = Instant::now() + TEST_TIMEOUT;
        loop {
            if let Some(process) = launch(self.port, self.token.as_deref(), self.folder.path()) {
                self.process = process;
                return;
            }
            assert!(Instant::now() < deadline, "nats-server does not start again");
        }
    }

    pub(crate) fn cluster(&self) -> ClusterBuilder {
        Cluster::builder(&self.url()).lease(LEASE)
    }

    pub(crate) fn pool(&self, name: &str) -> Pool {
        self.cluster().connect().unwrap().pool(name).unwrap()
    }

    pub(crate) fn stored_pool(&self, name: &str) -> Pool {
        self.cluster().storage(Storage::File).connect().unwrap().pool(name).unwrap()
    }

    pub(crate) fn agent(&self, host: &str) -> Running {
        agent(&self.url(), host, &std::env::current_exe().unwrap())
    }

    pub(crate) fn agents(&self, hosts: &[&str]) -> Vec<Running> {
        hosts.iter().map(|host| self.agent(host)).collect()
    }

    /// The names of all streams.
    pub(crate) fn streams(&self) -> Vec<String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            use futures_util::TryStreamExt;
            let client = async_nats::connect(self.url()).await.unwrap();
            async_nats::jetstream::new(client).stream_names().try_collect().await.unwrap()
        })
    }

    /// The bytes in the streams whose names begin so.
    pub(crate) fn stored_bytes(&self, prefix: &str) -> u64 {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let client = async_nats::connect(self.url()).await.unwrap();
            let context = async_nats::jetstream::new(client);
            let mut bytes = 0;
            for name in self.streams_of(&context).await {
                if name.starts_with(prefix) {
                    bytes += context.get_stream(name).await.unwrap().cached_info().state.bytes;
                }
            }
            bytes
        })
    }

    async fn streams_of(&self, context: &async_nats::jetstream::Context) -> Vec<String> {
        use futures_util::TryStreamExt;
        context.stream_names().try_collect().await.unwrap()
    }
}

/// `None` if it ends at once.
fn launch(port: u16, token: Option<&str>, folder: &Path) -> Option<Running> {
    let mut command = Command::new("nats-server");
    command.args(["-js", "-a", "127.0.0.1", "-p", &port.to_string(), "-sd"]).arg(folder);
    if let Some(token) = token {
        command.args(["--auth", token]);
    }
    let process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut process = Running(process);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        if process.0.try_wait().unwrap().is_some() {
            return None;
        }
        thread::sleep(Duration::from_millis(10));
    }
    process.0.try_wait().unwrap().is_none().then_some(process)
}

/// An agent with two workers.
pub(crate) fn agent(url: &str, host: &str, program: &Path) -> Running {
    let mut command = Command::new(program);
    command.env("MULTIPROC_AGENT", url).env("MULTIPROC_AGENT_HOST", host).env("MULTIPROC_AGENT_WORKERS", "2");
    command.env("RUST_BACKTRACE", "0");
    Running(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
}

/// A caller that waits in a process of its own.
pub(crate) fn caller(url: &str) -> Running {
    let mut command = Command::new(std::env::current_exe().unwrap());
    Running(command.env(CALLER, url).stdin(Stdio::null()).spawn().unwrap())
}

/// This program, with one byte more: another build that does the same.
pub(crate) fn other_build(folder: &Path) -> PathBuf {
    let path = folder.join("other");
    std::fs::copy(std::env::current_exe().unwrap(), &path).unwrap();
    let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
    std::io::Write::write_all(&mut file, b"x").unwrap();
    path
}

impl Running {
    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), signal).unwrap();
    }

    pub(crate) fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    /// Waits for its end; whether that was a success.
    pub(crate) fn ends_well(&mut self) -> bool {
        let mut ended = None;
        wait_until("the process ends", || {
            ended = self.0.try_wait().unwrap();
            ended.is_some()
        });
        ended.unwrap().success()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + TEST_TIMEOUT;
    while !is_so() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

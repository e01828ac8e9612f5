//! A `nats-server` of a test's own.

use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use async_nats::ConnectOptions;
use futures_util::{StreamExt, TryStreamExt};
use multiproc_cluster::{Cluster, ClusterBuilder, Pool, Storage};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::support::{EXEC, LEASE, OBJECT_LEN, Running, TEST_TIMEOUT, agent, child, wait_until};

/// A server on a free port of the loopback, with a folder of its own.
pub(crate) struct Server {
    port: u16,
    settings: Settings,
    folder: TempDir,
    process: Running,
}

/// How a server is set up.
#[derive(Default)]
pub(crate) struct Settings {
    /// What is in its configuration besides the port and the folder.
    pub(crate) config: String,
    /// What is in that of `JetStream` besides the folder.
    pub(crate) limits: String,
    /// A token, or a user and a password: they get in.
    pub(crate) login: Option<&'static str>,
    /// How its tests get in, if not by `login`.
    pub(crate) access: ConnectOptions,
    pub(crate) has_tls: bool,
    /// Where it listens, if not on the loopback alone.
    pub(crate) address: Option<&'static str>,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::with(Settings::default())
    }

    pub(crate) fn with(mut settings: Settings) -> Self {
        settings.access = match settings.login.map(|login| login.split_once(':').ok_or(login)) {
            Some(Ok((user, password))) => settings.access.user_and_password(user.into(), password.into()),
            Some(Err(token)) => settings.access.token(token.into()),
            None => settings.access,
        };
        let folder = tempfile::tempdir().unwrap();
        // Another program may take the port between the two: then the server ends, and another port is tried.
        for _ in 0..10 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            if let Some(process) = launch(port, &settings, folder.path()) {
                return Self { port, settings, folder, process };
            }
        }
        panic!("nats-server does not start: {}", settings.config);
    }

    /// With the login, if there is one.
    pub(crate) fn url(&self) -> String {
        self.url_as(self.settings.login)
    }

    pub(crate) fn url_as(&self, login: Option<&str>) -> String {
        let scheme = if self.settings.has_tls { "tls" } else { "nats" };
        let login = login.map(|login| format!("{login}@")).unwrap_or_default();
        format!("{scheme}://{login}127.0.0.1:{}", self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// It is silent from now on.
    pub(crate) fn stop(&self) {
        self.process.signal(Signal::SIGSTOP);
    }

    /// It goes on after [`stop`](Self::stop).
    pub(crate) fn resume(&self) {
        self.process.signal(Signal::SIGCONT);
    }

    pub(crate) fn restart(&mut self) {
        self.process.kill();
        let deadline = Instant::now() + TEST_TIMEOUT;
        loop {
            if let Some(process) = launch(self.port, &self.settings, self.folder.path()) {
                self.process = process;
                return;
            }
            assert!(Instant::now() < deadline, "nats-server does not start again");
        }
    }

    /// Another configuration from the next [`restart`](Self::restart) on.
    pub(crate) fn set_config(&mut self, config: &str) {
        config.clone_into(&mut self.settings.config);
    }

    pub(crate) fn cluster(&self) -> ClusterBuilder {
        Cluster::builder(&self.url_as(None)).lease(LEASE).connect_options(self.settings.access.clone())
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

    /// What the server has written.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// Waits until the caller has a stream and an object.
    pub(crate) fn wait_for_object(&self) {
        wait_until("the caller has a stream and an object", || {
            self.stored_bytes("OBJ_") > OBJECT_LEN as u64
                && self.streams().iter().any(|name| !name.starts_with("OBJ_"))
        });
    }

    /// Does what a client does that is no caller and no agent.
    pub(crate) fn as_client<T>(&self, act: impl AsyncFnOnce(async_nats::jetstream::Context) -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let client = self.settings.access.clone().connect(self.url_as(None)).await.unwrap();
            act(async_nats::jetstream::new(client)).await
        })
    }

    /// The names of all streams.
    pub(crate) fn streams(&self) -> Vec<String> {
        self.as_client(async |context| context.stream_names().try_collect().await.unwrap())
    }

    /// Waits until agents hold this number of chunks, or more: one that a full host has handed back counts until a host
    /// pulls again. With 0, until they hold none.
    pub(crate) fn wait_for_chunks(&self, what: &str, count: usize) {
        wait_until(what, || {
            let (held, _) = self.chunks();
            held == count || (count > 0 && held > count)
        });
    }

    /// The numbers of chunks that agents hold, and that no agent has had.
    pub(crate) fn chunks(&self) -> (usize, u64) {
        let names = self.streams().into_iter().filter(|name| !name.starts_with("OBJ_"));
        self.as_client(async |context| {
            let (mut held, mut new) = (0, 0);
            for name in names {
                let stream = context.get_stream(name).await.unwrap();
                let info = stream.consumer_info("agents").await.unwrap();
                (held, new) = (held + info.num_ack_pending, new + info.num_pending);
            }
            (held, new)
        })
    }

    /// The number of complete objects.
    pub(crate) fn objects(&self) -> usize {
        let names = self.streams();
        self.as_client(async |context| {
            let mut count = 0;
            for bucket in names.iter().filter_map(|name| name.strip_prefix("OBJ_")) {
                let objects = context.get_object_store(bucket).await.unwrap().list().await.unwrap();
                count += objects.count().await;
            }
            count
        })
    }

    /// The bytes in the streams whose names begin so.
    pub(crate) fn stored_bytes(&self, prefix: &str) -> u64 {
        self.as_client(async |context| {
            let names: Vec<String> = context.stream_names().try_collect().await.unwrap();
            let mut bytes = 0;
            for name in names.into_iter().filter(|name| name.starts_with(prefix)) {
                bytes += context.get_stream(name).await.unwrap().cached_info().state.bytes;
            }
            bytes
        })
    }
}

/// `None` if it ends at once.
fn launch(port: u16, settings: &Settings, folder: &Path) -> Option<Running> {
    let path = folder.display();
    let name = folder.file_name().unwrap().to_str().unwrap().trim_start_matches('.');
    let Settings { config, limits, .. } = settings;
    let address = settings.address.unwrap_or("127.0.0.1");
    let config = format!(
        "listen: {address}:{port}\nserver_name: \"{name}\"\nlog_file: \"{path}/log\"\n\
         jetstream {{ store_dir: \"{path}/data\"\n {limits} }}\n{config}\n"
    );
    let file = folder.join("server.conf");
    std::fs::write(&file, config).unwrap();
    let mut command = child(&std::env::current_exe().unwrap());
    command.env(EXEC, "nats-server").arg("-c").arg(file);
    let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut process = Running::new(process);
    while !answers(port, name) {
        if process.ended().is_some() {
            return None;
        }
        thread::sleep(Duration::from_millis(10));
    }
    Some(process)
}

/// Whether the server of this name has the port. Another test's may have got it first.
fn answers(port: u16, name: &str) -> bool {
    let Ok(stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut greeting = String::new();
    BufReader::new(stream).read_line(&mut greeting).is_ok() && greeting.contains(&format!("\"{name}\""))
}

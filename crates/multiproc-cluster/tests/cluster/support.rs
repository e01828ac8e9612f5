//! Servers, agents and waiting.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use async_nats::ConnectOptions;
use futures_util::{StreamExt, TryStreamExt};
use libtest_mimic::{Failed, Trial};
use multiproc_cluster::{Cluster, ClusterBuilder, Pool, Storage};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getppid};
use tempfile::{NamedTempFile, TempDir};

pub(crate) type Outcome = Result<(), Failed>;

/// With this variable, the test's program is a caller of that server.
pub(crate) const CALLER: &str = "CLUSTER_TEST_CALLER";
/// Where the task of such a caller says that it has begun.
pub(crate) const CALLER_FOLDER: &str = "CLUSTER_TEST_CALLER_FOLDER";
/// With this variable, the test's program becomes that program.
pub(crate) const EXEC: &str = "CLUSTER_TEST_EXEC";
/// With this variable, the test's program ends when that process does.
const PARENT: &str = "CLUSTER_TEST_PARENT";
/// Too large for a message.
pub(crate) const OBJECT_LEN: usize = 2_000_000;
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

/// A child of tests that are killed does not stay. Its own children have the variable, too, but another parent.
pub(crate) fn end_with_parent() {
    let parent = std::env::var(PARENT).ok().and_then(|pid| pid.parse().ok());
    if parent.map(Pid::from_raw) == Some(getppid()) {
        let _ = set_pdeathsig(Signal::SIGKILL);
    }
}

/// This program or one like it, as a child that ends with the test.
fn child(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env(PARENT, std::process::id().to_string()).stdin(Stdio::null());
    command
}

/// A test, or a part of it, cannot run here: it says so and passes, but fails if the variable `MULTIPROC_TEST_ALL` is
/// set.
pub(crate) fn cannot_run(why: &str) {
    println!("skipped: {why}");
    assert!(std::env::var_os("MULTIPROC_TEST_ALL").is_none(), "`MULTIPROC_TEST_ALL` is set: {why}");
}

/// As [`cannot_run`], for want of a program that `CI` installs: with that variable it fails, too.
pub(crate) fn cannot_run_without(program: &str) {
    let why = format!("this needs {program} (apt-get install {program})");
    assert!(std::env::var_os("CI").is_none(), "`CI` is set: {why}");
    cannot_run(&why);
}

pub(crate) fn has_server() -> bool {
    Command::new("nats-server").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

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

/// A process that is killed when it is dropped. It may not have panicked by then.
pub(crate) struct Running {
    process: Child,
    /// What an agent has written.
    log: Option<NamedTempFile>,
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

    /// Waits until agents hold this number of chunks.
    pub(crate) fn wait_for_chunks(&self, what: &str, count: usize) {
        wait_until(what, || self.chunks().0 == count);
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
    let Settings { config, limits, .. } = settings;
    let address = settings.address.unwrap_or("127.0.0.1");
    let config = format!(
        "listen: {address}:{port}\nlog_file: \"{path}/log\"\n\
         jetstream {{ store_dir: \"{path}/data\"\n {limits} }}\n{config}\n"
    );
    let file = folder.join("server.conf");
    std::fs::write(&file, config).unwrap();
    let mut command = child(&std::env::current_exe().unwrap());
    command.env(EXEC, "nats-server").arg("-c").arg(file);
    let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut process = Running { process, log: None };
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        if process.process.try_wait().unwrap().is_some() {
            return None;
        }
        thread::sleep(Duration::from_millis(10));
    }
    process.process.try_wait().unwrap().is_none().then_some(process)
}

/// An agent with two workers.
pub(crate) fn agent(url: &str, host: &str, program: &Path) -> Running {
    agent_with(url, host, program, &[])
}

/// As [`agent`], with more variables in its environment.
pub(crate) fn agent_with(url: &str, host: &str, program: &Path, variables: &[(&str, &str)]) -> Running {
    let mut command = child(program);
    command.envs(variables.iter().copied());
    command.env("MULTIPROC_AGENT", url).env("MULTIPROC_AGENT_HOST", host).env("MULTIPROC_AGENT_WORKERS", "2");
    command.env("RUST_BACKTRACE", "0");
    let log = NamedTempFile::new().unwrap();
    let stderr = log.reopen().unwrap();
    let process = command.stdout(Stdio::null()).stderr(stderr).spawn().unwrap();
    Running { process, log: Some(log) }
}

/// A caller that waits in a process of its own for [`hold`](crate::work::hold), whose arguments are in an object.
pub(crate) fn caller(url: &str, folder: &Path) -> Running {
    let mut command = child(&std::env::current_exe().unwrap());
    let process = command.env(CALLER, url).env(CALLER_FOLDER, folder).spawn().unwrap();
    Running { process, log: None }
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
        self.process.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.pid()).unwrap()), signal).unwrap();
    }

    pub(crate) fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// What an agent has written. Its tasks write there, too.
    pub(crate) fn log(&self) -> String {
        self.log.as_ref().map_or_else(String::new, |log| std::fs::read_to_string(log.path()).unwrap())
    }

    /// Waits for the end of an agent, which says why.
    pub(crate) fn fails_with(&mut self, text: &str) {
        let mut ended = None;
        wait_until("the process ends", || {
            ended = self.process.try_wait().unwrap();
            ended.is_some()
        });
        let log = self.log();
        assert!(!ended.unwrap().success() && log.contains(text), "not {text:?}: {log}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
        let log = self.log();
        let mut lines = log.lines();
        // Tasks may panic.
        let has_panicked =
            lines.any(|line| line.contains("panicked at") && !line.contains("cluster/work.rs"));
        assert!(!has_panicked || thread::panicking(), "{log}");
    }
}

pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + TEST_TIMEOUT;
    while !is_so() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until a task has begun in a folder at another process than those; returns the pid that it has written.
pub(crate) fn wait_for_begin(folder: &Path, known: &[u32]) -> u32 {
    let mut found = 0;
    wait_until("the task begins", || {
        let names = std::fs::read_dir(folder).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut pids = names.filter_map(|name| name.strip_prefix("begun-")?.parse().ok());
        match pids.find(|pid| !known.contains(pid)) {
            Some(pid) => found = pid,
            None => return false,
        }
        true
    });
    found
}

/// Whether a process is there and no zombie.
pub(crate) fn is_running(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    let state = stat.ok().and_then(|stat| Some(stat.rsplit_once(") ")?.1.chars().next()));
    state.flatten().is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

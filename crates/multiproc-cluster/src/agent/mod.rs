//! The agent: a local pool that serves the pools of all callers with the same build.

mod chunk;
#[cfg_attr(not(feature = "log"), path = "forwarder_off.rs")]
mod forwarder;
mod lease;
#[cfg(feature = "log")]
mod logger;
mod pace;
mod run;
mod session;
mod slot;
mod sweep;

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::io::{self, Write};
use std::process::exit;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::{ConnectOptions, Message};
use futures_util::StreamExt;
use multiproc::pool::{PoolBuilder, encoded};
use multiproc::{Error, Result};
use tokio::sync::{Semaphore, mpsc};

use self::pace::Pace;
use self::session::Served;
use crate::build_id;
use crate::connection::{Connection, without_secrets};
use crate::protocol::{Build, CallerAdvert, HELLO, HostAdvert, PREFIX, Session};

/// Options of an [`agent`].
#[must_use]
pub struct AgentOptions {
    url: String,
    connect: ConnectOptions,
    host: Option<String>,
    workers: Option<usize>,
}

/// What [`init`] reads.
const VARIABLES: [&str; 4] =
    ["MULTIPROC_AGENT", "MULTIPROC_AGENT_HOST", "MULTIPROC_AGENT_WORKERS", "MULTIPROC_AGENT_CREDENTIALS"];

impl AgentOptions {
    /// The agent of this server or servers, as for [`Cluster::connect`](crate::Cluster::connect).
    pub fn new(url: &str) -> Self {
        Self { url: url.to_owned(), connect: ConnectOptions::new(), host: None, workers: None }
    }

    /// How the client connects, as for
    /// [`connect_options`](crate::ClusterBuilder::connect_options).
    pub fn connect_options(mut self, options: ConnectOptions) -> Self {
        self.connect = options;
        self
    }

    /// The host's name in errors and in [`Pool::hosts`](crate::Pool::hosts), of at most 255 bytes. Default: the
    /// machine's.
    pub fn host(mut self, name: &str) -> Self {
        self.host = Some(name.to_owned());
        self
    }

    /// The number of workers. Default: the number of CPUs.
    pub fn workers(mut self, count: usize) -> Self {
        self.workers = Some(count);
        self
    }

    /// The options in the environment; `None` without `MULTIPROC_AGENT`, and in a program with more privileges
    /// than its user: whoever executes it must not choose what it runs.
    fn from_environment() -> Option<Result<Self>> {
        if encoded::has_gained_privileges() {
            return None;
        }
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let mut options = Self::new(&variable("MULTIPROC_AGENT")?);
        options.host = variable("MULTIPROC_AGENT_HOST");
        if let Some(count) = variable("MULTIPROC_AGENT_WORKERS") {
            let Ok(count) = count.parse() else {
                let what = format!("MULTIPROC_AGENT_WORKERS is no number: {count:?}");
                return Some(Err(encoded::invalid(what)));
            };
            options.workers = Some(count);
        }
        if let Some(path) = variable("MULTIPROC_AGENT_CREDENTIALS") {
            let read =
                std::fs::read_to_string(&path).and_then(|text| ConnectOptions::with_credentials(&text));
            match read {
                Ok(connect) => options.connect = connect,
                Err(error) => {
                    let what = format!("cannot read the credentials in {path}: {error}");
                    return Some(Err(encoded::invalid(what)));
                }
            }
        }
        Some(Ok(options))
    }
}

/// As [`multiproc::init`]; and if the environment has `MULTIPROC_AGENT`, this process is an [`agent`] of that
/// server and never returns. **Call it as the first line of `main`.**
///
/// | variable | meaning |
/// |---|---|
/// | `MULTIPROC_AGENT` | the server or servers, as for [`Cluster::connect`](crate::Cluster::connect) |
/// | `MULTIPROC_AGENT_HOST` | the host's name; default: the machine's |
/// | `MULTIPROC_AGENT_WORKERS` | the number of workers; default: the number of CPUs |
/// | `MULTIPROC_AGENT_CREDENTIALS` | a file with credentials, as NATS makes them |
/// | `SSL_CERT_FILE` | the certificates that TLS trusts, as PEM; default: the machine's |
/// | `RUST_LOG` | with the feature `log`, which records it prints, and which of tasks it sends to their callers; default: `info`, and `warn` for the client `async_nats` |
///
/// A program that is set-uid or set-gid or has file capabilities ignores these variables.
pub fn init() {
    multiproc::init();
    let Some(options) = AgentOptions::from_environment() else { return };
    let Err(error) = options.and_then(agent);
    print_line(&error.to_string());
    exit(1);
}

/// That of a name in DNS. It is part of most messages.
const MAX_HOST_LEN: usize = 255;

/// Serves the pools of all callers that run this program. Call it after [`multiproc::init`], in a program with
/// a command line of its own; [`init`] does it for others.
///
/// Blocks for as long as the process lives. While the server is not there, it connects again and again. It ends
/// with the process: the work that it has is given to others after the lease.
///
/// # Errors
/// When the server refuses the credentials or has no valid certificate, when its `max_payload` is below 8 KiB, when the
/// account lacks a permission, when the host's name is longer than 255 bytes, or when the local pool cannot start or
/// keep its workers.
pub fn agent(options: AgentOptions) -> Result<Infallible> {
    let host = options.host.clone().unwrap_or_else(machine_name);
    if host.len() > MAX_HOST_LEN {
        let what = format!("the host's name has {} bytes, and may have {MAX_HOST_LEN}", host.len());
        return Err(encoded::invalid(what));
    }
    let build = build_id::own()?;
    let workers = match options.workers {
        Some(count) => count,
        None => std::thread::available_parallelism().map_or(1, Into::into),
    };
    #[cfg(feature = "log")]
    logger::install(&host);
    // A task may start such a program itself, which must not become an agent; and the address may hold a secret.
    let builder = multiproc::Pool::builder().workers(workers);
    let pool = VARIABLES.iter().fold(builder, PoolBuilder::env_remove).build()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(MAX_BLOCKING_THREADS)
        .build()
        .map_err(|error| encoded::unreachable(format!("cannot start the agent: {error}")))?;
    let ended = runtime.block_on(async {
        let connection = connect(&options).await?;
        let (failure, mut failed) = mpsc::channel(1);
        let agent = Arc::new(Agent {
            id: connection.client.new_inbox().rsplit('.').next().unwrap_or_default().to_owned(),
            host,
            build,
            workers,
            pool,
            connection,
            places: Arc::new(Semaphore::new(workers)),
            is_full: AtomicBool::new(false),
            pace: Mutex::default(),
            active: AtomicUsize::new(0),
            sessions: Mutex::default(),
            failure,
        });
        let url = without_secrets(&options.url);
        print_line(&format!("{workers} workers of host {} serve {url}", agent.host));
        tokio::select! {
            ended = serve(&agent) => ended,
            Some(failure) = failed.recv() => Err(failure),
            never = sweep::sweep_regularly(&agent) => match never {},
        }
    });
    runtime.shutdown_background(); // its threads may wait for tasks
    ended
}

/// One for each chunk that runs: a few for each worker and caller.
const MAX_BLOCKING_THREADS: usize = 16 * 1024;

pub(crate) struct Agent {
    /// Tells this process from an earlier agent of the host.
    id: String,
    host: String,
    build: Build,
    workers: usize,
    pool: multiproc::Pool,
    connection: Connection,
    /// One for each chunk that may run: as many as workers, for the chunks of all sessions.
    places: Arc<Semaphore>,
    /// A chunk went back for want of a place, and slots have waited long for one since.
    is_full: AtomicBool,
    pace: Mutex<Pace>,
    /// The number of chunks that run.
    active: AtomicUsize,
    sessions: Mutex<HashMap<Session, Standing>>,
    /// Ends the agent.
    failure: mpsc::Sender<Error>,
}

/// A session as an agent sees it.
enum Standing {
    Served(Arc<Served>),
    /// Its caller runs another build.
    Refused,
}

/// Connects, and tries again for as long as no server answers.
async fn connect(options: &AgentOptions) -> Result<Connection> {
    let mut pause = Duration::from_millis(100);
    let mut has_told = false;
    loop {
        let connected = Connection::new(&options.url, options.connect.clone(), "multiproc agent").await;
        let refusal = match connected {
            Ok(connection) => return Ok(connection),
            Err(refusal) => refusal,
        };
        if refusal.is_final {
            return Err(refusal.error);
        }
        if !has_told {
            print_line(&format!("{}; tries again", refusal.error));
            has_told = true;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(2));
    }
}

async fn serve(agent: &Arc<Agent>) -> Result<Infallible> {
    let client = &agent.connection.client;
    let lost = |error: &dyn fmt::Display| encoded::unreachable(format!("the connection has ended: {error}"));
    let mut adverts = client.subscribe(format!("{PREFIX}.*.*.caller")).await.map_err(|error| lost(&error))?;
    let mut epoch = agent.connection.epoch.clone();
    let mut last_error = agent.connection.last_error.clone();
    let _ = client.publish(HELLO, Vec::new().into()).await;
    loop {
        tokio::select! {
            advert = adverts.next() => match advert {
                Some(advert) => agent.take_advert(&advert).await,
                None => return Err(lost(&"its client has stopped")),
            },
            changed = epoch.changed() => {
                changed.map_err(|error| lost(&error))?;
                if agent.connection.is_connected() {
                    let _ = client.publish(HELLO, Vec::new().into()).await;
                }
            }
            Ok(()) = last_error.changed() => {
                if let Some(last_error) = &*last_error.borrow_and_update() {
                    print_line(&format!("the broker: {last_error}"));
                    // It would count as a host that works, and its chunks would have no end.
                    if last_error.contains("Permissions Violation") {
                        return Err(encoded::unreachable(format!("the account lacks a permission: {last_error}")));
                    }
                }
            }
        }
    }
}

impl Agent {
    async fn take_advert(self: &Arc<Self>, message: &Message) {
        let Some(session) = Session::of_subject(&message.subject) else { return };
        let Ok(advert) = serde_json::from_slice::<CallerAdvert>(&message.payload) else { return };
        if advert.is_over {
            if let Some(Standing::Served(served)) = self.lock().remove(&session) {
                served.end();
            }
            return;
        }
        self.answer(&session).await;
        let mut sessions = self.lock();
        match sessions.get(&session) {
            Some(Standing::Served(served)) => served.hear(&advert),
            Some(Standing::Refused) => {}
            None if advert.build == build_id::hex(&self.build) => {
                let served = Served::start(self, session.clone(), &advert);
                sessions.insert(session, Standing::Served(served));
            }
            None => {
                let (own, other) = (build_id::hex(&self.build), advert.build);
                let (own, other) = (build_id::short(&own), build_id::short(&other));
                let pool = &session.pool;
                print_line(&format!("refuses pool {pool:?}: its caller has build {other}, not {own}"));
                sessions.insert(session, Standing::Refused);
            }
        }
    }

    /// Tells a caller of this host.
    async fn answer(&self, session: &Session) {
        let advert = HostAdvert {
            id: self.id.clone(),
            host: self.host.clone(),
            build: build_id::hex(&self.build),
            workers: u32::try_from(self.workers).unwrap_or(u32::MAX),
        };
        if let Ok(json) = serde_json::to_vec(&advert) {
            let _ = self.connection.client.publish(session.hosts(), json.into()).await;
        }
    }

    /// What is known of the program's functions.
    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the agent with an error.
    fn fail(&self, error: Error) {
        let _ = self.failure.try_send(error);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Session, Standing>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Prints what an operator may want to know. Standard error may refuse it, as a pipe without a reader or a
/// full disk does: `eprintln!` would panic, and end what this agent is doing.
fn print_line(text: &str) {
    let _ = io::stderr().write_all(format!("agent: {text}\n").as_bytes());
}

fn machine_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "localhost".to_owned() } else { name.trim().to_owned() }
}

impl fmt::Debug for AgentOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentOptions")
            .field("host", &self.host)
            .field("workers", &self.workers)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hosts_name_is_no_longer_than_one_of_dns() {
        // A second error of the options: it does not get far with a name that it may have.
        let options = AgentOptions::new("nats://127.0.0.1:1").workers(0);
        let Err(error) = agent(options.host(&"h".repeat(256)));
        assert!(error.to_string().contains("name has 256 bytes"), "{error}");
    }
}

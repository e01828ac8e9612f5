//! Three hosts. Where the test may, each is a network namespace, and a bridge in another one joins them.

use std::io;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::thread;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::gettid;

use crate::link::Link;
use crate::server::{Server, Settings};
use crate::support::{Running, agent, cannot_run};

/// Hosts that reach the broker through links of their own.
pub(crate) enum Network {
    /// The calling thread is where the bridge and the broker are.
    Namespaces(Vec<Namespace>),
    /// Agents on the loopback.
    Links(Vec<Link>),
}

/// A thread that is alone in a network namespace.
pub(crate) struct Namespace {
    jobs: Sender<Box<dyn FnOnce() + Send>>,
    thread: i32,
}

/// The address of the bridge, where the broker listens.
const BROKER: &str = "10.97.0.1";

impl Network {
    /// Moves the calling thread into a namespace of its own, and starts a broker there. The namespaces end with
    /// what runs in them.
    pub(crate) fn with_hosts(count: usize) -> (Self, Server) {
        match Self::namespaces(count) {
            Ok(network) => {
                let server = Server::with(Settings { address: Some("0.0.0.0"), ..Settings::default() });
                (network, server)
            }
            Err(error) => {
                cannot_run(&format!("network namespaces ({error}); the hosts are agents on the loopback"));
                let server = Server::start();
                (Self::Links((0..count).map(|_| Link::to(&server)).collect()), server)
            }
        }
    }

    fn namespaces(count: usize) -> io::Result<Self> {
        let hosts: Vec<Namespace> = (0..count).map(|_| Namespace::new()).collect::<io::Result<_>>()?;
        run("ip -V")?;
        unshare(CloneFlags::CLONE_NEWNET)?;
        run("ip link set lo up")?;
        run("ip link add bridge type bridge")?;
        run(&format!("ip addr add {BROKER}/24 dev bridge"))?;
        run("ip link set bridge up")?;
        for (number, host) in hosts.iter().enumerate() {
            run(&format!("ip link add host{number} type veth peer name eth netns {}", host.thread))?;
            run(&format!("ip link set host{number} master bridge up"))?;
            let address = format!("10.97.0.{}/24", number + 2);
            host.run(move || {
                run("ip link set lo up")?;
                run(&format!("ip addr add {address} dev eth"))?;
                run("ip link set eth up")
            })?;
        }
        Ok(Self::Namespaces(hosts))
    }

    /// Starts the agent of a host.
    pub(crate) fn agent(&self, host: usize, server: &Server) -> Running {
        let (name, program) = (format!("host{host}"), std::env::current_exe().unwrap());
        match self {
            Self::Links(links) => agent(&links[host].url(), &name, &program),
            Self::Namespaces(hosts) => {
                let url = format!("nats://{BROKER}:{}", server.port());
                hosts[host].run(move || agent(&url, &name, &program))
            }
        }
    }

    pub(crate) fn cut(&self, host: usize) {
        match self {
            Self::Links(links) => links[host].cut(),
            Self::Namespaces(_) => run(&format!("ip link set host{host} down")).unwrap(),
        }
    }

    pub(crate) fn mend(&self, host: usize) {
        match self {
            Self::Links(links) => links[host].mend(),
            Self::Namespaces(_) => run(&format!("ip link set host{host} up")).unwrap(),
        }
    }

    /// What the host gets is slow, and late where the kernel can do that. Says so where it can do neither.
    pub(crate) fn slow_down(&self, host: usize) {
        let disciplines = ["netem delay 40ms 20ms rate 1mbit", "tbf rate 200kbit burst 4kb latency 2s"];
        let mut add = disciplines.iter().map(|kind| run(&format!("tc qdisc add dev host{host} root {kind}")));
        if matches!(self, Self::Links(_)) || !add.any(|added| added.is_ok()) {
            cannot_run("a slow link (tc, and a kernel with netem or tbf)");
        }
    }
}

impl Namespace {
    fn new() -> io::Result<Self> {
        let (jobs, queue) = channel::<Box<dyn FnOnce() + Send>>();
        let (ready, is_ready) = channel();
        thread::spawn(move || {
            let _ = ready.send(unshare(CloneFlags::CLONE_NEWNET).map(|()| gettid().as_raw()));
            for job in queue {
                job();
            }
        });
        let thread = is_ready.recv().map_err(io::Error::other)??;
        Ok(Self { jobs, thread })
    }

    /// Runs a function in the namespace; what it starts stays there.
    fn run<T: Send + 'static>(&self, function: impl FnOnce() -> T + Send + 'static) -> T {
        let (sender, receiver) = channel();
        let job = move || drop(sender.send(function()));
        assert!(self.jobs.send(Box::new(job)).is_ok());
        receiver.recv().unwrap()
    }
}

/// Runs a command, whose words have no spaces.
fn run(command: &str) -> io::Result<()> {
    let mut words = command.split(' ');
    let mut process = Command::new(words.next().unwrap_or_default());
    let output = process.args(words).stdin(Stdio::null()).output()?;
    let complaint = || format!("{command}: {}", String::from_utf8_lossy(&output.stderr).trim());
    if output.status.success() { Ok(()) } else { Err(io::Error::other(complaint())) }
}

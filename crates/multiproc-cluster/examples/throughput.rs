//! Measures the cluster on this machine against the local pool: a server, and two agents of one worker each.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use multiproc::Result;
use multiproc_cluster::{Cluster, Pool};

/// Keeps a CPU busy for a number of microseconds.
fn work(micros: u64) -> u64 {
    let end = Instant::now() + Duration::from_micros(micros);
    while Instant::now() < end {
        std::hint::spin_loop();
    }
    micros
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    multiproc_cluster::init();
    let storage = tempfile::tempdir()?;
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let mut server = Command::new("nats-server");
    let _server =
        start(server.args(["-js", "-a", "127.0.0.1", "-p", &port.to_string(), "-sd"]).arg(storage.path()))?;
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        thread::sleep(Duration::from_millis(10));
    }
    let url = format!("nats://127.0.0.1:{port}");
    let mut agents = Vec::new();
    for host in ["a", "b"] {
        let mut agent = Command::new(std::env::current_exe()?);
        agent
            .env("MULTIPROC_AGENT", &url)
            .env("MULTIPROC_AGENT_HOST", host)
            .env("MULTIPROC_AGENT_WORKERS", "1");
        agents.push(start(&mut agent)?);
    }
    let pool = Cluster::connect(&url)?.pool("throughput")?;
    pool.wait_for_hosts(2, Duration::from_secs(30))?;
    let local = multiproc::Pool::new(2)?;
    compare(&pool, &local)?;
    println!("an idle agent takes {:.2} % of a CPU", idle(agents[0].0.id())? * 100.0);
    Ok(())
}

fn compare(pool: &Pool, local: &multiproc::Pool) -> Result<()> {
    let round_trip = |run: &dyn Fn() -> Result<u64>| -> Result<Duration> {
        let mut times = Vec::new();
        for _ in 0..500 {
            let started = Instant::now();
            run()?;
            times.push(started.elapsed());
        }
        times.sort();
        Ok(times[times.len() / 2])
    };
    let there = round_trip(&|| pool.apply(work, (0,)))?;
    let here = round_trip(&|| local.apply(work, (0,)))?;
    println!("one task and its result: {there:?}; the local pool: {here:?}");
    for (micros, count) in [(0, 200_000_u32), (100, 20_000), (1000, 2000), (10_000, 200)] {
        let (mut there, mut here) = (Duration::MAX, Duration::MAX);
        for _ in 0..3 {
            let started = Instant::now();
            pool.map(work, std::iter::repeat_n(micros, count as usize))?;
            there = there.min(started.elapsed());
            let started = Instant::now();
            local.map(work, std::iter::repeat_n(micros, count as usize))?;
            here = here.min(started.elapsed());
        }
        let rate = |time: Duration| f64::from(count) / time.as_secs_f64();
        println!(
            "{count} items of {micros} µs: {:.0} items/s; the local pool: {:.0} ({:.0} %)",
            rate(there),
            rate(here),
            100.0 * rate(there) / rate(here)
        );
    }
    Ok(())
}

/// The CPU time that a process takes, without its children, as a share of the time.
fn idle(pid: u32) -> Result<f64, Box<dyn std::error::Error>> {
    let ticks = || -> Result<f64, Box<dyn std::error::Error>> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        Ok(fields[11].parse::<f64>()? + fields[12].parse::<f64>()?)
    };
    let before = ticks()?;
    thread::sleep(Duration::from_secs(10));
    Ok((ticks()? - before) / 100.0 / 10.0)
}

struct Running(Child);

fn start(command: &mut Command) -> std::io::Result<Running> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().map(Running)
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

//! iceoryx2: samples in shared memory, received by busy polling; and events, which can be slept
//! for.

use std::fmt::Debug;
use std::fs;
use std::hint;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use bench::case;
use bench::measure::{self, Scale, back_to_back, from_sleep};
use bench::proc;
use bench::program::{Entry, Measured, entry};
use bench::stream::{StreamResult, consume, mixed, produce, stamp, stamped, unmixed};
use bench::work::{self, MIB, check};
use bench_peers::{Player, run, scale_as_word, scale_of_word, until_joined, until_told};
use iceoryx2::port::listener::Listener;
use iceoryx2::port::notifier::Notifier;
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::*;

const ICEORYX: &str = "iceoryx2";

/// How many samples a subscriber has room for, small ones and those of 1 MiB.
const CAPACITY: usize = 1024;
const CAPACITY_1MIB: usize = 16;

fn main() -> ExitCode {
    run(
        &entries(),
        first_result,
        &[("produce", play_producer), ("echo", play_echo), ("event-echo", play_event_echo)],
    )
}

fn entries() -> Vec<Entry> {
    vec![
        entry(ICEORYX, &case::QUEUE_8B, |scale| {
            let namespace = Namespace::new()?;
            let words =
                namespace.service::<u64>("stream", CAPACITY)?.subscriber_builder().create().map_err(failed)?;
            let producer = namespace.play("produce", &["8", scale_as_word(scale)])?;
            check("greeting", GREETING, *busy(|| words.receive())?)?;
            producer.go()?;
            let flow = consume(|| Ok(unmixed(*busy(|| words.receive())?)))?;
            producer.join()?;
            Ok(flow.millions())
        }),
        entry(ICEORYX, &case::QUEUE_64B, |scale| Ok(bytes(scale, 64)?.millions())),
        entry(ICEORYX, &case::QUEUE_1KIB, |scale| Ok(bytes(scale, 1024)?.millions())),
        entry(ICEORYX, &case::QUEUE_1MIB, |scale| {
            let measured = bytes(scale, MIB)?.gigabytes(MIB);
            Ok(measured.with("written once, read where it is"))
        }),
        entry(ICEORYX, &case::PING_HOT, |scale| {
            let namespace = Namespace::new()?;
            let ends = Ends::new(&namespace, "questions", "answers")?;
            let _child = namespace.play("echo", &[])?;
            ends.meet()?;
            Ok(back_to_back(scale, || ends.call())?.with("both sides poll all the time"))
        }),
        entry(ICEORYX, &case::PING_SLEEP, |scale| {
            let namespace = Namespace::new()?;
            let events = Events::new(&namespace, "questions", "answers")?;
            let _child = namespace.play("event-echo", &[])?;
            events.hear()?;
            let call = || {
                events.tell()?;
                events.hear()
            };
            Ok(from_sleep(scale, call)?.with("an event there and back, without data"))
        }),
        entry(ICEORYX, &case::COLD, |scale| {
            Ok(measure::cold(scale, &["fresh"])?.with("one child, and no pool"))
        }),
        entry(ICEORYX, &case::PSS, |_| {
            let namespace = Namespace::new()?;
            let events = Events::new(&namespace, "questions", "answers")?;
            let child = namespace.play("event-echo", &[])?;
            events.hear()?;
            thread::sleep(Duration::from_millis(100));
            Ok(Measured::new(proc::proportional(child.pid())?))
        }),
    ]
}

fn first_result() -> Result<Duration> {
    let start = Instant::now();
    let namespace = Namespace::new()?;
    let ends = Ends::new(&namespace, "questions", "answers")?;
    let _child = namespace.play("echo", &[])?;
    ends.meet()?;
    ends.call()?;
    Ok(start.elapsed())
}

/// The child publishes; it waits as long as the subscriber's buffer is full.
fn bytes(scale: Scale, length: usize) -> Result<StreamResult> {
    let namespace = Namespace::new()?;
    let service = namespace.service::<[u8]>("stream", capacity(length))?;
    let messages = service.subscriber_builder().create().map_err(failed)?;
    let producer = namespace.play("produce", &[&length.to_string(), scale_as_word(scale)])?;
    check("greeting", GREETING, stamped(&busy(|| messages.receive())?, length)?)?;
    producer.go()?;
    let flow = consume(|| stamped(&busy(|| messages.receive())?, length))?;
    producer.join()?;
    Ok(flow)
}

fn play_producer(arguments: &[&str]) -> Result<()> {
    let &[prefix, length, scale] = arguments else { bail!("not what a producer is told: {arguments:?}") };
    let (namespace, length, scale) = (Namespace::at(prefix)?, length.parse()?, scale_of_word(scale));
    if length == 8 {
        let service = namespace.service::<u64>("stream", CAPACITY)?;
        let publisher = service.publisher_builder().backpressure_strategy(WAIT).create().map_err(failed)?;
        let send = |message| publisher.send_copy(message).map(drop).map_err(failed);
        send(GREETING)?;
        until_told();
        let sent = produce(scale, 8, |number| send(mixed(number)));
        until_joined(); // what a publisher has sent is gone with it
        sent
    } else {
        let service = namespace.service::<[u8]>("stream", capacity(length))?;
        let publisher = service.publisher_builder().initial_max_slice_len(length).backpressure_strategy(WAIT);
        let publisher = publisher.create().map_err(failed)?;
        let mut message = work::bytes(length);
        let mut send = |number| {
            stamp(&mut message, number);
            let sample = publisher.loan_slice_uninit(length).map_err(failed)?;
            sample.write_from_slice(&message).send().map(drop).map_err(failed)
        };
        send(GREETING)?;
        until_told();
        let sent = produce(scale, length, send);
        until_joined(); // what a publisher has sent is gone with it
        sent
    }
}

/// Comes before the numbers. Until a subscriber has received something, samples that have no room are lost,
/// so the publisher waits for word that this has come.
const GREETING: u64 = 7;

const WAIT: BackpressureStrategy = BackpressureStrategy::RetryUntilDelivered;

/// A question and its answer as samples.
struct Ends {
    out: Publisher<ipc::Service, u64, ()>,
    back: Subscriber<ipc::Service, u64, ()>,
}

impl Ends {
    fn new(namespace: &Namespace, out: &str, back: &str) -> Result<Self> {
        let back = namespace.service::<u64>(back, 4)?.subscriber_builder().create().map_err(failed)?;
        let out = namespace.service::<u64>(out, 4)?.publisher_builder().create().map_err(failed)?;
        Ok(Self { out, back })
    }

    /// Waits until the child listens: then it says 0.
    fn meet(&self) -> Result<()> {
        check("greeting", 0, unmixed(*busy(|| self.back.receive())?))
    }

    fn call(&self) -> Result<()> {
        self.out.send_copy(mixed(7)).map_err(failed)?;
        check("answer", 8, unmixed(*busy(|| self.back.receive())?))
    }
}

/// Until it is killed.
fn play_echo(arguments: &[&str]) -> Result<()> {
    let namespace = Namespace::at(arguments[0])?;
    let ends = Ends::new(&namespace, "answers", "questions")?;
    ends.out.send_copy(mixed(0)).map_err(failed)?;
    loop {
        let number = unmixed(*busy(|| ends.back.receive())?);
        ends.out.send_copy(mixed(number + 1)).map_err(failed)?;
    }
}

/// A question and its answer as events.
struct Events {
    out: Notifier<ipc::Service>,
    back: Listener<ipc::Service>,
}

impl Events {
    fn new(namespace: &Namespace, out: &str, back: &str) -> Result<Self> {
        let back = namespace.events(back)?.listener_builder().create().map_err(failed)?;
        let out = namespace.events(out)?.notifier_builder().create().map_err(failed)?;
        Ok(Self { out, back })
    }

    fn tell(&self) -> Result<()> {
        self.out.notify().map(drop).map_err(failed)
    }

    fn hear(&self) -> Result<()> {
        let mut events = 0;
        while events == 0 {
            self.back.blocking_wait(|_| events += 1).map_err(failed)?;
        }
        check("number of events", 1, events)
    }
}

/// Until it is killed.
fn play_event_echo(arguments: &[&str]) -> Result<()> {
    let namespace = Namespace::at(arguments[0])?;
    let events = Events::new(&namespace, "answers", "questions")?;
    events.tell()?;
    loop {
        events.hear()?;
        events.tell()?;
    }
}

/// Where the files and the shared memory of a round are: under a prefix of its own.
struct Namespace {
    node: Node<ipc::Service>,
    prefix: String,
    _sweeper: Option<Sweeper>, // behind the node, which must be gone first
}

impl Namespace {
    fn new() -> Result<Self> {
        let prefix = format!("multiproc_bench_{}_", std::process::id());
        Ok(Self { _sweeper: Some(Sweeper(prefix.clone())), ..Self::at(&prefix)? })
    }

    fn at(prefix: &str) -> Result<Self> {
        set_log_level(LogLevel::Error);
        let folder = std::env::temp_dir();
        let mut config = Config::default();
        let root = folder.to_str().context("the temporary folder has a strange name")?;
        config.global.set_root_path(&Path::new(root.as_bytes()).map_err(failed)?);
        config.global.prefix = FileName::new(prefix.as_bytes()).map_err(failed)?;
        let node = NodeBuilder::new().config(&config).signal_handling_mode(SignalHandlingMode::Disabled);
        Ok(Self { node: node.create().map_err(failed)?, prefix: prefix.to_owned(), _sweeper: None })
    }

    fn service<T: Payload + ?Sized>(&self, name: &str, room: usize) -> Result<T::Factory> {
        T::service(&self.node, name, room)
    }

    fn events(
        &self,
        name: &str,
    ) -> Result<iceoryx2::service::port_factory::event::PortFactory<ipc::Service>> {
        let name = ServiceName::new(&format!("{name}-events")).map_err(failed)?;
        self.node.service_builder(&name).event().open_or_create().map_err(failed)
    }

    fn play(&self, role: &str, arguments: &[&str]) -> Result<Player> {
        let arguments: Vec<&str> =
            [self.prefix.as_str()].into_iter().chain(arguments.iter().copied()).collect();
        Player::start(role, &arguments)
    }
}

/// Removes what stays behind of an installation when the last node is gone. (What is killed is swept by
/// `cargo xtask bench`.)
struct Sweeper(String);

impl Drop for Sweeper {
    fn drop(&mut self) {
        for entry in fs::read_dir("/dev/shm").into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&self.0) {
                let _ = fs::remove_file(entry.path());
            }
        }
        for folder in ["nodes", "services"] {
            let _ = fs::remove_dir(std::env::temp_dir().join(folder)); // only if it is empty
        }
    }
}

/// What a service carries: numbers, or bytes.
trait Payload {
    type Factory;
    fn service(node: &Node<ipc::Service>, name: &str, room: usize) -> Result<Self::Factory>;
}

macro_rules! payload {
    ($type:ty) => {
        impl Payload for $type {
            type Factory =
                iceoryx2::service::port_factory::publish_subscribe::PortFactory<ipc::Service, $type, ()>;

            fn service(node: &Node<ipc::Service>, name: &str, room: usize) -> Result<Self::Factory> {
                let name = ServiceName::new(name).map_err(failed)?;
                let service = node.service_builder(&name).publish_subscribe::<$type>();
                let service = service.enable_safe_overflow(false).subscriber_max_buffer_size(room);
                service.max_publishers(2).max_subscribers(2).open_or_create().map_err(failed)
            }
        }
    };
}

payload!(u64);
payload!([u8]);

/// Looks until something is there.
fn busy<T, E: Debug>(mut receive: impl FnMut() -> Result<Option<T>, E>) -> Result<T> {
    let mut rounds = 0_u32;
    loop {
        if let Some(sample) = receive().map_err(failed)? {
            return Ok(sample);
        }
        rounds += 1;
        // The other one may have no CPU.
        if rounds.is_multiple_of(1_000) { thread::yield_now() } else { hint::spin_loop() }
    }
}

fn capacity(length: usize) -> usize {
    if length < MIB { CAPACITY } else { CAPACITY_1MIB }
}

fn failed(error: impl Debug) -> anyhow::Error {
    anyhow!("iceoryx2: {error:?}")
}

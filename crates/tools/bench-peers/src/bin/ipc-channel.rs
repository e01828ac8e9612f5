//! ipc-channel: channels whose ends travel to another process.

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use bench::case;
use bench::measure::{self, Scale, back_to_back, from_sleep, rate};
use bench::proc;
use bench::program::{Entry, Measured, entry};
use bench::real::{self, Ledger, Order, Priced};
use bench::stream::{StreamResult, consume, mixed, produce, stamp, stamped, unmixed};
use bench::usage::{self, user_lines};
use bench::work::{self, BLOCK, MIB, SUMS, SUMS_AMOUNT, check};
use bench_peers::{Player, Role, run, scale_as_word, scale_of_word};
use ipc_channel::ipc::{self, IpcBytesReceiver, IpcBytesSender, IpcOneShotServer, IpcReceiver, IpcSender};
use serde::Serialize;
use serde::de::DeserializeOwned;

const IPC: &str = "ipc-channel";

fn main() -> ExitCode {
    let roles: &[(&str, Role)] = &[
        ("produce", play_producer),
        ("echo", play_echo),
        ("sum", play_sum),
        ("order", play_orders),
        ("price", play_prices),
    ];
    run(&entries(), first_result, roles)
}

fn entries() -> Vec<Entry> {
    vec![
        entry(IPC, &case::QUEUE_8B, |scale| {
            let (words, producer): (IpcReceiver<u64>, _) = meet("produce", &["8", scale_as_word(scale)])?;
            let flow = consume(|| Ok(unmixed(words.recv().map_err(failed)?)))?;
            producer.join()?;
            Ok(flow.millions())
        }),
        entry(IPC, &case::QUEUE_64B, |scale| Ok(bytes(scale, 64)?.millions())),
        entry(IPC, &case::QUEUE_1KIB, |scale| Ok(bytes(scale, 1024)?.millions())),
        entry(IPC, &case::QUEUE_1MIB, |scale| Ok(bytes(scale, MIB)?.gigabytes(MIB))),
        entry(IPC, &case::PING_HOT, |scale| {
            let echo = Echo::start()?;
            back_to_back(scale, || echo.call())
        }),
        entry(IPC, &case::PING_SLEEP, |scale| {
            let echo = Echo::start()?;
            from_sleep(scale, || echo.call())
        }),
        entry(IPC, &case::SUM, sums),
        entry(IPC, &case::COLD, |scale| Ok(measure::cold(scale, &["fresh"])?.with("one child, and no pool"))),
        entry(IPC, &case::PSS, |_| {
            let echo = Echo::start()?;
            echo.call()?;
            thread::sleep(Duration::from_millis(100));
            Ok(Measured::new(proc::proportional(echo.child.pid())?))
        }),
        entry(IPC, &case::PIPELINE, pipeline),
    ]
}

fn first_result() -> Result<Duration> {
    let start = Instant::now();
    let echo = Echo::start()?;
    echo.call()?;
    Ok(start.elapsed())
}

/// Messages of bytes, through the kind of channel that is made for them.
fn bytes(scale: Scale, length: usize) -> Result<StreamResult> {
    let arguments = [&length.to_string(), scale_as_word(scale)];
    let (messages, producer): (IpcBytesReceiver, _) = meet("produce", &arguments)?;
    let flow = consume(|| stamped(&messages.recv().map_err(failed)?, length))?;
    producer.join()?;
    Ok(flow)
}

fn play_producer(arguments: &[&str]) -> Result<()> {
    let &[server, length, scale] = arguments else { bail!("not what a producer is told: {arguments:?}") };
    let (length, scale) = (length.parse()?, scale_of_word(scale));
    if length == 8 {
        let (sender, receiver) = ipc::channel::<u64>()?;
        introduce(server, receiver)?;
        return produce(scale, 8, |number| sender.send(mixed(number)).map_err(failed));
    }
    let (sender, receiver) = ipc::bytes_channel()?;
    introduce(server, receiver)?;
    let mut message = work::bytes(length);
    produce(scale, length, |number| {
        stamp(&mut message, number);
        Ok(sender.send(&message)?)
    })
}

/// A child that answers each number with the next one.
struct Echo {
    questions: IpcSender<u64>,
    answers: IpcReceiver<u64>,
    child: Player,
}

impl Echo {
    fn start() -> Result<Self> {
        let ((questions, answers), child) = meet("echo", &[])?;
        Ok(Self { questions, answers, child })
    }

    fn call(&self) -> Result<()> {
        self.questions.send(mixed(7)).map_err(failed)?;
        check("answer", 8, unmixed(self.answers.recv().map_err(failed)?))
    }
}

fn play_echo(arguments: &[&str]) -> Result<()> {
    let (ask, questions) = ipc::channel::<u64>()?;
    let (answer, answers) = ipc::channel::<u64>()?;
    introduce(arguments[0], (ask, answers))?;
    while let Ok(number) = questions.recv() {
        answer.send(mixed(unmixed(number) + 1)).map_err(failed)?;
    }
    Ok(())
}

/// Two children, each of which is given a block when it has answered for the one before.
fn sums(scale: Scale) -> Result<Measured> {
    type Ends = (IpcBytesSender, IpcReceiver<u64>);
    let children: [(Ends, Player); 2] = [meet("sum", &[])?, meet("sum", &[])?];
    let mut block = work::bytes(BLOCK);
    let expected = work::sum(&block[8..]) * SUMS as u64
        + (0..SUMS as u64).map(|number| work::sum(&number.to_le_bytes())).sum::<u64>();
    let add = || {
        let mut total = 0;
        for number in 0..SUMS {
            let ((blocks, sums), _) = &children[number % 2];
            if number >= 2 {
                total += sums.recv().map_err(failed)?;
            }
            block[..8].copy_from_slice(&(number as u64).to_le_bytes());
            blocks.send(&block)?;
        }
        for ((_, sums), _) in &children {
            total += sums.recv().map_err(failed)?;
        }
        Ok(total)
    };
    rate(scale, SUMS_AMOUNT, add, |total| check("sum of all sums", expected, total))
}

fn play_sum(arguments: &[&str]) -> Result<()> {
    let (put, blocks) = ipc::bytes_channel()?;
    let (answer, sums) = ipc::channel::<u64>()?;
    introduce(arguments[0], (put, sums))?;
    while let Ok(block) = blocks.recv() {
        answer.send(work::sum(&block)).map_err(failed)?;
    }
    Ok(())
}

/// A receiver is for one process, so each consumer has a channel of its own.
fn pipeline(scale: Scale) -> Result<Measured> {
    let work = |(): &()| {
        // user code: pipeline
        let (result, priced) = ipc::channel()?;
        let (tell, producer): (IpcSender<Vec<IpcSender<Order>>>, _) = meet("order", &[scale_as_word(scale)])?;
        let mut senders = Vec::new();
        let mut children = vec![producer];
        for _ in 0..2 {
            let ((sender, tell), child): ((_, IpcSender<IpcSender<Priced>>), _) = meet("price", &[])?;
            tell.send(result.clone()).map_err(failed)?;
            senders.push(sender);
            children.push(child);
        }
        drop(result);
        tell.send(senders).map_err(failed)?;
        let mut ledger = Ledger::default();
        while let Ok(priced) = priced.recv() {
            ledger.add(priced);
        }
        children.into_iter().try_for_each(Player::join)?;
        // end
        Ok(ledger)
    };
    let source = include_str!("ipc-channel.rs");
    let lines = user_lines(source, "pipeline") + user_lines(source, "meet");
    usage::measure(lines, (), work, |ledger: Ledger| ledger.check(scale))
}

// user code: pipeline
fn play_orders(arguments: &[&str]) -> Result<()> {
    let &[server, scale] = arguments else { bail!("not what a producer is told: {arguments:?}") };
    let (tell, told) = ipc::channel::<Vec<IpcSender<Order>>>()?;
    introduce(server, tell)?;
    let consumers = told.recv().map_err(failed)?;
    for (id, consumer) in (0..real::order_count(scale_of_word(scale))).zip(consumers.iter().cycle()) {
        consumer.send(real::order(id)).map_err(failed)?;
    }
    Ok(())
}

fn play_prices(arguments: &[&str]) -> Result<()> {
    let (sender, orders) = ipc::channel::<Order>()?;
    let (tell, told) = ipc::channel::<IpcSender<Priced>>()?;
    introduce(arguments[0], (sender, tell))?;
    let result = told.recv().map_err(failed)?;
    while let Ok(order) = orders.recv() {
        result.send(real::price(&order)).map_err(failed)?;
    }
    Ok(())
}
// end

// user code: meet
/// Starts a child in a role, and receives the ends of channels that it has for us.
fn meet<T: DeserializeOwned + Serialize>(role: &str, arguments: &[&str]) -> Result<(T, Player)> {
    let (server, name) = IpcOneShotServer::<T>::new()?;
    let arguments: Vec<&str> = [name.as_str()].into_iter().chain(arguments.iter().copied()).collect();
    let child = Player::start(role, &arguments)?;
    let (_, ends) = server.accept().map_err(failed)?;
    Ok((ends, child))
}

fn introduce<T: DeserializeOwned + Serialize>(server: &str, ends: T) -> Result<()> {
    IpcSender::connect(server.to_owned())?.send(ends).map_err(failed)
}
// end

fn failed(error: impl std::fmt::Debug) -> anyhow::Error {
    anyhow!("ipc-channel: {error:?}")
}

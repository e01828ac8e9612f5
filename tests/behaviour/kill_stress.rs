//! **Queue**, when its senders and receivers are killed or stopped at any instruction.
//!
//! `KILLS=5000 cargo test -p tests -- kill_stress::` kills more often than usual.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, read_dir};
use std::io::{Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use multiproc::queue::{Receiver, Sender, bounded};
use multiproc::{Process, Result, pipe};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::Signal;

use crate::support::{Latch, Outcome, TEST_TIMEOUT, alone, send_signal, trials, wait_for_state};

trials![
    every_item_goes_to_exactly_one_receiver_in_order_whatever_is_killed,
    a_killed_receiver_that_waited_hands_on_its_place,
    a_killed_sender_that_waited_hands_on_its_place,
    a_stopped_receiver_delays_others_no_longer_than_they_allow,
    a_stopped_sender_delays_others_no_longer_than_they_allow,
    large_items_of_the_killed_are_taken_by_others,
    queues_and_pipes_leave_no_descriptor_and_no_mapping_behind,
];

/// Sender, number, and payload.
type Item = (u32, u32, Vec<u8>);

/// The size of a batch. A killed process leaves the outcome of at most this many items unknown.
const BATCH: u32 = 4;

fn every_item_goes_to_exactly_one_receiver_in_order_whatever_is_killed() -> Outcome {
    let kills = env::var("KILLS").map_or(Ok(150), |kills| kills.parse())?;
    let mut rng = Random(0x5eed);
    for capacity in [1, 6, 100_000] {
        let mut stress = KillStress::new(capacity)?;
        for _ in 0..kills / 3 {
            thread::sleep(Duration::from_micros(rng.below(2_000)));
            stress.kill_one(usize::try_from(rng.below(6))?)?;
        }
        stress.finish()?;
    }
    Ok(())
}

/// Three senders and three receivers, and the log of each: an entry after each operation.
struct KillStress {
    ends: (Sender<Item>, Receiver<Item>),
    workers: Vec<(Process<()>, u32)>,
    sent: Vec<EventLog>,
    received: Vec<EventLog>,
    dead_receivers: u32,
}

impl KillStress {
    fn new(capacity: u32) -> Result<Self> {
        let mut stress = Self {
            ends: bounded(capacity)?,
            workers: Vec::new(),
            sent: Vec::new(),
            received: Vec::new(),
            dead_receivers: 0,
        };
        for index in 0..6 {
            let worker = stress.worker(index)?;
            stress.workers.push(worker);
        }
        Ok(stress)
    }

    fn worker(&mut self, index: usize) -> Result<(Process<()>, u32)> {
        let log = EventLog::new();
        let name = log.name();
        if index < 3 {
            let number = u32::try_from(self.sent.len()).unwrap();
            self.sent.push(log);
            let send = Process::spawn(send_endlessly, (self.ends.0.clone(), number, name))?;
            Ok((send, number))
        } else {
            let number = u32::try_from(self.received.len()).unwrap();
            self.received.push(log);
            Ok((Process::spawn(receive_endlessly, (self.ends.1.clone(), number, name))?, number))
        }
    }

    /// Kills one, and starts another in its stead.
    fn kill_one(&mut self, index: usize) -> Result<()> {
        let fresh = self.worker(index)?;
        let (worker, _) = std::mem::replace(&mut self.workers[index], fresh);
        worker.kill()?;
        assert_eq!(worker.join().unwrap_err().signal(), Some(9));
        self.dead_receivers += u32::from(index >= 3);
        Ok(())
    }

    /// Kills all senders; then the receivers reach the end, and all logs must agree.
    fn finish(mut self) -> Result<()> {
        let receivers = self.workers.split_off(3);
        for (sender, _) in self.workers {
            sender.kill()?;
            assert!(sender.join().is_err());
        }
        drop(self.ends);
        for (receiver, _) in receivers {
            receiver.join()?; // it ends only if the queue still works
        }
        let mut taken = BTreeMap::<u32, Vec<u32>>::new();
        for log in &self.received {
            let mut last = BTreeMap::new();
            for (sender, number) in log.read() {
                let before = last.insert(sender, number);
                assert!(before < Some(number), "out of order: {number} of {sender} after {before:?}");
                taken.entry(sender).or_default().push(number);
            }
        }
        let mut missing = 0;
        for (sender, log) in (0..).zip(&self.sent) {
            let sent = log.read().last().map_or(0, |(_, number)| number + 1);
            let mut taken = taken.remove(&sender).unwrap_or_default();
            taken.sort_unstable();
            let count = taken.len();
            taken.dedup();
            assert_eq!(taken.len(), count, "an item was received twice");
            let end = taken.last().map_or(0, |last| last + 1);
            assert!(end <= sent + BATCH, "{end} received of {sent} sent");
            missing += sent.max(end) - u32::try_from(count).unwrap();
        }
        assert!(taken.is_empty(), "received, but not sent: {taken:?}");
        // Items that a receiver had taken when it was killed, before it could log them.
        assert!(missing <= BATCH * self.dead_receivers, "{missing} missing, {} dead", self.dead_receivers);
        Ok(())
    }
}

/// Every third sends batches.
fn send_endlessly(items: Sender<Item>, own: u32, log: String) {
    let mut log = EventLog::open(&log);
    let item = |number: u32| (own, number, vec![7; ballast(number)]);
    for number in (0..).step_by(BATCH as usize) {
        let batch = number..number + BATCH;
        if own.is_multiple_of(3) {
            items.send_all(batch.clone().map(item)).unwrap();
            log.write(own, batch.end - 1);
        } else {
            for number in batch {
                items.send(item(number)).unwrap();
                log.write(own, number);
            }
        }
    }
}

fn receive_endlessly(items: Receiver<Item>, own: u32, log: String) {
    let mut log = EventLog::open(&log);
    loop {
        let batch = if own.is_multiple_of(3) {
            items.recv_many(BATCH as usize)
        } else {
            items.recv().map(|item| vec![Ok(item)])
        };
        match batch {
            Ok(batch) => {
                for item in batch {
                    let (sender, number, bytes) = item.unwrap();
                    assert!(bytes == vec![7; ballast(number)], "an item is torn");
                    log.write(sender, number);
                }
            }
            Err(error) if error.is_disconnected() => return,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Most items are small, some are large enough to be spilled when there is no room, a few always are.
fn ballast(number: u32) -> usize {
    match number % 64 {
        17 => 40_000,
        33 if number.is_multiple_of(3) => 2_200_000,
        rest => rest as usize,
    }
}

/// Pairs of numbers in memory that outlives its writer.
struct EventLog(File);

impl EventLog {
    fn new() -> Self {
        Self(memfd_create(c"log", MFdFlags::MFD_CLOEXEC).unwrap().into())
    }

    /// How another process opens it.
    fn name(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    fn open(name: &str) -> Self {
        Self(OpenOptions::new().append(true).open(name).unwrap())
    }

    fn write(&mut self, sender: u32, number: u32) {
        let mut entry = [0; 8];
        entry[..4].copy_from_slice(&sender.to_ne_bytes());
        entry[4..].copy_from_slice(&number.to_ne_bytes());
        self.0.write_all(&entry).unwrap();
    }

    fn read(&self) -> Vec<(u32, u32)> {
        let mut file = &self.0;
        file.rewind().unwrap();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        let number = |bytes: &[u8]| u32::from_ne_bytes(bytes.try_into().unwrap());
        bytes.chunks_exact(8).map(|entry| (number(&entry[..4]), number(&entry[4..]))).collect()
    }
}

/// Pseudo-random numbers, the same in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// Says that it is about to, and receives.
pub(crate) fn receive_one(items: Receiver<u32>, latch: Latch) -> Option<u32> {
    latch.send(()).unwrap();
    items.recv().ok()
}

fn send_one(items: Sender<u32>, number: u32, latch: Latch) -> bool {
    latch.send(()).unwrap();
    items.send(number).is_ok()
}

/// A child that has gone to sleep in a call.
pub(crate) fn asleep<T: serde::Serialize + serde::de::DeserializeOwned>(
    child: &Process<T>,
    latch: &Latch,
) -> Result<()> {
    latch.recv()?;
    wait_for_state(child.pid(), 'S');
    Ok(())
}

fn a_killed_receiver_that_waited_hands_on_its_place() -> Outcome {
    let (sender, receiver) = bounded(1)?;
    let mut waiting = Vec::new();
    for _ in 0..3 {
        let (latch, theirs) = pipe()?;
        let child = Process::spawn(receive_one, (receiver.clone(), theirs))?;
        asleep(&child, &latch)?;
        waiting.push(child);
    }
    let last = waiting.pop().unwrap();
    for child in waiting {
        child.kill()?; // the first waits for an item, the second for the first
        assert!(child.join().is_err());
    }
    sender.send(7)?;
    assert_eq!(last.join()?, Some(7));
    Ok(())
}

fn a_killed_sender_that_waited_hands_on_its_place() -> Outcome {
    let (sender, receiver) = bounded(1)?;
    sender.send(0)?;
    let mut waiting = Vec::new();
    for number in 1..4 {
        let (latch, theirs) = pipe()?;
        let child = Process::spawn(send_one, (sender.clone(), number, theirs))?;
        asleep(&child, &latch)?;
        waiting.push(child);
    }
    let last = waiting.pop().unwrap();
    for child in waiting {
        child.kill()?;
        assert!(child.join().is_err());
    }
    assert_eq!(receiver.recv()?, 0);
    assert!(last.join()?);
    assert_eq!(receiver.recv()?, 3);
    assert!(receiver.try_recv().unwrap_err().is_empty());
    Ok(())
}

fn a_stopped_receiver_delays_others_no_longer_than_they_allow() -> Outcome {
    let (sender, receiver) = bounded(2)?;
    let (latch, theirs) = pipe()?;
    let stopped = Process::spawn(receive_one, (receiver.clone(), theirs))?;
    asleep(&stopped, &latch)?;
    send_signal(stopped.pid(), Signal::SIGSTOP);
    wait_for_state(stopped.pid(), 'T');
    sender.send(1)?;
    sender.send(2)?;
    let time = Duration::from_millis(50);
    let start = Instant::now();
    assert!(receiver.recv_timeout(time).unwrap_err().is_timeout());
    assert!(start.elapsed() >= time);
    assert!(receiver.try_recv().unwrap_err().is_empty());
    assert!(sender.try_send(3).unwrap_err().error().is_full());
    send_signal(stopped.pid(), Signal::SIGCONT);
    assert_eq!(stopped.join()?, Some(1));
    assert_eq!(receiver.recv()?, 2);
    assert!(receiver.try_recv().unwrap_err().is_empty());
    Ok(())
}

fn a_stopped_sender_delays_others_no_longer_than_they_allow() -> Outcome {
    let (sender, receiver) = bounded(1)?;
    sender.send(1)?;
    let (latch, theirs) = pipe()?;
    let stopped = Process::spawn(send_one, (sender.clone(), 2, theirs))?;
    asleep(&stopped, &latch)?;
    send_signal(stopped.pid(), Signal::SIGSTOP);
    wait_for_state(stopped.pid(), 'T');
    assert_eq!(receiver.recv()?, 1);
    assert!(receiver.try_recv().unwrap_err().is_empty());
    let time = Duration::from_millis(50);
    let start = Instant::now();
    assert!(sender.send_timeout(3, time).unwrap_err().error().is_timeout());
    assert!(start.elapsed() >= time);
    assert!(sender.try_send(3).unwrap_err().error().is_full());
    send_signal(stopped.pid(), Signal::SIGCONT);
    assert!(stopped.join()?);
    assert_eq!(receiver.recv()?, 2);
    sender.send(4)?;
    assert_eq!(receiver.recv()?, 4);
    Ok(())
}

fn large_items_of_the_killed_are_taken_by_others() -> Outcome {
    let (sender, receiver) = bounded::<Vec<u8>>(100)?;
    let put = |sender: Sender<Vec<u8>>, latch: Latch| {
        (0..20).for_each(|number| sender.send(vec![number; 1024 * 1024]).unwrap());
        crate::support::block(latch);
    };
    let (latch, theirs) = pipe()?;
    let child = Process::spawn(put, (sender, theirs))?;
    assert!(latch.poll(TEST_TIMEOUT)?);
    child.kill()?;
    assert!(child.join().is_err());
    for (number, item) in (0..).zip(&mut receiver.into_iter()) {
        assert!(item? == vec![number; 1024 * 1024]);
        assert!(number < 20);
    }
    Ok(())
}

fn queues_and_pipes_leave_no_descriptor_and_no_mapping_behind() -> Outcome {
    alone(|| {
        let (kept, theirs) = pipe::<u32, u32>()?; // lazily created objects exist now
        drop((kept, theirs, thread::spawn(|| ()).join()));
        let before = resources();
        for _ in 0..10 {
            let (sender, receiver) = bounded::<Vec<u8>>(100)?;
            for size in [1, 100_000, 3_000_000] {
                sender.send(vec![1; size])?;
                sender.send(vec![2; size])?;
                receiver.recv()?;
            }
            let (ours, theirs) = pipe::<Receiver<Vec<u8>>, ()>()?;
            ours.send(receiver.clone())?;
            ours.send(receiver)?;
            drop(theirs.recv()?);
        }
        assert_eq!(resources(), before);
        Ok(())
    })
}

/// The number of descriptors of this process, and of its mappings of shared memory.
fn resources() -> (usize, usize) {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    (read_dir("/proc/self/fd").unwrap().count(), maps.lines().filter(|line| line.contains("memfd:")).count())
}

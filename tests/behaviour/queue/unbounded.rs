//! Unbounded queues: they can be filled before anything reads, and lose nothing with their sender.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;

use multiproc::queue::{Receiver, Sender, unbounded};
use multiproc::{Fd, Process, Result};
use nix::sys::signal::Signal;

use crate::support::{Outcome, TEST_TIMEOUT, alone, eventually, send_signal, trials};

trials![
    it_is_filled_before_anything_reads,
    nothing_is_lost_with_its_sender,
    memory_is_given_back_as_items_are_received,
    it_goes_round,
    killed_receivers_leave_what_they_have_not_taken,
    what_the_kernel_limits_is_an_error_at_once,
];

fn it_is_filled_before_anything_reads() -> Outcome {
    let (sender, receiver) = unbounded()?;
    assert_eq!((sender.capacity(), receiver.capacity()), (None, None));
    for number in 0..300_000_u64 {
        sender.send(number)?;
    }
    sender.send_all(300_000..1_000_000)?;
    assert_eq!(receiver.len(), 1_000_000);
    drop(sender);
    let is_in_order = |receiver: Receiver<u64>| -> Result<bool> {
        Ok(receiver.into_iter().collect::<Result<Vec<_>>>()?.into_iter().eq(0..1_000_000))
    };
    assert!(Process::spawn(is_in_order, (receiver,))?.join()??);
    Ok(())
}

fn nothing_is_lost_with_its_sender() -> Outcome {
    let (sender, receiver) = unbounded::<(u32, String)>()?;
    let (tell, told) = unbounded::<()>()?;
    let fill = |sender: Sender<(u32, String)>, tell: Sender<()>| -> Result<()> {
        for number in 0..2_000 {
            sender.send((number, "x".repeat(20_000)))?;
        }
        tell.send(())?;
        std::thread::park();
        Ok(())
    };
    let child = Process::spawn(fill, (sender, tell))?;
    told.recv_timeout(TEST_TIMEOUT)?;
    child.kill()?;
    eventually("the sender is gone", || !child.is_alive());
    for expected in 0..2_000 {
        let (number, text) = receiver.recv_timeout(TEST_TIMEOUT)?;
        assert_eq!((number, text.len()), (expected, 20_000));
    }
    assert!(receiver.recv_timeout(TEST_TIMEOUT).unwrap_err().is_disconnected());
    Ok(())
}

/// The memory behind all descriptors of this process (bytes).
fn memory() -> u64 {
    let files =
        fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| entry.unwrap().path().metadata().ok());
    files.filter(fs::Metadata::is_file).map(|file| file.blocks() * 512).sum()
}

fn memory_is_given_back_as_items_are_received() -> Outcome {
    alone(|| {
        let before = memory();
        let (sender, receiver) = unbounded()?;
        for _ in 0..2 {
            for number in 0..1_000_u64 {
                sender.send(vec![number; 8_000])?;
            }
            assert!(memory() - before >= 64_000_000, "{}", memory() - before);
            for number in 0..1_000 {
                assert_eq!(receiver.recv()?, vec![number; 8_000]);
            }
            assert!(memory() - before <= 3 * 4 * 1024 * 1024, "{}", memory() - before);
        }
        Ok(())
    })
}

/// More bytes than the ring has.
fn it_goes_round() -> Outcome {
    let (sender, receiver) = unbounded()?;
    let mut expected = 0..;
    for number in 0..1_200_u64 {
        sender.send(vec![number; 250_000])?;
        if receiver.len() > 20 {
            assert_eq!(receiver.recv()?[249_999], expected.next().unwrap());
        }
    }
    drop(sender);
    for numbers in receiver.iter() {
        assert_eq!(numbers?[0], expected.next().unwrap());
    }
    assert_eq!(expected.start, 1_200);
    Ok(())
}

fn killed_receivers_leave_what_they_have_not_taken() -> Outcome {
    let (sender, receiver) = unbounded::<Vec<u64>>()?;
    let take_all = |receiver: Receiver<Vec<u64>>, tell: Sender<u64>| -> Result<()> {
        receiver.iter().try_for_each(|numbers| Ok(tell.send(numbers?[0])?))
    };
    for _ in 0..5 {
        for number in 0..500 {
            sender.send(vec![number; 10_000])?;
        }
        let (tell, told) = unbounded()?;
        let child = Process::spawn(take_all, (receiver.clone(), tell))?;
        for _ in 0..100 {
            told.recv_timeout(TEST_TIMEOUT)?;
        }
        send_signal(child.pid(), Signal::SIGKILL);
        eventually("the receiver is gone", || !child.is_alive());
        let last = told.iter().last().transpose()?.unwrap_or(99);
        let rest: Vec<_> =
            std::iter::from_fn(|| receiver.try_recv().ok()).map(|numbers| numbers[0]).collect();
        let first = rest.first().copied().unwrap_or(500);
        assert!(first == last + 1 || first == last + 2, "at most the one that it had taken: {last}, {first}");
        assert!(rest.into_iter().eq(first..500));
    }
    Ok(())
}

fn what_the_kernel_limits_is_an_error_at_once() -> Outcome {
    alone(|| {
        let (sender, receiver) = unbounded::<(u32, Fd<UnixStream>)>()?;
        let mut sent = 0;
        let refused = loop {
            match sender.send((sent, UnixStream::pair().unwrap().0.into())) {
                Ok(()) => sent += 1,
                Err(refused) => break refused,
            }
        };
        assert!(sent > 50 && refused.error().is_full(), "{sent}: {refused}");
        let refused = sender.send_timeout(refused.into_item(), TEST_TIMEOUT).unwrap_err();
        assert!(refused.error().is_full(), "it did not wait: {refused}");
        for expected in 0..sent {
            assert_eq!(receiver.recv()?.0, expected);
        }
        sender.send(refused.into_item())?;
        assert_eq!(receiver.recv()?.0, sent);
        Ok(())
    })
}

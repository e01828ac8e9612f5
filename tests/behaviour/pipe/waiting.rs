//! Calls that wait: time limits, full and empty pipes, signals, polling.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use multiproc::queue::{Receiver, Sender, bounded};
use multiproc::{Connection, Process, RemoteFn, Result, pipe};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tests::{accept_interruptions, interruptions};

use crate::support::{Latch, Outcome, TEST_TIMEOUT, alone, send_signal, trials, wait_for_state};

trials![
    poll_waits_no_longer_than_its_timeout,
    a_send_into_a_full_pipe_ends_on_time,
    a_full_pipe_refuses_at_once_and_gives_the_message_back,
    a_timed_receive_from_an_empty_pipe_ends_on_time,
    an_empty_pipe_and_its_end_are_told_apart_at_once,
    each_end_counts_the_messages_that_wait_for_it,
    a_call_that_is_interrupted_is_retried,
    its_descriptor_is_readable_exactly_while_a_message_is_there,
    its_descriptor_wakes_a_poller,
];

fn poll_waits_no_longer_than_its_timeout() -> Outcome {
    let (ours, theirs) = pipe::<u32, u32>()?;
    let time = Duration::from_millis(50);
    let start = Instant::now();
    assert!(!ours.poll(Duration::ZERO)?);
    assert!(!ours.poll(time)?);
    assert!(start.elapsed() >= time);
    let child = Process::spawn(|peer: Connection<u32, u32>| peer.send(1), (theirs,))?;
    assert!(ours.poll(TEST_TIMEOUT)?, "the message");
    assert_eq!(ours.recv()?, 1);
    child.join()??;
    assert!(ours.poll(Duration::MAX)?, "the end");
    Ok(())
}

fn a_send_into_a_full_pipe_ends_on_time() -> Outcome {
    let (ours, theirs) = pipe::<Vec<u8>, ()>()?;
    let time = Duration::from_millis(50);
    let mut sent = 0;
    let (late, waited) = loop {
        let start = Instant::now();
        match ours.send_timeout(vec![1; 1000], time) {
            Ok(()) => sent += 1,
            Err(error) => break (error, start.elapsed()),
        }
    };
    assert!(late.error().is_timeout(), "{late}");
    assert_eq!(late.into_item(), [1; 1000]);
    assert!(waited >= time);
    drop(ours);
    let received = theirs.iter().map(Result::unwrap).count();
    assert_eq!(received, sent);
    Ok(())
}

fn a_full_pipe_refuses_at_once_and_gives_the_message_back() -> Outcome {
    let (ours, theirs) = pipe::<String, ()>()?;
    let message = || "m".repeat(1000);
    // The other end receives nothing, so a call that waited for room would not return.
    let sent = std::iter::repeat_with(|| ours.try_send(message())).take_while(Result::is_ok).count();
    assert!(sent > 100 && sent == theirs.len(), "{sent} messages");
    let refused = ours.try_send(message()).unwrap_err();
    assert!(refused.error().is_full() && !refused.error().is_timeout(), "{refused}");
    assert_eq!(refused.to_string(), "cannot send: the pipe is full");
    assert_eq!(refused.into_item(), message());
    (0..sent).try_for_each(|_| theirs.recv().map(drop))?;
    Ok(ours.try_send(message())?)
}

fn a_timed_receive_from_an_empty_pipe_ends_on_time() -> Outcome {
    let (ours, theirs) = pipe::<u32, u32>()?;
    let time = Duration::from_millis(50);
    let start = Instant::now();
    let late = ours.recv_timeout(time).unwrap_err();
    assert!(start.elapsed() >= time);
    assert!(late.is_timeout() && !late.is_empty() && !late.is_disconnected(), "{late}");
    let child = Process::spawn(|peer: Connection<u32, u32>| peer.send(1), (theirs,))?;
    assert_eq!(ours.recv_timeout(Duration::MAX)?, 1);
    assert!(ours.recv_timeout(Duration::MAX).unwrap_err().is_disconnected());
    Ok(child.join()??)
}

fn an_empty_pipe_and_its_end_are_told_apart_at_once() -> Outcome {
    let (ours, theirs) = pipe::<u32, u32>()?;
    let nothing = ours.try_recv().unwrap_err();
    assert!(nothing.is_empty() && !nothing.is_timeout() && !nothing.is_disconnected(), "{nothing}");
    theirs.send(1)?;
    drop(theirs);
    assert_eq!(ours.try_recv()?, 1);
    let end = ours.try_recv().unwrap_err();
    assert!(end.is_disconnected() && !end.is_empty(), "{end}");
    Ok(())
}

fn each_end_counts_the_messages_that_wait_for_it() -> Outcome {
    let (ours, theirs) = pipe::<u32, u32>()?;
    assert!(ours.is_empty() && theirs.is_empty());
    let send_three = |peer: Connection<u32, u32>| (0..3).try_for_each(|number| peer.send(number));
    Process::spawn(send_three, (theirs,))?.join()??;
    assert_eq!((ours.len(), ours.is_empty()), (3, false));
    ours.recv()?;
    assert_eq!(ours.len(), 2);
    Ok(())
}

fn a_call_that_is_interrupted_is_retried() -> Outcome {
    let (number, theirs) = pipe::<u32, ()>()?;
    let recv = |ready: Latch, peer: Connection<(), u32>| interrupted(&ready, || peer.recv().unwrap());
    assert_eq!(while_interrupted(recv, theirs, || number.send(7).unwrap())?, 7);

    let (number, theirs) = pipe::<u32, ()>()?;
    let poll =
        |ready: Latch, peer: Connection<(), u32>| interrupted(&ready, || peer.poll(Duration::MAX).unwrap());
    assert!(while_interrupted(poll, theirs, || number.send(7).unwrap())?);

    let (number, theirs) = bounded::<u32>(1)?;
    let recv = |ready: Latch, numbers: Receiver<u32>| interrupted(&ready, || numbers.recv().unwrap());
    assert_eq!(while_interrupted(recv, theirs.clone(), || number.send(7).unwrap())?, 7);
    let recv = |ready: Latch, numbers: Receiver<u32>| {
        interrupted(&ready, || numbers.recv_timeout(Duration::MAX).unwrap())
    };
    assert_eq!(while_interrupted(recv, theirs.clone(), || number.send(7).unwrap())?, 7);

    number.send(7)?;
    let send = |ready: Latch, numbers: Sender<u32>| interrupted(&ready, || numbers.send(8).is_ok());
    assert!(while_interrupted(send, number, || assert_eq!(theirs.recv().unwrap(), 7))?);
    assert_eq!(theirs.recv()?, 8);
    Ok(())
}

/// Runs `wait` while signals interrupt it. Returns its value and the number of interruptions.
fn interrupted<T>(ready: &Latch, wait: impl FnOnce() -> T) -> (T, u32) {
    accept_interruptions();
    ready.send(()).unwrap();
    let value = wait();
    (value, interruptions())
}

/// Runs a task that ends in [`interrupted`], interrupts it while it waits, then lets it have what it waits
/// for.
fn while_interrupted<F, End, T>(task: F, end: End, release: impl FnOnce()) -> Result<T>
where
    F: RemoteFn<(Latch, End), Output = (T, u32)>,
    End: Serialize + DeserializeOwned,
    T: Serialize + DeserializeOwned,
{
    let (ready, theirs) = pipe()?;
    let child = Process::spawn(task, (theirs, end))?;
    ready.recv()?;
    for _ in 0..10 {
        wait_for_state(child.pid(), 'S');
        send_signal(child.pid(), Signal::SIGUSR1);
    }
    release();
    let (value, interruptions) = child.join()?;
    assert!(interruptions > 0);
    Ok(value)
}

/// Whether the descriptor of an end can be read.
fn is_readable(end: &impl AsFd, timeout: PollTimeout) -> bool {
    let mut polled = [PollFd::new(end.as_fd(), PollFlags::POLLIN)];
    poll(&mut polled, timeout).unwrap() > 0
}

fn its_descriptor_is_readable_exactly_while_a_message_is_there() -> Outcome {
    alone(|| {
        let now = PollTimeout::ZERO;
        let (ours, theirs) = pipe::<Vec<u8>, ()>()?;
        ours.send(vec![0])?;
        assert!(is_readable(&theirs, now), "the message was there before anybody asked");
        for size in [0, 1, 40_000, 2_000_000] {
            theirs.recv()?;
            assert!(!is_readable(&theirs, now));
            assert!(!theirs.poll(Duration::ZERO)?);
            assert!(!is_readable(&theirs, now));
            ours.send(vec![1; size])?;
            ours.send(vec![2; size])?;
            assert!(is_readable(&theirs, now));
            assert_eq!(theirs.recv()?, vec![1; size]);
            assert!(is_readable(&theirs, now), "one of two is left");
            assert!(theirs.poll(Duration::ZERO)?);
            assert!(is_readable(&theirs, now));
        }
        drop(ours);
        theirs.recv()?;
        assert!(is_readable(&theirs, now), "the end");
        assert!(theirs.recv().unwrap_err().is_disconnected());
        assert!(is_readable(&theirs, now), "still the end");
        Ok(())
    })
}

fn its_descriptor_wakes_a_poller() -> Outcome {
    let (ours, theirs) = pipe::<u32, u32>()?;
    let echo_by_poll = |peer: Connection<u32, u32>| -> Result<()> {
        while is_readable(&peer, PollTimeout::NONE) {
            match peer.recv() {
                Err(error) if error.is_disconnected() => break,
                number => peer.send(number?)?,
            }
        }
        Ok(())
    };
    let child = Process::spawn(echo_by_poll, (theirs,))?;
    for number in 0..1000 {
        ours.send(number)?;
        assert_eq!(ours.recv()?, number);
    }
    for number in 0..20 {
        wait_for_state(child.pid(), 'S');
        ours.send(number)?;
        assert_eq!(ours.recv()?, number);
    }
    drop(ours);
    Ok(child.join()??)
}

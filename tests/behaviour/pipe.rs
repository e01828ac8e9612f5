//! **Pipe**: two ends, each of which sends one type of message and receives another.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use multiproc::queue::{Receiver, Sender, bounded};
use multiproc::{Connection, Process, RemoteFn, Result, pipe};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tests::{accept_interruptions, interruptions};

use crate::support::{
    BadValue, Latch, Outcome, PATIENCE, alone, blocked_child, send_signal, trials, wait_for_state,
};

trials![
    a_typed_round_trip,
    a_byte_round_trip,
    boundaries_are_kept,
    an_empty_message_is_not_the_end,
    two_children_talk_to_each_other,
    poll_waits_no_longer_than_its_timeout,
    a_send_into_a_full_pipe_ends_on_time,
    a_full_pipe_refuses_at_once_and_gives_the_message_back,
    a_timed_receive_from_an_empty_pipe_ends_on_time,
    an_empty_pipe_and_its_end_are_told_apart_at_once,
    each_end_counts_the_messages_that_wait_for_it,
    the_iteration_goes_on_after_a_message_that_does_not_decode,
    the_stream_ends_after_the_peer_has_closed,
    the_stream_ends_after_the_peer_was_killed,
    a_send_to_a_peer_that_is_gone_is_an_error,
    a_send_to_a_peer_that_was_killed_while_it_waited_is_an_error_at_once,
    a_message_that_does_not_encode_is_refused_and_nothing_of_it_is_left,
    a_message_that_does_not_decode_does_not_spoil_the_next,
    a_connection_sent_through_a_connection_works,
    the_ends_of_a_queue_sent_through_a_connection_work,
    a_call_that_is_interrupted_is_retried,
    its_descriptor_is_readable_exactly_while_a_message_is_there,
    its_descriptor_wakes_who_polls_it,
    a_message_of_any_size_comes_with_its_descriptors,
];

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Request {
    Reverse(String),
    Sum { numbers: Vec<i64> },
    Stop,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Reply {
    text: Option<String>,
    number: i64,
}

fn serve(requests: Connection<Reply, Request>) -> Result<u32> {
    for served in 0.. {
        let reply = match requests.recv()? {
            Request::Reverse(text) => Reply { text: Some(text.chars().rev().collect()), number: 0 },
            Request::Sum { numbers } => Reply { text: None, number: numbers.iter().sum() },
            Request::Stop => return Ok(served),
        };
        requests.send(reply)?;
    }
    unreachable!("the numbers do not end")
}

fn a_typed_round_trip() -> Outcome {
    let (ours, theirs) = pipe()?;
    let child = Process::spawn(serve, (theirs,))?;
    ours.send(Request::Reverse("añb".to_owned()))?;
    assert_eq!(ours.recv()?, Reply { text: Some("bña".to_owned()), number: 0 });
    ours.send(Request::Sum { numbers: vec![i64::MIN, i64::MAX] })?;
    assert_eq!(ours.recv()?, Reply { text: None, number: -1 });
    ours.send(Request::Stop)?;
    assert_eq!(child.join()??, 2);
    Ok(())
}

/// Sends back whatever comes.
fn echo(messages: Connection<Vec<u8>, Vec<u8>>) -> Result<()> {
    for bytes in messages.iter() {
        let bytes = bytes?;
        messages.send(bytes)?;
    }
    Ok(())
}

fn a_byte_round_trip() -> Outcome {
    let (ours, theirs) = pipe::<Vec<u8>, Vec<u8>>()?;
    let child = Process::spawn(echo, (theirs,))?;
    for size in [0, 1, 1000, 32 * 1024 - 4, 32 * 1024 + 1, 200_000, 2_000_000] {
        let bytes: Vec<u8> = (0..=250).cycle().take(size).collect();
        ours.send(bytes.clone())?;
        assert!(ours.recv()? == bytes, "{size} bytes");
    }
    drop(ours);
    Ok(child.join()??)
}

fn boundaries_are_kept() -> Outcome {
    let (ours, theirs) = pipe::<Vec<u8>, Vec<u8>>()?;
    let child = Process::spawn(echo, (theirs,))?;
    let messages: Vec<Vec<u8>> = (0..100).map(|i| vec![i; usize::from(i % 7)]).collect();
    for message in &messages {
        ours.send(message.clone())?; // all of them before one is taken: they must not run together
    }
    for message in messages {
        assert_eq!(ours.recv()?, message);
    }
    drop(ours);
    Ok(child.join()??)
}

fn an_empty_message_is_not_the_end() -> Outcome {
    let (ours, theirs) = pipe::<(), ()>()?;
    ours.send(())?;
    ours.send(())?;
    drop(ours);
    assert!(theirs.poll(Duration::ZERO)?);
    assert_eq!(theirs.len(), 2);
    assert_eq!(theirs.iter().collect::<Result<Vec<()>>>()?.len(), 2);
    assert!(theirs.recv().unwrap_err().is_disconnected());
    Ok(())
}

fn two_children_talk_to_each_other() -> Outcome {
    let (left, right) = pipe::<u32, u32>()?;
    let ask = |peer: Connection<u32, u32>| -> Result<_> {
        peer.send(20)?;
        peer.recv()
    };
    let double = |peer: Connection<u32, u32>| -> Result<()> { Ok(peer.send(2 * peer.recv()?)?) };
    let asker = Process::spawn(ask, (left,))?;
    let answerer = Process::spawn(double, (right,))?;
    assert_eq!(asker.join()??, 40);
    Ok(answerer.join()??)
}

fn poll_waits_no_longer_than_its_timeout() -> Outcome {
    let (ours, theirs) = pipe::<u32, u32>()?;
    let time = Duration::from_millis(50);
    let start = Instant::now();
    assert!(!ours.poll(Duration::ZERO)?);
    assert!(!ours.poll(time)?);
    assert!(start.elapsed() >= time);
    let child = Process::spawn(|peer: Connection<u32, u32>| peer.send(1), (theirs,))?;
    assert!(ours.poll(PATIENCE)?, "the message");
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

fn the_iteration_goes_on_after_a_message_that_does_not_decode() -> Outcome {
    let (ours, theirs) = pipe::<BadValue, ()>()?;
    for message in [BadValue::Fine(1), BadValue::Undecodable, BadValue::Fine(2)] {
        ours.send(message)?;
    }
    drop(ours);
    let messages: Vec<Option<BadValue>> = theirs.iter().map(Result::ok).collect();
    assert_eq!(messages, [Some(BadValue::Fine(1)), None, Some(BadValue::Fine(2))]);
    Ok(())
}

fn the_stream_ends_after_the_peer_has_closed() -> Outcome {
    let (ours, theirs) = pipe::<(), u32>()?;
    let send_two = |peer: Connection<u32, ()>| -> Result<()> {
        peer.send(1)?;
        Ok(peer.send(2)?)
    };
    Process::spawn(send_two, (theirs,))?.join()??;
    assert_eq!((ours.recv()?, ours.try_recv()?), (1, 2));
    for ended in [ours.recv(), ours.recv(), ours.try_recv(), ours.recv_timeout(PATIENCE)] {
        assert!(ended.unwrap_err().is_disconnected());
    }
    Ok(())
}

fn the_stream_ends_after_the_peer_was_killed() -> Outcome {
    let (child, gate) = blocked_child()?;
    assert!(!gate.poll(Duration::ZERO)?);
    child.kill()?;
    assert!(gate.recv().unwrap_err().is_disconnected());
    Ok(())
}

fn a_send_to_a_peer_that_is_gone_is_an_error() -> Outcome {
    alone(|| {
        let (child, gate) = blocked_child()?;
        child.kill()?;
        assert!(child.join().is_err());
        for refused in [gate.send(()), gate.try_send(()), gate.send_timeout((), PATIENCE)] {
            assert!(refused.unwrap_err().error().is_disconnected());
        }
        Ok(())
    })
}

/// However many messages it has answered before.
fn a_send_to_a_peer_that_was_killed_while_it_waited_is_an_error_at_once() -> Outcome {
    alone(|| {
        for messages in [1, 2, 100, 130, 150] {
            let (ours, theirs) = pipe::<Vec<u8>, Vec<u8>>()?;
            let child = Process::spawn(echo, (theirs,))?;
            for _ in 0..messages {
                ours.send(vec![1])?;
                assert_eq!(ours.recv()?, vec![1]);
            }
            wait_for_state(child.pid(), 'S');
            child.kill()?;
            assert!(child.join().is_err());
            assert!(
                ours.send(vec![1]).is_err_and(|refused| refused.error().is_disconnected()),
                "after {messages}"
            );
        }
        Ok(())
    })
}

fn a_message_that_does_not_encode_is_refused_and_nothing_of_it_is_left() -> Outcome {
    let (ours, theirs) = pipe::<(u32, BadValue), ()>()?;
    let refused = ours.send((1, BadValue::Unencodable)).unwrap_err();
    assert!(refused.error().is_codec());
    assert_eq!(refused.into_item(), (1, BadValue::Unencodable));
    assert!(!theirs.poll(Duration::ZERO)?);
    ours.send((2, BadValue::Fine(3)))?;
    assert_eq!(theirs.recv()?, (2, BadValue::Fine(3)));
    Ok(())
}

fn a_message_that_does_not_decode_does_not_spoil_the_next() -> Outcome {
    let (ours, theirs) = pipe::<BadValue, ()>()?;
    ours.send(BadValue::Undecodable)?;
    ours.send(BadValue::Fine(1))?;
    assert!(theirs.recv().unwrap_err().is_codec());
    assert_eq!(theirs.recv()?, BadValue::Fine(1));
    Ok(())
}

fn a_connection_sent_through_a_connection_works() -> Outcome {
    type Line = Connection<Vec<u8>, Vec<u8>>;
    let (ours, theirs) = pipe::<(String, Line), ()>()?;
    let take_and_echo = |lines: Connection<(), (String, Line)>| -> Result<String> {
        let (name, line) = lines.recv()?;
        echo(line)?;
        Ok(name)
    };
    let child = Process::spawn(take_and_echo, (theirs,))?;
    let (line, far_end) = pipe()?;
    ours.send(("line 1".to_owned(), far_end))?;
    line.send(b"hello".to_vec())?;
    assert_eq!(line.recv()?, b"hello");
    drop(line);
    assert_eq!(child.join()??, "line 1");
    Ok(())
}

fn the_ends_of_a_queue_sent_through_a_connection_work() -> Outcome {
    type Ends = (Receiver<u32>, Sender<u32>);
    let (ours, theirs) = pipe::<Ends, ()>()?;
    let double_all = |ends: Connection<(), Ends>| -> Result<()> {
        let (numbers, doubles) = ends.recv()?;
        numbers.into_iter().try_for_each(|number| Ok(doubles.send(2 * number?)?))
    };
    let child = Process::spawn(double_all, (theirs,))?;
    let (numbers, taken) = bounded(2)?;
    let (put, doubles) = bounded(2)?;
    ours.send((taken, put))?;
    for number in 0..10 {
        numbers.send(number)?;
        assert_eq!(doubles.recv()?, 2 * number);
    }
    drop(numbers);
    assert!(doubles.recv().unwrap_err().is_disconnected());
    Ok(child.join()??)
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

/// What a task returns that was interrupted while it waited with `wait`; and how often it was.
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

fn its_descriptor_wakes_who_polls_it() -> Outcome {
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

fn a_message_of_any_size_comes_with_its_descriptors() -> Outcome {
    let (ours, theirs) = pipe::<(Vec<u8>, Receiver<u32>), ()>()?;
    for (number, size) in (0..).zip([0, 10_000, 600_000, 2_000_000]) {
        let (sender, receiver) = bounded(1)?;
        sender.send(number)?;
        ours.send((vec![3; size], receiver))?;
    }
    for (number, size) in (0..).zip([0, 10_000, 600_000, 2_000_000]) {
        let (bytes, receiver) = theirs.recv()?;
        assert!(bytes == vec![3; size]);
        assert_eq!(receiver.recv()?, number);
    }
    Ok(())
}

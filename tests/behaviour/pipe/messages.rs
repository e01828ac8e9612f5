//! Messages there and back: types, bytes, boundaries, descriptors.

use std::time::Duration;

use multiproc::queue::{Receiver, Sender, bounded};
use multiproc::{Connection, Process, Result, pipe};
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

use super::echo;
use crate::support::{BadValue, Outcome, TEST_TIMEOUT, alone, descriptors, trials};

trials![
    a_typed_round_trip,
    a_byte_round_trip,
    boundaries_are_kept,
    an_empty_message_is_not_the_end,
    two_children_talk_to_each_other,
    the_iteration_goes_on_after_a_message_that_does_not_decode,
    an_error_that_takes_no_message_ends_the_iteration,
    a_message_that_does_not_encode_is_refused_and_nothing_of_it_is_left,
    a_message_that_does_not_decode_does_not_spoil_the_next,
    a_connection_sent_through_a_connection_works,
    the_ends_of_a_queue_sent_through_a_connection_work,
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

/// Otherwise `flatten`, which skips errors, would meet the same error without end.
fn an_error_that_takes_no_message_ends_the_iteration() -> Outcome {
    alone(|| {
        let (ours, theirs) = pipe::<Vec<u8>, ()>()?;
        ours.send(vec![1; 3_000_000])?;
        ours.send(vec![2])?;
        let (limit, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, descriptors().len() as u64, hard).unwrap();
        assert_eq!(theirs.iter().flatten().count(), 0);
        assert_eq!(theirs.iter_timeout(TEST_TIMEOUT).flatten().count(), 0);
        let mut messages = theirs.iter();
        let error = messages.next().unwrap().unwrap_err();
        assert_eq!(error.os_error(), Some(Errno::EMFILE as i32), "{error}");
        setrlimit(Resource::RLIMIT_NOFILE, limit, hard).unwrap();
        assert!(messages.next().is_none());
        drop((messages, ours));
        assert!(theirs.iter().collect::<Result<Vec<_>>>()? == [vec![1; 3_000_000], vec![2]]);
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

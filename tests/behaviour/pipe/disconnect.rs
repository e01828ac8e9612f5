//! A peer that has closed its end, or was killed.

use std::thread;
use std::time::Duration;

use multiproc::{Connection, Process, Result, pipe};

use super::echo;
use crate::support::{METHODS, Outcome, TEST_TIMEOUT, alone, blocked_child, trials, wait_for_state};

trials![
    the_stream_ends_after_the_peer_has_closed,
    the_stream_ends_after_the_peer_was_killed,
    a_send_to_a_peer_that_is_gone_is_an_error,
    a_close_ends_both_directions_for_all,
    a_close_wakes_both_ends,
    a_timeout_ends_an_iteration,
    a_send_to_a_peer_that_was_killed_while_it_waited_is_an_error_at_once,
];

fn the_stream_ends_after_the_peer_has_closed() -> Outcome {
    let (ours, theirs) = pipe::<(), u32>()?;
    let send_two = |peer: Connection<u32, ()>| -> Result<()> {
        peer.send(1)?;
        Ok(peer.send(2)?)
    };
    Process::spawn(send_two, (theirs,))?.join()??;
    assert_eq!((ours.recv()?, ours.try_recv()?), (1, 2));
    for ended in [ours.recv(), ours.recv(), ours.try_recv(), ours.recv_timeout(TEST_TIMEOUT)] {
        assert!(ended.unwrap_err().is_disconnected());
    }
    Ok(())
}

fn the_stream_ends_after_the_peer_was_killed() -> Outcome {
    let (child, latch) = blocked_child()?;
    assert!(!latch.poll(Duration::ZERO)?);
    child.kill()?;
    assert!(latch.recv().unwrap_err().is_disconnected());
    Ok(())
}

fn a_send_to_a_peer_that_is_gone_is_an_error() -> Outcome {
    alone(|| {
        let (child, latch) = blocked_child()?;
        child.kill()?;
        assert!(child.join().is_err());
        for refused in [latch.send(()), latch.try_send(()), latch.send_timeout((), TEST_TIMEOUT)] {
            assert!(refused.unwrap_err().error().is_disconnected());
        }
        Ok(())
    })
}

/// Also for ends in other processes, and for messages that were there before.
fn a_close_ends_both_directions_for_all() -> Outcome {
    for method in METHODS {
        let (ours, theirs) = pipe::<u32, u32>()?;
        theirs.send(1)?;
        ours.send(2)?;
        let close = |theirs: Connection<u32, u32>| {
            theirs.close();
            let refused = theirs.send(3).unwrap_err().error().is_disconnected();
            (theirs.iter().collect::<Result<Vec<_>>>(), refused)
        };
        let child = Process::builder().start_method(method).spawn(close, (theirs,))?;
        let (received, refused) = child.join()?;
        assert_eq!((received?, refused), (vec![2], true));
        assert!(ours.send(3).unwrap_err().error().is_disconnected());
        assert!(ours.try_send(3).unwrap_err().error().is_disconnected());
        assert_eq!(ours.iter().collect::<Result<Vec<_>>>()?, [1]);
        ours.close();
        assert!(ours.try_recv().unwrap_err().is_disconnected());
    }
    Ok(())
}

fn a_close_wakes_both_ends() -> Outcome {
    for method in METHODS {
        let (ours, theirs) = pipe::<(), ()>()?;
        let receive = |theirs: Connection<(), ()>| theirs.recv();
        let mut child = Process::builder().start_method(method).spawn(receive, (theirs,))?;
        wait_for_state(child.pid(), 'S');
        ours.close();
        assert!(child.join_timeout(TEST_TIMEOUT)?.unwrap().unwrap_err().is_disconnected());
        let (ours, theirs) = pipe::<(), ()>()?;
        thread::scope(|scope| {
            let receives = scope.spawn(|| ours.recv_timeout(TEST_TIMEOUT));
            ours.close(); // the outcome is the same if it does not wait by now
            assert!(receives.join().unwrap().unwrap_err().is_disconnected());
        });
        drop(theirs);
    }
    Ok(())
}

fn a_timeout_ends_an_iteration() -> Outcome {
    let (ours, theirs) = pipe::<u32, u32>()?;
    theirs.send(1)?;
    let messages: Vec<_> = ours.iter_timeout(Duration::from_millis(20)).collect();
    assert!(matches!(&messages[..], [Ok(1), Err(late)] if late.is_timeout()), "{messages:?}");
    theirs.send(2)?;
    drop(theirs);
    assert_eq!(ours.iter_timeout(TEST_TIMEOUT).collect::<Result<Vec<_>>>()?, [2]);
    Ok(())
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

//! A peer that has closed its end, or was killed.

use std::time::Duration;

use multiproc::{Connection, Process, Result, pipe};

use super::echo;
use crate::support::{Outcome, TEST_TIMEOUT, alone, blocked_child, trials, wait_for_state};

trials![
    the_stream_ends_after_the_peer_has_closed,
    the_stream_ends_after_the_peer_was_killed,
    a_send_to_a_peer_that_is_gone_is_an_error,
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

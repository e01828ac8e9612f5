//! Items that cannot be encoded, decoded or received.

use multiproc::Result;
use multiproc::queue::{Sender, bounded};
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::support::{BadValue, Outcome, alone, descriptors, trials};

trials![
    an_item_that_does_not_encode_is_refused_and_nothing_of_it_is_left,
    an_item_that_does_not_decode_does_not_end_the_iteration,
    an_end_of_a_queue_is_an_item,
    an_item_for_which_there_is_no_descriptor_stays,
    an_error_that_takes_no_item_ends_the_iteration,
];

fn an_item_that_does_not_encode_is_refused_and_nothing_of_it_is_left() -> Outcome {
    let (sender, receiver) = bounded(1)?;
    for number in 0..20 {
        let refused = sender.send((number, BadValue::Unencodable)).unwrap_err();
        assert!(refused.error().is_codec(), "{refused}");
        assert_eq!(refused.into_item(), (number, BadValue::Unencodable));
        assert_eq!(sender.len(), 0);
        assert!(receiver.try_recv().unwrap_err().is_empty());
        sender.try_send((number, BadValue::Fine(1)))?;
        assert_eq!(receiver.recv()?, (number, BadValue::Fine(1)));
    }
    Ok(())
}

fn an_item_that_does_not_decode_does_not_end_the_iteration() -> Outcome {
    let (sender, receiver) = bounded(3)?;
    for item in [BadValue::Fine(1), BadValue::Undecodable, BadValue::Fine(2)] {
        sender.try_send(item)?;
    }
    drop(sender);
    let items: Vec<Option<BadValue>> = receiver.into_iter().map(Result::ok).collect();
    assert_eq!(items, [Some(BadValue::Fine(1)), None, Some(BadValue::Fine(2))]);
    Ok(())
}

fn an_end_of_a_queue_is_an_item() -> Outcome {
    let (sender, receiver) = bounded::<Sender<u32>>(1)?;
    let (item, inner) = bounded(1)?;
    sender.send(item)?;
    receiver.recv()?.send(7)?;
    assert_eq!(inner.recv()?, 7);
    assert!(inner.recv().unwrap_err().is_disconnected(), "the one that was sent is dropped");
    drop(sender);
    assert!(receiver.recv().unwrap_err().is_disconnected());
    Ok(())
}

fn an_item_for_which_there_is_no_descriptor_stays() -> Outcome {
    alone(|| {
        let (sender, receiver) = bounded::<Vec<u8>>(10)?;
        sender.send(vec![1; 3_000_000])?;
        let (limit, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, descriptors().len() as u64, hard).unwrap();
        for _ in 0..2 {
            let error = receiver.recv().unwrap_err();
            assert_eq!(error.os_error(), Some(Errno::EMFILE as i32), "{error}");
            assert_eq!(sender.len(), 1);
        }
        assert!(sender.send(vec![2; 3_000_000]).unwrap_err().error().os_error().is_some());
        sender.send(vec![3])?;
        setrlimit(Resource::RLIMIT_NOFILE, limit, hard).unwrap();
        assert!(receiver.recv()? == vec![1; 3_000_000]);
        assert_eq!(receiver.recv()?, [3]);
        Ok(())
    })
}

/// Otherwise `flatten`, which skips errors, would meet the same error without end.
fn an_error_that_takes_no_item_ends_the_iteration() -> Outcome {
    alone(|| {
        let (sender, receiver) = bounded::<Vec<u8>>(10)?;
        sender.send(vec![1; 3_000_000])?;
        sender.send(vec![2])?;
        let (limit, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, descriptors().len() as u64, hard).unwrap();
        assert_eq!(receiver.iter().flatten().count(), 0);
        assert_eq!(receiver.clone().into_iter().flatten().count(), 0);
        let mut items = receiver.iter();
        let error = items.next().unwrap().unwrap_err();
        assert_eq!(error.os_error(), Some(Errno::EMFILE as i32), "{error}");
        setrlimit(Resource::RLIMIT_NOFILE, limit, hard).unwrap();
        assert!(items.next().is_none());
        drop((items, sender));
        assert!(receiver.iter().collect::<Result<Vec<_>>>()? == [vec![1; 3_000_000], vec![2]]);
        Ok(())
    })
}

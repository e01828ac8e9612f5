//! Batches: `send_all` and `recv_many`.

use multiproc::queue::{Receiver, Sender, bounded};
use multiproc::{Error, Process, Result};

use crate::support::{BadValue, Outcome, alone, trials};

trials![
    many_items_go_in_and_come_out_in_order,
    a_batch_that_cannot_be_sent_is_given_back,
    a_batch_ends_before_an_item_that_does_not_encode,
    an_item_that_does_not_decode_harms_no_other_of_its_batch,
];

fn many_items_go_in_and_come_out_in_order() -> Outcome {
    for capacity in [3, 100_000] {
        let (sender, receiver) = bounded(capacity)?;
        let produce =
            |sender: Sender<u32>| sender.send_all((0..20_000).filter(|n| n % 3 > 0)).map_err(Error::from);
        let producer = Process::spawn(produce, (sender,))?;
        assert!(receiver.recv_many(0)?.is_empty());
        let mut expected = (0..20_000).filter(|n| n % 3 > 0);
        while let Ok(items) = receiver.recv_many(1000) {
            assert!((1..=1000).contains(&items.len()));
            for item in items {
                assert_eq!(Some(item?), expected.next());
            }
        }
        assert_eq!(expected.next(), None);
        assert!(receiver.recv_many(1).unwrap_err().is_disconnected());
        producer.join()??;
    }
    Ok(())
}

fn a_batch_that_cannot_be_sent_is_given_back() -> Outcome {
    alone(|| {
        let (sender, receiver) = bounded(10)?;
        let take_three = |receiver: Receiver<u32>| receiver.recv_many(3).map(|items| items.len());
        let consumer = Process::spawn(take_three, (receiver,))?;
        let mut numbers = 0..5_000;
        let refused = sender.send_all(&mut numbers).unwrap_err();
        assert!(refused.error().is_disconnected(), "{refused}");
        assert!((1..=3).contains(&consumer.join()??));
        let rest = refused.into_item();
        // All items that were taken and not sent are here; the iterator has the others.
        assert!(!rest.is_empty() && rest[0] >= 10 && rest[0] <= 13, "{rest:?}");
        assert!(rest.iter().copied().chain(numbers).eq(rest[0]..5_000));
        Ok(())
    })
}

fn a_batch_ends_before_an_item_that_does_not_encode() -> Outcome {
    let (sender, receiver) = bounded(10)?;
    let mut items =
        vec![BadValue::Fine(1), BadValue::Fine(2), BadValue::Unencodable, BadValue::Fine(3)].into_iter();
    let refused = sender.send_all(&mut items).unwrap_err();
    assert!(refused.error().is_codec(), "{refused}");
    assert_eq!(refused.into_item(), [BadValue::Unencodable]);
    assert_eq!(items.collect::<Vec<_>>(), [BadValue::Fine(3)]);
    let arrived: Vec<BadValue> = receiver.recv_many(10)?.into_iter().collect::<Result<_>>()?;
    assert_eq!(arrived, [BadValue::Fine(1), BadValue::Fine(2)]);

    drop(receiver); // if neither the batch nor the item can be sent, all are given back
    let refused = sender.send_all([BadValue::Fine(1), BadValue::Unencodable, BadValue::Fine(3)]).unwrap_err();
    assert!(refused.error().is_disconnected(), "{refused}");
    assert_eq!(refused.into_item(), [BadValue::Fine(1), BadValue::Unencodable]);
    Ok(())
}

fn an_item_that_does_not_decode_harms_no_other_of_its_batch() -> Outcome {
    let (sender, receiver) = bounded(10)?;
    sender.send_all([BadValue::Fine(1), BadValue::Undecodable, BadValue::Fine(2)]).map_err(Error::from)?;
    let items: Vec<Option<BadValue>> = receiver.recv_many(10)?.into_iter().map(Result::ok).collect();
    assert_eq!(items, [Some(BadValue::Fine(1)), None, Some(BadValue::Fine(2))]);
    Ok(())
}

//! Values that fail or panic to encode, decode or drop: one clear error each, and everything else goes on.

use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use multiproc::pool::TaskHandle;
use multiproc::queue::Receiver;
use multiproc::{Error, Pool, Process, RemoteFn, Result, pipe, queue};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

use crate::support::{Outcome, TEST_TIMEOUT, eventually, trials};

trials![
    a_bad_value_is_an_error_of_its_item_as_a_result_of_every_call,
    a_bad_value_is_an_error_of_its_item_as_an_argument_of_every_call,
    an_argument_that_panics_to_encode_or_drop_is_the_callers_panic_and_no_more,
    a_bad_value_is_an_error_of_join,
    bad_values_in_a_queue_are_errors_of_their_own,
    bad_values_in_a_pipe_are_errors_of_their_own,
    bad_values_that_are_not_asked_for_are_not_decoded,
];

/// The defect of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Defect {
    None,
    FailsToEncode,
    PanicsToEncode,
    FailsToDecode,
    PanicsToDecode,
    /// In any process but the one with this id.
    PanicsToDropOutside(u32),
    PanicsToDropIn(u32),
}

#[derive(Debug, PartialEq)]
struct BadSerde(Defect);

impl Serialize for BadSerde {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self.0 {
            Defect::FailsToEncode => Err(ser::Error::custom("I stay at home")),
            Defect::PanicsToEncode => panic!("the suitcase is broken"),
            defect => defect.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for BadSerde {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        match Defect::deserialize(deserializer)? {
            Defect::FailsToDecode => Err(de::Error::custom("I do not feel at home")),
            Defect::PanicsToDecode => panic!("the suitcase does not open"),
            defect => Ok(Self(defect)),
        }
    }
}

impl Drop for BadSerde {
    fn drop(&mut self) {
        let own = std::process::id();
        let panics = match self.0 {
            Defect::PanicsToDropOutside(pid) => own != pid,
            Defect::PanicsToDropIn(pid) => own == pid,
            _ => false,
        };
        assert!(!panics || thread::panicking(), "the suitcase falls");
    }
}

/// Every third is fine, and all defects are there.
fn defects() -> Vec<Defect> {
    let here = std::process::id();
    let all = [
        Defect::FailsToEncode,
        Defect::PanicsToEncode,
        Defect::FailsToDecode,
        Defect::PanicsToDecode,
        Defect::PanicsToDropOutside(here),
    ];
    all.iter().cycle().take(10).flat_map(|&defect| [Defect::None, defect, Defect::None]).collect()
}

/// The error names the defect.
fn is_of(error: &Error, defect: Defect) -> bool {
    let words = match defect {
        Defect::None => return false,
        Defect::FailsToEncode => "I stay at home",
        Defect::PanicsToEncode => "the suitcase is broken",
        Defect::FailsToDecode => "I do not feel at home",
        Defect::PanicsToDecode => "the suitcase does not open",
        Defect::PanicsToDropOutside(_) | Defect::PanicsToDropIn(_) => "the suitcase falls",
    };
    error.to_string().contains(words)
}

/// Through all calls: good values arrive, a bad one is an error of its item, and no worker is lost.
fn each_is_its_own<F, Args, R>(
    function: F,
    defects: &[Defect],
    args: impl Fn(Defect) -> Args + Copy,
) -> Result<()>
where
    F: RemoteFn<(Args,), Output = R>,
    Args: Serialize + de::DeserializeOwned,
    R: Serialize + de::DeserializeOwned,
{
    let pool = Pool::new(2)?;
    let pids = pool.worker_pids();
    let items = || defects.iter().map(|&defect| args(defect));
    let first = defects.iter().position(|&defect| defect != Defect::None).unwrap();
    let error = pool.map(function, items()).err().unwrap();
    assert!(error.index() == Some(first as u64) && is_of(&error, defects[first]), "{error}");
    for outcomes in [
        pool.map_results(function, items())?,
        pool.starmap_results(function, items().map(|item| (item,)))?,
        pool.imap(function, items()).collect(),
        defects.iter().map(|&defect| pool.apply(function, (args(defect),))).collect(),
        defects
            .iter()
            .map(|&defect| pool.submit(function, (args(defect),)).and_then(TaskHandle::get))
            .collect(),
    ] {
        assert_eq!(outcomes.len(), defects.len());
        for (outcome, &defect) in outcomes.into_iter().zip(defects) {
            match outcome {
                Ok(_) => assert_eq!(defect, Defect::None),
                Err(error) => assert!(is_of(&error, defect), "{defect:?}: {error}"),
            }
        }
    }
    let bad = defects.iter().filter(|&&defect| defect != Defect::None).count();
    assert_eq!(pool.imap_unordered(function, items()).filter(Result::is_err).count(), bad);
    assert_eq!(pool.worker_pids(), pids, "none of them has died of it");
    pool.join();
    Ok(())
}

fn a_bad_value_is_an_error_of_its_item_as_a_result_of_every_call() -> Outcome {
    Ok(each_is_its_own(BadSerde, &defects(), |defect| defect)?)
}

fn a_bad_value_is_an_error_of_its_item_as_an_argument_of_every_call() -> Outcome {
    // A panic while the caller encodes is the caller's own; see the next test.
    let defects: Vec<Defect> =
        defects().into_iter().filter(|&defect| defect != Defect::PanicsToEncode).collect();
    Ok(each_is_its_own(drop::<BadSerde>, &defects, BadSerde)?)
}

fn an_argument_that_panics_to_encode_or_drop_is_the_callers_panic_and_no_more() -> Outcome {
    let pool = Pool::new(2)?;
    let pids = pool.worker_pids();
    for defect in [Defect::PanicsToEncode, Defect::PanicsToDropIn(std::process::id())] {
        let items = || [Defect::None, Defect::None, defect, Defect::None].map(BadSerde).into_iter();
        let panics = |call: &dyn Fn()| assert!(catch_unwind(AssertUnwindSafe(call)).is_err(), "{defect:?}");
        panics(&|| drop(pool.map(drop::<BadSerde>, items())));
        panics(&|| drop(pool.map_results(drop::<BadSerde>, items())));
        panics(&|| pool.imap(drop::<BadSerde>, items()).for_each(drop));
        panics(&|| pool.imap_unordered(drop::<BadSerde>, items()).for_each(drop));
        panics(&|| drop(pool.apply(drop::<BadSerde>, (BadSerde(defect),))));
        panics(&|| drop(pool.submit(drop::<BadSerde>, (BadSerde(defect),))));
        panics(&|| drop(Process::spawn(drop::<BadSerde>, (BadSerde(defect),))));
        assert_eq!(pool.map(|number: u32| number, 0..100)?, (0..100).collect::<Vec<_>>());
        assert_eq!(pool.worker_pids(), pids);
    }
    pool.join();
    Ok(())
}

fn a_bad_value_is_an_error_of_join() -> Outcome {
    for defect in defects().into_iter().take(15) {
        match Process::spawn(BadSerde, (defect,))?.join() {
            Ok(bad_value) => assert_eq!((bad_value.0, defect), (Defect::None, Defect::None)),
            Err(error) => assert!(is_of(&error, defect) && error.pid().is_some(), "{defect:?}: {error}"),
        }
    }
    for defect in
        [Defect::FailsToDecode, Defect::PanicsToDecode, Defect::PanicsToDropOutside(std::process::id())]
    {
        let error = Process::spawn(drop::<BadSerde>, (BadSerde(defect),))?.join().unwrap_err();
        assert!(is_of(&error, defect), "{defect:?}: {error}");
    }
    Ok(())
}

fn bad_values_in_a_queue_are_errors_of_their_own() -> Outcome {
    let (sender, receiver) = queue::bounded(1000)?;
    let refused = sender.send(BadSerde(Defect::FailsToEncode)).unwrap_err();
    assert!(is_of(refused.error(), Defect::FailsToEncode));
    assert_eq!(refused.into_item(), BadSerde(Defect::FailsToEncode));
    let panics = |call: &dyn Fn()| assert!(catch_unwind(AssertUnwindSafe(call)).is_err());
    panics(&|| drop(sender.send(BadSerde(Defect::PanicsToEncode))));
    panics(&|| drop(sender.send_all([BadSerde(Defect::None), BadSerde(Defect::PanicsToEncode)])));
    assert_eq!(sender.len(), 0);

    let sent = [Defect::None, Defect::FailsToDecode, Defect::PanicsToDecode, Defect::None];
    let check = |received: Vec<Result<BadSerde>>| {
        assert_eq!(received.len(), sent.len());
        for (item, defect) in received.into_iter().zip(sent) {
            match item {
                Ok(item) => assert_eq!((item.0, defect), (Defect::None, Defect::None)),
                Err(error) => assert!(error.is_codec() && is_of(&error, defect), "{error}"),
            }
        }
    };
    let send = || sender.send_all(sent.map(BadSerde));
    send()?;
    check(sent.iter().map(|_| receiver.recv()).collect());
    send()?;
    check(sent.iter().map(|_| receiver.recv_timeout(TEST_TIMEOUT)).collect());
    send()?;
    check(receiver.recv_many(10)?);
    send()?;
    check(receiver.iter().take(sent.len()).collect());

    // A value that panics when its sender drops it was sent before.
    let here = std::process::id();
    panics(&|| drop(sender.send(BadSerde(Defect::PanicsToDropIn(here)))));
    assert_eq!(sender.len(), 1);
    let count = |receiver: Receiver<BadSerde>| receiver.iter().flatten().count();
    let consumer = Process::spawn(count, (receiver,))?;
    sender.send(BadSerde(Defect::None))?;
    drop(sender);
    assert_eq!(consumer.join()?, 2);
    Ok(())
}

fn bad_values_in_a_pipe_are_errors_of_their_own() -> Outcome {
    let (ours, theirs) = pipe::<BadSerde, BadSerde>()?;
    assert!(is_of(ours.send(BadSerde(Defect::FailsToEncode)).unwrap_err().error(), Defect::FailsToEncode));
    assert!(catch_unwind(AssertUnwindSafe(|| ours.send(BadSerde(Defect::PanicsToEncode)))).is_err());
    for defect in [Defect::FailsToDecode, Defect::PanicsToDecode] {
        ours.send(BadSerde(defect))?;
        ours.send(BadSerde(Defect::None))?;
        let error = theirs.recv().unwrap_err();
        assert!(error.is_codec() && is_of(&error, defect), "{error}");
        assert_eq!(theirs.recv()?, BadSerde(Defect::None));
    }
    drop(ours);
    assert!(theirs.recv().unwrap_err().is_disconnected());
    Ok(())
}

fn bad_values_that_are_not_asked_for_are_not_decoded() -> Outcome {
    let pool = Pool::new(2)?;
    let here = std::process::id();
    for defect in [Defect::FailsToDecode, Defect::PanicsToDecode, Defect::PanicsToDropIn(here)] {
        let handle = pool.submit(BadSerde, (defect,))?;
        eventually("the result is there", || handle.is_ready());
        drop(handle);
        drop(pool.submit(BadSerde, (defect,))?);
        let mut results = pool.imap(BadSerde, [Defect::None, defect, defect, defect]);
        assert_eq!(results.next().transpose()?, Some(BadSerde(Defect::None)));
        drop(results);
    }
    let (sender, receiver) = queue::bounded(10)?;
    sender.send(BadSerde(Defect::PanicsToDecode))?;
    drop((sender, receiver));
    assert_eq!(pool.map(|number: u32| number, 0..3)?, [0, 1, 2]);
    pool.join();
    Ok(())
}

//! Values and tasks that misbehave: one clear error each, and everything else goes on.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use multiproc::pool::TaskHandle;
use multiproc::queue::{Receiver, Sender};
use multiproc::{Connection, Error, Pool, Process, RemoteFn, Result, pipe, queue};
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{Uid, setuid};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

use crate::support::{Latch, Outcome, PATIENCE, alone, children, eventually, trials};

trials![
    a_misfit_is_an_error_of_its_item_as_a_result_of_every_call,
    a_misfit_is_an_error_of_its_item_as_an_argument_of_every_call,
    an_argument_that_panics_to_encode_or_drop_is_the_callers_panic_and_no_more,
    a_misfit_is_an_error_of_join,
    misfits_in_a_queue_are_errors_of_their_own,
    misfits_in_a_pipe_are_errors_of_their_own,
    misfits_that_nobody_asks_for_are_not_looked_at,
    a_value_too_deep_is_an_error_wherever_it_goes,
    values_that_need_names_arrive_wherever_they_go,
    a_value_that_would_not_arrive_is_refused_when_it_is_sent,
    tasks_that_spoil_their_process_return_all_the_same,
    tasks_that_end_their_process_are_one_error_each,
    tasks_that_fork_answer_once_whatever_becomes_of_the_copy,
    a_worker_that_becomes_another_user_goes_on_and_ends,
    a_pool_that_a_task_leaks_ends_with_its_worker,
];

/// What is the matter with a value.
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

/// Through all calls: what is fine comes through, what is not is an error of its item, and no worker is lost.
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
    for fates in [
        pool.map_results(function, items())?,
        pool.starmap_results(function, items().map(|item| (item,)))?,
        pool.imap(function, items()).collect(),
        defects.iter().map(|&defect| pool.apply(function, (args(defect),))).collect(),
        defects
            .iter()
            .map(|&defect| pool.submit(function, (args(defect),)).and_then(TaskHandle::get))
            .collect(),
    ] {
        assert_eq!(fates.len(), defects.len());
        for (fate, &defect) in fates.into_iter().zip(defects) {
            match fate {
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

fn a_misfit_is_an_error_of_its_item_as_a_result_of_every_call() -> Outcome {
    Ok(each_is_its_own(BadSerde, &defects(), |defect| defect)?)
}

fn a_misfit_is_an_error_of_its_item_as_an_argument_of_every_call() -> Outcome {
    // What panics while the caller encodes it is the caller's own panic; see the next test.
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

fn a_misfit_is_an_error_of_join() -> Outcome {
    for defect in defects().into_iter().take(15) {
        match Process::spawn(BadSerde, (defect,))?.join() {
            Ok(misfit) => assert_eq!((misfit.0, defect), (Defect::None, Defect::None)),
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

fn misfits_in_a_queue_are_errors_of_their_own() -> Outcome {
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
    check(sent.iter().map(|_| receiver.recv_timeout(PATIENCE)).collect());
    send()?;
    check(receiver.recv_many(10)?);
    send()?;
    check(receiver.iter().take(sent.len()).collect());

    // One that panics when its sender drops it has been sent by then.
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

fn misfits_in_a_pipe_are_errors_of_their_own() -> Outcome {
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

fn misfits_that_nobody_asks_for_are_not_looked_at() -> Outcome {
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

/// So many levels of boxes, two for each.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Deep(Option<Box<Deep>>);

fn deep(boxes: u32) -> Deep {
    (0..boxes).fold(Deep::default(), |inner, _| Deep(Some(Box::new(inner))))
}

fn a_value_too_deep_is_an_error_wherever_it_goes() -> Outcome {
    const TOO_DEEP: u32 = 5_000; // if it were not refused, a stack would still have room for it
    let is_refused = |error: Error| {
        assert!(error.is_codec() && error.to_string().contains("levels deep"), "{error}");
    };
    let pool = Pool::new(1)?;
    let pids = pool.worker_pids();
    is_refused(Process::spawn(deep, (TOO_DEEP,))?.join().unwrap_err());
    is_refused(Process::spawn(drop::<Deep>, (deep(TOO_DEEP),)).unwrap_err());
    is_refused(pool.apply(deep, (TOO_DEEP,)).unwrap_err());
    is_refused(pool.apply(drop::<Deep>, (deep(TOO_DEEP),)).unwrap_err());
    let fates = pool.map_results(deep, [1, TOO_DEEP, 2])?;
    assert_eq!(fates.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true]);
    let (sender, receiver) = queue::bounded(4)?;
    is_refused(sender.send(deep(TOO_DEEP)).unwrap_err().into());
    let (ours, theirs) = pipe::<Deep, Deep>()?;
    is_refused(ours.send(deep(TOO_DEEP)).unwrap_err().into());
    sender.send(deep(3))?;
    theirs.send(deep(3))?;
    assert!(receiver.recv().is_ok() && ours.recv().is_ok());
    assert_eq!(pool.worker_pids(), pids);
    Ok(())
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "what")]
enum Adjacent {
    Resize(u32),
    Crop { left: u8, right: u8 },
    Nothing,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind")]
enum Internal {
    Start { name: String },
    Stop,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Untagged {
    Number(i64),
    Text(String),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Loose {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    maybe: Option<Adjacent>,
    #[serde(skip_serializing, default)]
    secret: u8,
    number: u8,
    #[serde(flatten)]
    rest: BTreeMap<String, Untagged>,
}

fn same<T>(value: T) -> T {
    value
}

/// Gives back a message and an item.
fn give_back<T>(line: Connection<T, T>, items: Receiver<T>, results: Sender<T>)
where
    T: Serialize + de::DeserializeOwned,
{
    while let Ok(message) = line.recv() {
        line.send(message).unwrap();
    }
    items.iter().for_each(|item| results.send(item.unwrap()).unwrap());
}

fn goes_everywhere<T>(value: &T) -> Result<()>
where
    T: Clone + Debug + PartialEq + Serialize + de::DeserializeOwned + 'static,
{
    let all = || vec![value.clone(), value.clone()];
    assert_eq!(Process::spawn(same::<T>, (value.clone(),))?.join()?, *value);
    let pool = Pool::new(2)?;
    assert_eq!(pool.map(same::<T>, all())?, all());
    assert_eq!(pool.apply(same::<(u8, Vec<T>, u8)>, ((1, all(), 2),))?, (1, all(), 2));
    pool.join();
    let ((ours, theirs), (items, their_items)) = (pipe()?, queue::bounded(4)?);
    let (their_results, results) = queue::bounded(4)?;
    let child = Process::spawn(give_back::<T>, (theirs, their_items, their_results))?;
    ours.send(value.clone())?;
    assert_eq!(ours.recv()?, *value);
    drop(ours);
    items.send_all(all())?;
    drop(items);
    assert_eq!(results.iter().collect::<Result<Vec<_>>>()?, all());
    child.join()
}

fn values_that_need_names_arrive_wherever_they_go() -> Outcome {
    goes_everywhere(&[Adjacent::Resize(7), Adjacent::Crop { left: 1, right: 2 }, Adjacent::Nothing])?;
    goes_everywhere(&vec![Internal::Start { name: "a".into() }, Internal::Stop])?;
    let rest = [("x", Untagged::Number(-1)), ("y", Untagged::Text("z".into()))];
    let rest = rest.map(|(key, value)| (key.to_owned(), value)).into();
    let mut loose = Loose { maybe: None, secret: 0, number: 3, rest };
    goes_everywhere(&loose)?;
    loose.maybe = Some(Adjacent::Nothing);
    goes_everywhere(&loose)?;
    let json = r#"{"a": [1, -2, 3.5, null, true, "text", {"b": {}}], "c": 18446744073709551615}"#;
    goes_everywhere(&serde_json::from_str::<serde_json::Value>(json).unwrap())?;
    Ok(())
}

fn a_value_that_would_not_arrive_is_refused_when_it_is_sent() -> Outcome {
    #[derive(Clone, Debug, Serialize, Deserialize)]
    struct Lossy {
        #[serde(skip_serializing)]
        #[allow(dead_code)] // that is what the matter is
        lost: u8,
        kept: u8,
    }
    let lossy = Lossy { lost: 1, kept: 2 };
    let is_refused = |error: Error| {
        let text = error.to_string();
        assert!(error.is_codec() && text.contains("`lost`") && text.contains("`skip_serializing`"), "{text}");
    };
    is_refused(Process::spawn(drop::<Lossy>, (lossy.clone(),)).unwrap_err());
    is_refused(Process::spawn(|| Lossy { lost: 1, kept: 2 }, ())?.join().unwrap_err());
    let pool = Pool::new(1)?;
    is_refused(pool.apply(drop::<Lossy>, (lossy.clone(),)).unwrap_err());
    is_refused(pool.apply(|| Lossy { lost: 1, kept: 2 }, ()).unwrap_err());
    pool.join();
    is_refused(queue::bounded(1)?.0.send(lossy.clone()).unwrap_err().into());
    is_refused(pipe::<Lossy, Lossy>()?.0.send(lossy).unwrap_err().into());
    Ok(())
}

/// Runs a task as that of a process and as one of a pool, alone and among others; all goes on, and no process
/// is left.
fn goes_on<F: RemoteFn<(), Output = u32>>(task: F, check: impl Fn(Result<u32>)) -> Result<()> {
    check(Process::spawn(task, ())?.join());
    let pool = Pool::new(2)?;
    check(pool.apply(task, ()));
    let handles: Vec<_> = (0..20).map(|number| pool.submit(|number: u32| number, (number,))).collect();
    check(pool.submit(task, ())?.get());
    for (number, handle) in (0..).zip(handles) {
        assert_eq!(handle?.get()?, number);
    }
    assert!(pool.map(|number: u32| number, 0..1000)?.into_iter().eq(0..1000));
    drop(pool);
    eventually("only a fork server is left", || children().iter().all(|(_, name)| name == "fork-server"));
    Ok(())
}

fn returns<F: RemoteFn<(), Output = u32>>(task: F) -> Result<()> {
    goes_on(task, |fate| assert_eq!(fate.unwrap(), 7))
}

fn dies<F: RemoteFn<(), Output = u32>>(task: F) -> Result<()> {
    goes_on(task, |fate| {
        let error = fate.unwrap_err();
        assert!(error.exit_code().is_some() || error.signal().is_some(), "{error}");
    })
}

fn tasks_that_spoil_their_process_return_all_the_same() -> Outcome {
    alone(|| {
        returns(|| {
            std::env::set_current_dir("/proc").unwrap();
            7
        })?;
        returns(|| {
            tests::handle_signals();
            7
        })?;
        returns(|| {
            tests::clear_environment();
            7
        })?;
        returns(|| {
            for limit in [
                Resource::RLIMIT_NOFILE,
                Resource::RLIMIT_NPROC,
                Resource::RLIMIT_FSIZE,
                Resource::RLIMIT_CORE,
            ] {
                setrlimit(limit, 0, 0).unwrap();
            }
            7
        })?;
        returns(|| {
            multiproc::init();
            7
        })?;
        returns(|| {
            for _ in 0..3 {
                thread::spawn(|| thread::sleep(Duration::from_secs(3600)));
            }
            7
        })?;
        returns(|| {
            let _ = thread::spawn(|| panic!("a thread of a task")).join();
            7
        })
    })
}

#[allow(unconditional_recursion)]
fn fall(depth: u64) -> u64 {
    std::hint::black_box(fall(std::hint::black_box(depth + 1))) + 1
}

fn tasks_that_end_their_process_are_one_error_each() -> Outcome {
    alone(|| {
        dies(|| std::process::exit(3))?;
        dies(|| std::process::exit(0))?;
        dies(|| std::process::abort())?;
        dies(|| -> u32 { tests::exit_at_once() })?;
        dies(|| u32::try_from(fall(0)).unwrap_or(0))?;
        dies(|| {
            thread::spawn(|| std::process::exit(4)).join().unwrap();
            7
        })?;
        // What it executes takes the place of the worker, whose link to the pool is gone with that.
        goes_on(
            || -> u32 { panic!("cannot execute: {}", Command::new("true").exec()) },
            |fate| assert!(!fate.unwrap_err().is_panic()),
        )?;
        // Among these are those over which it is told what to do, and whether its parent lives.
        goes_on(
            || {
                for descriptor in 0..10 {
                    let _ = nix::unistd::close(descriptor);
                }
                7
            },
            drop,
        )
    })
}

static COPIES: AtomicU32 = AtomicU32::new(0);

/// Three copies: one ends at once, one returns from the task, one lives on until the gate is dropped.
fn fork_three(gate: Latch) -> u32 {
    tests::in_fork(|| ());
    tests::in_fork(move || drop(gate.recv()));
    if !tests::fork_and_wait() {
        return 8;
    }
    COPIES.fetch_add(1, SeqCst) + 1
}

fn tasks_that_fork_answer_once_whatever_becomes_of_the_copy() -> Outcome {
    alone(|| {
        let mut gates = Vec::new();
        let mut theirs = || {
            let (ours, theirs) = pipe()?;
            gates.push(ours);
            Ok::<_, Error>(theirs)
        };
        assert_eq!(Process::spawn(fork_three, (theirs()?,))?.join()?, 1);
        let pool = Pool::new(1)?;
        for times in 1..5 {
            assert_eq!(pool.apply(fork_three, (theirs()?,))?, times, "the worker is the one that it was");
            assert_eq!(pool.map(|number: u32| number, 0..3)?, [0, 1, 2]);
        }
        pool.join();
        for gate in gates {
            assert!(!gate.poll(Duration::ZERO)?, "the copy lives on, which has the other end");
            drop(gate);
        }
        Ok(())
    })
}

fn a_worker_that_becomes_another_user_goes_on_and_ends() -> Outcome {
    alone(|| {
        if !Uid::effective().is_root() {
            return Ok(()); // nobody else can
        }
        returns(|| {
            if Uid::effective().is_root() {
                setuid(Uid::from_raw(65_534)).unwrap();
            }
            7
        })
    })
}

fn a_pool_that_a_task_leaks_ends_with_its_worker() -> Outcome {
    alone(|| {
        let (gate, theirs) = pipe()?;
        let leak = |gate: Latch| {
            let inner = Pool::new(2).unwrap();
            // The only end that is left after this is the one that its worker holds.
            std::mem::forget(inner.submit(crate::support::block, (gate,)).unwrap());
            std::mem::forget(inner);
        };
        let pool = Pool::new(1)?;
        pool.apply(leak, (theirs,))?;
        gate.recv()?;
        assert_eq!(pool.map(|number: u32| number, 0..3)?, [0, 1, 2]);
        pool.join();
        assert!(gate.poll(PATIENCE)?, "the inner pool lives on");
        assert!(gate.recv().unwrap_err().is_disconnected());
        Ok(())
    })
}

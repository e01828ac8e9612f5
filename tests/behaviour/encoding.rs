//! **Encoding**: which values arrive wherever they are sent, and which are refused.

use std::collections::BTreeMap;
use std::fmt::Debug;

use multiproc::queue::{Receiver, Sender};
use multiproc::{Connection, Error, Pool, Process, Result, pipe, queue};
use serde::{Deserialize, Serialize, de};

use crate::support::{Outcome, trials};

trials![
    a_value_too_deep_is_an_error_wherever_it_goes,
    values_that_need_names_arrive_wherever_they_go,
    a_value_that_would_not_arrive_is_refused_when_it_is_sent,
];

/// Boxes in boxes, two levels for each.
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
    let outcomes = pool.map_results(deep, [1, TOO_DEEP, 2])?;
    assert_eq!(outcomes.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true]);
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

/// Sends back messages and items.
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

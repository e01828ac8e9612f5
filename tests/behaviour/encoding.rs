//! **Encoding**: which values arrive wherever they are sent, and which are refused.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::fs::File;
use std::os::unix::fs::FileExt;

use multiproc::queue::{JoinableSender, Receiver, Sender, Unfinished};
use multiproc::sync::Mutex;
use multiproc::{ArrayChunk, Connection, Error, Fd, Pool, Process, Result, Server, SharedArray, pipe, queue};
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::{Deserialize, Serialize, de};

use crate::support::{Outcome, trials};

trials![
    a_value_too_deep_is_an_error_wherever_it_goes,
    values_that_need_names_arrive_wherever_they_go,
    a_value_that_would_not_arrive_is_refused_when_it_is_sent,
    values_that_need_names_arrive_with_what_they_hold,
    a_value_with_a_descriptor_that_would_not_arrive_is_refused,
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

/// A file of this content.
fn file(content: &str) -> Fd<File> {
    let file = File::from(memfd_create("a file", MFdFlags::MFD_CLOEXEC).unwrap());
    file.write_all_at(content.as_bytes(), 0).unwrap();
    file.into()
}

fn content(file: &File) -> String {
    let mut bytes = [0; 20];
    let length = file.read_at(&mut bytes, 0).unwrap();
    String::from_utf8_lossy(&bytes[..length]).into_owned()
}

/// Something of each kind that has more beside it than its bytes.
#[derive(Serialize, Deserialize)]
#[serde(tag = "kind")]
enum Part {
    Ends { sender: Sender<u32>, receiver: Receiver<u32> },
    Line { ours: Connection<u32, u32>, theirs: Connection<u32, u32> },
    Joinable { sender: JoinableSender<u32> },
    Lock { mutex: Mutex<u32>, again: Mutex<u32> },
    Chunk { chunk: ArrayChunk<u32> },
    Count { server: Server<u32> },
}

#[derive(Serialize, Deserialize)]
struct Half {
    #[serde(skip_deserializing)]
    ignored: Option<Fd<File>>,
    taken: Fd<File>,
}

#[derive(Serialize, Deserialize)]
struct Parcel {
    parts: Vec<Part>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    nothing: Option<Fd<File>>,
    half: Half,
    #[serde(flatten)]
    files: HashMap<String, Fd<File>>,
}

fn add(count: &mut u32, number: u32) -> u32 {
    *count += number;
    *count
}

impl Parcel {
    fn new() -> Result<Self> {
        let (sender, receiver) = queue::bounded(4)?;
        let (ours, theirs) = pipe()?;
        let mutex = Mutex::new(1)?;
        let chunk = SharedArray::zeroed(4)?.chunks_mut(4)?.next().unwrap();
        let parts = vec![
            Part::Ends { sender, receiver },
            Part::Line { ours, theirs },
            Part::Joinable { sender: queue::joinable(4, Unfinished::Redeliver)?.0 },
            Part::Lock { again: mutex.clone(), mutex },
            Part::Chunk { chunk },
            Part::Count { server: Server::spawn(|| 1, ())? },
        ];
        let files = (0..20).map(|number| (number.to_string(), file(&number.to_string()))).collect();
        let half = Half { ignored: Some(file("ignored")), taken: file("taken") };
        Ok(Self { parts, nothing: None, half, files })
    }

    /// Checks and uses each part.
    fn works(mut self) -> Result<Self> {
        assert!(self.nothing.is_none() && self.half.ignored.is_none() && self.files.len() == 20);
        assert_eq!(content(&self.half.taken), "taken");
        for (name, file) in &self.files {
            assert_eq!(content(file), *name);
        }
        for part in &mut self.parts {
            part.works()?;
        }
        self.half.ignored = Some(file("ignored"));
        Ok(self)
    }
}

impl Part {
    fn works(&mut self) -> Result<()> {
        match self {
            Self::Ends { sender, receiver } => {
                sender.send(7)?;
                assert_eq!(receiver.recv()?, 7);
            }
            Self::Line { ours, theirs } => {
                ours.send(8)?;
                assert_eq!(theirs.recv()?, 8);
            }
            Self::Joinable { sender } => assert!(sender.send(9).is_err(), "its receiver is gone"),
            Self::Lock { mutex, again } => {
                *mutex.lock()? += 1;
                assert!(*again.lock()? >= 2);
            }
            Self::Chunk { chunk } => chunk.take()?[3] += 1,
            Self::Count { server } => assert!(server.call(add, (1,))? >= 2),
        }
        Ok(())
    }
}

fn works(parcel: Parcel) -> Parcel {
    parcel.works().unwrap()
}

fn pass_on(line: Connection<Parcel, Parcel>, parcels: Receiver<Parcel>, back: Sender<Parcel>) {
    line.send(works(line.recv().unwrap())).unwrap();
    back.send(works(parcels.recv().unwrap())).unwrap();
}

fn values_that_need_names_arrive_with_what_they_hold() -> Outcome {
    let parcel = Process::spawn(works, (Parcel::new()?,))?.join()?.works()?;
    let pool = Pool::new(1)?;
    let parcel = pool.apply(works, (parcel,))?.works()?;
    let parcel = pool.map(works, [parcel])?.remove(0).works()?;
    pool.join();
    let ((ours, theirs), (parcels, their_parcels)) = (pipe()?, queue::bounded(4)?);
    let (back, results) = queue::bounded(4)?;
    let child = Process::spawn(pass_on, (theirs, their_parcels, back))?;
    ours.send(parcel)?;
    parcels.send(ours.recv()?.works()?)?;
    results.recv()?.works()?;
    child.join()?;
    Ok(())
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Either {
    Number(u32),
    File(Fd<File>),
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "kind")]
enum Lossy {
    Restored {
        #[serde(skip_serializing_if = "Option::is_none", default = "seven")]
        number: Option<u8>,
        file: Fd<File>,
    },
    Crossed {
        #[serde(rename(serialize = "b"))]
        a: Fd<File>,
        #[serde(rename(serialize = "a"))]
        b: Fd<File>,
    },
    Lost {
        #[serde(skip_serializing)]
        #[allow(dead_code)] // that is what the matter is
        lost: u8,
        file: Fd<File>,
    },
}

fn seven() -> Option<u8> {
    Some(7)
}

fn a_value_with_a_descriptor_that_would_not_arrive_is_refused() -> Outcome {
    fn is_refused<T: Serialize + de::DeserializeOwned + 'static>(make: fn() -> T, why: &str) -> Result<()> {
        let check = |error: Error| {
            assert!(error.is_codec() && error.to_string().contains(why), "{error}");
        };
        check(Process::spawn(drop::<T>, (make(),)).unwrap_err());
        check(queue::bounded(1)?.0.send(make()).unwrap_err().into());
        check(pipe::<T, T>()?.0.send(make()).unwrap_err().into());
        Ok(())
    }
    is_refused(|| Either::File(file("")), "`untagged` takes the first")?;
    Process::spawn(drop::<Either>, (Either::Number(7),))?.join()?;
    is_refused(|| Lossy::Restored { number: None, file: file("") }, "`default` need not be")?;
    Process::spawn(drop::<Lossy>, (Lossy::Restored { number: Some(1), file: file("") },))?.join()?;
    is_refused(|| Lossy::Crossed { a: file("a"), b: file("b") }, "another value would arrive")?;
    is_refused(|| Lossy::Lost { lost: 1, file: file("") }, "`lost`")?;
    Ok(())
}

//! **Forgery**: safe code that alters, mixes, steals or repeats what the library's values give to a serializer.

mod chunks;
mod kinds;

use std::cell::RefCell;
use std::rc::Rc;

use libtest_mimic::Trial;
use multiproc::pipe;
use serde::de::DeserializeOwned;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Value, json};

use crate::support::Outcome;

pub(crate) fn trials() -> Vec<Trial> {
    [chunks::trials(), kinds::trials()].into_iter().flatten().collect()
}

/// Sends values as JSON that its sender changes, and arrives as JSON. The values stay with the sender.
struct Forged<T> {
    values: Rc<Vec<T>>,
    forge: Rc<dyn Fn(&mut Value)>,
    json: String,
    received: Option<Received>,
}

/// What a test makes of the JSON, while the message is being decoded.
type Received = Box<dyn std::any::Any>;

type Decode = Box<dyn Fn(&Value) -> Received>;

thread_local! {
    /// What the next message is decoded by.
    static DECODE: RefCell<Option<Decode>> = const { RefCell::new(None) };
}

impl<T: Serialize> Serialize for Forged<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.values.is_empty() {
            return self.json.serialize(serializer); // as it came, so the type needs no names
        }
        let mut json = serde_json::to_value(&*self.values).map_err(S::Error::custom)?;
        (self.forge)(&mut json);
        json.to_string().serialize(serializer)
    }
}

impl<'de, T> Deserialize<'de> for Forged<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = String::deserialize(deserializer)?;
        let received = serde_json::from_str(&json)
            .ok()
            .and_then(|json: Value| DECODE.with_borrow(|decode| decode.as_ref().map(|decode| decode(&json))));
        Ok(Self { values: Rc::new(Vec::new()), forge: Rc::new(|_| ()), json, received })
    }
}

/// Sends values in one message, changed by `forge`; returns what `decode` makes of the message.
fn transfer<T: Serialize + 'static, R: 'static>(
    values: &Rc<Vec<T>>,
    forge: impl Fn(&mut Value) + 'static,
    decode: impl Fn(&Value) -> R + 'static,
) -> Outcome<(R, Value)> {
    let (here, there) = pipe::<Forged<T>, Forged<T>>()?;
    let values = Rc::clone(values);
    here.send(Forged { values, forge: Rc::new(forge), json: String::new(), received: None })?;
    DECODE.set(Some(Box::new(move |json| Box::new(decode(json)))));
    let message = there.recv();
    DECODE.set(None);
    let Forged { json, received, .. } = message?;
    let received = received.ok_or("nothing is decoded")?.downcast::<R>().map_err(|_| "another type")?;
    Ok((*received, serde_json::from_str(&json)?))
}

fn decode_all<T: DeserializeOwned>(json: &Value) -> Vec<T> {
    json.as_array()
        .into_iter()
        .flatten()
        .filter_map(|json| serde_json::from_value(json.clone()).ok())
        .collect()
}

/// The JSON pointers of the numbers in a value.
fn numbers(json: &Value) -> Vec<String> {
    let below = |parts: Vec<(String, &Value)>| {
        let deeper = |(key, part)| numbers(part).into_iter().map(move |rest| format!("/{key}{rest}"));
        parts.into_iter().flat_map(deeper).collect()
    };
    match json {
        Value::Array(parts) => below((0..).map(|index: u32| index.to_string()).zip(parts).collect()),
        Value::Object(parts) => below(parts.iter().map(|(key, part)| (key.clone(), part)).collect()),
        Value::Number(_) => vec![String::new()],
        _ => Vec::new(),
    }
}

/// Each number that a message can hold, read as a type: by itself, and in the forms of a lock and of an end of a
/// joinable queue.
fn read_numbers<T: DeserializeOwned>(_: &Value) -> Vec<T> {
    let forms = |number: u32| {
        let (lock, end) =
            (json!({ "shared": number, "value": null }), json!({ "end": number, "item": null }));
        [json!(number), lock, end]
    };
    (0..32).flat_map(forms).filter_map(|json| serde_json::from_value(json).ok()).collect()
}

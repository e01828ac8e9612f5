//! The messages between callers and agents: their subjects, their bytes. `README.md` has the whole of it.

use std::time::Duration;

use multiproc::pool::encoded::{self, FunctionId};
use multiproc::{Error, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The SHA-256 of a program.
pub(crate) type Build = [u8; 32];

/// All subjects begin with it.
pub(crate) const PREFIX: &str = "multiproc";
/// All streams begin with it. Those of object stores have `OBJ_` before it.
pub(crate) const STREAMS: &str = "MULTIPROC_";
/// The consumer through which all agents pull from a stream.
pub(crate) const CONSUMER: &str = "agents";
/// A new agent asks for adverts here.
pub(crate) const HELLO: &str = "multiproc.hello";

/// The names of one caller's use of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Session {
    pub(crate) pool: String,
    pub(crate) id: String,
}

impl Session {
    /// The stream of its work. Its bucket for large payloads has the same name.
    pub(crate) fn stream(&self) -> String {
        format!("{STREAMS}{}_{}", self.pool, self.id)
    }

    /// The session of a stream of that name.
    pub(crate) fn of_stream(name: &str) -> Option<Self> {
        let name = name.strip_prefix("OBJ_").unwrap_or(name);
        let (pool, id) = name.strip_prefix(STREAMS)?.rsplit_once('_')?;
        Some(Self { pool: pool.to_owned(), id: id.to_owned() })
    }

    /// The session of a subject `multiproc.POOL.ID.WHAT`.
    pub(crate) fn of_subject(subject: &str) -> Option<Self> {
        let mut words = subject.split('.').skip(1);
        Some(Self { pool: words.next()?.to_owned(), id: words.next()?.to_owned() })
    }

    /// The caller's adverts.
    pub(crate) fn caller(&self) -> String {
        self.subject("caller")
    }

    /// The agents' adverts.
    pub(crate) fn hosts(&self) -> String {
        self.subject("hosts")
    }

    /// Chunks, for the stream.
    pub(crate) fn work(&self) -> String {
        self.subject("work")
    }

    /// Requests of agents to the caller.
    pub(crate) fn back(&self) -> String {
        self.subject("back")
    }

    /// What tasks log, with the feature `log`.
    #[cfg(feature = "log")]
    pub(crate) fn logs(&self) -> String {
        self.subject("logs")
    }

    /// Withdrawn chunks.
    pub(crate) fn stop(&self) -> String {
        self.subject("stop")
    }

    fn subject(&self, what: &str) -> String {
        format!("{PREFIX}.{}.{}.{what}", self.pool, self.id)
    }
}

/// What a caller publishes at its start, three times a lease, and at its end. As JSON, because other builds
/// read it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct CallerAdvert {
    pub(crate) build: String,
    pub(crate) lease_ms: u64,
    pub(crate) is_over: bool,
    /// The highest level of the log records that it wants; 0: none.
    #[serde(default)]
    pub(crate) log_level: u8,
}

/// An agent's answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct HostAdvert {
    pub(crate) id: String,
    pub(crate) host: String,
    pub(crate) build: String,
    pub(crate) workers: u32,
}

/// The front of a chunk; its items follow.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct WorkHeader {
    pub(crate) chunk: u64,
    /// Counts the messages with this chunk: the last one counts.
    pub(crate) copy: u32,
    /// The number of its items.
    pub(crate) count: u32,
    /// The input index of the first one. `None` for a submitted task.
    pub(crate) first: Option<u64>,
    pub(crate) function: FunctionId,
    pub(crate) timeout: Option<Duration>,
    pub(crate) grace: Duration,
    pub(crate) retries: u32,
    /// Whether the agent asks before it begins the chunk, even at its first delivery.
    pub(crate) must_ask: bool,
    /// Where the items are, if not here.
    pub(crate) object: Option<String>,
}

/// Which delivery of a chunk an agent has. A later one is greater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Delivery {
    /// The number of the message, as in its [`WorkHeader`].
    pub(crate) copy: u32,
    /// The broker's count of the message's deliveries.
    pub(crate) count: i64,
}

/// The front of an agent's request. With `Done`, the results follow.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// The agent has begun a chunk, at its first delivery, under the grant 0. No answer.
    Begun { chunk: u64, agent: String, host: String },
    /// The agent begins a chunk: may it?
    Begin { chunk: u64, delivery: Delivery, agent: String, host: String },
    /// Is the chunk the agent's own? It has been cut off, or stopped, or what it has said may have been lost.
    Check { chunk: u64, grant: u64, agent: String, host: String },
    /// The results of a chunk, the time that they took, and where they are, if not here.
    Done { chunk: u64, grant: u64, host: String, work: Duration, object: Option<String> },
    /// The items of a chunk cannot be read, or the broker does not take its results. One error for all items:
    /// one for each may be too large for a message.
    Refused { chunk: u64, grant: u64, host: String, error: String },
    /// The agent has large results: make the object store. Again, if they could not be stored.
    MakeStore { again: bool },
    /// Is the caller there?
    Ping,
}

/// The caller's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// The chunk is the agent's, under this number. A later one ends it.
    Granted(u64),
    /// Another agent has the chunk.
    Superseded,
    /// The chunk has its results, or is withdrawn.
    Finished,
    /// The object store is there, or was tried to be made.
    Made,
    Pong,
}

/// `header` and what follows it.
pub(crate) fn join<T: Serialize + DeserializeOwned>(header: &T, body: &[u8]) -> Result<Vec<u8>> {
    let mut bytes = vec![0; 4];
    encoded::encode(header, &mut bytes, "a message")?;
    let length = u32::try_from(bytes.len() - 4).map_err(|_| too_large())?;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(body);
    Ok(bytes)
}

/// The header of a message, and what follows it.
pub(crate) fn split<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Result<(T, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>().ok_or_else(cut_short)?;
    let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| cut_short())?;
    let (header, body) = rest.split_at_checked(length).ok_or_else(cut_short)?;
    Ok((encoded::decode(header, "a message")?, body))
}

/// Appends an encoded value to those of a chunk.
pub(crate) fn push(values: &mut Vec<u8>, value: &[u8]) {
    values.extend_from_slice(&(value.len() as u64).to_le_bytes());
    values.extend_from_slice(value);
}

/// The length of a chunk's values with one more.
pub(crate) fn pushed_len(values: &[u8], value: &[u8]) -> usize {
    values.len() + size_of::<u64>() + value.len()
}

/// Takes the first encoded value off those of a chunk.
pub(crate) fn pop<'a>(values: &mut &'a [u8]) -> Result<&'a [u8]> {
    let (length, rest) = values.split_first_chunk::<8>().ok_or_else(cut_short)?;
    let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| cut_short())?;
    let (value, rest) = rest.split_at_checked(length).ok_or_else(cut_short)?;
    *values = rest;
    Ok(value)
}

/// All encoded values of a chunk.
pub(crate) fn values(mut bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
    let mut values = Vec::new();
    while !bytes.is_empty() {
        values.push(pop(&mut bytes)?.to_vec());
    }
    Ok(values)
}

/// Appends a task's result to those of a chunk: a byte that says whether it is an error, and the rest.
pub(crate) fn push_result(results: &mut Vec<u8>, result: &Result<Vec<u8>>) -> Result<()> {
    let mut bytes = vec![u8::from(result.is_err())];
    match result {
        Ok(value) => bytes.extend_from_slice(value),
        Err(error) => encoded::encode(error, &mut bytes, "an error")?,
    }
    push(results, &bytes);
    Ok(())
}

/// Takes the first result off those of a chunk.
pub(crate) fn pop_result<'a>(results: &mut &'a [u8]) -> Result<&'a [u8]> {
    match pop(results)?.split_first() {
        Some((0, value)) => Ok(value),
        Some((1, error)) => Err(encoded::decode::<Error>(error, "a task's error")?),
        _ => Err(cut_short()),
    }
}

/// The number of errors among a chunk's results.
pub(crate) fn count_errors(mut results: &[u8]) -> u64 {
    let mut errors = 0;
    while let Ok(result) = pop(&mut results) {
        errors += u64::from(result.first() == Some(&1));
    }
    errors
}

fn cut_short() -> Error {
    encoded::undecodable("a message of the cluster is cut short")
}

fn too_large() -> Error {
    encoded::invalid("a message of the cluster is too large".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_again() {
        let session = Session { pool: "a_b-c".to_owned(), id: "XYZ1".to_owned() };
        assert_eq!(Session::of_stream(&session.stream()), Some(session.clone()));
        assert_eq!(Session::of_stream(&format!("OBJ_{}", session.stream())), Some(session.clone()));
        assert_eq!(Session::of_subject(&session.work()), Some(session));
        assert_eq!(Session::of_stream("ORDERS_1"), None);
    }

    #[test]
    fn messages_are_read_back_and_cut_ones_refused() {
        let (agent, host) = ("x".to_owned(), "y".to_owned());
        let request = Request::Check { chunk: 7, grant: 2, agent, host };
        let mut body = Vec::new();
        push(&mut body, b"one");
        push(&mut body, b"");
        let bytes = join(&request, &body).unwrap();
        let (found, rest) = split::<Request>(&bytes).unwrap();
        assert!(matches!(found, Request::Check { chunk: 7, grant: 2, .. }));
        assert_eq!(values(rest).unwrap(), [b"one".to_vec(), Vec::new()]);
        for length in 0..bytes.len() {
            let cut = split::<Request>(&bytes[..length]).and_then(|(_, rest)| values(rest));
            assert!(
                cut.is_err() || length == bytes.len() - body.len() || length == bytes.len() - 8,
                "{length}"
            );
        }
    }

    #[test]
    fn results_are_values_or_errors() {
        let mut results = Vec::new();
        push_result(&mut results, &Ok(vec![1, 2])).unwrap();
        push_result(&mut results, &Err(encoded::cancelled())).unwrap();
        assert_eq!(count_errors(&results), 1);
        let mut rest = &results[..];
        assert_eq!(pop_result(&mut rest).unwrap(), [1, 2]);
        assert!(pop_result(&mut rest).unwrap_err().is_cancelled());
        assert!(pop_result(&mut rest).unwrap_err().is_codec());
    }
}

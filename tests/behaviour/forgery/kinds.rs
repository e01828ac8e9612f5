//! A value arrives as the kind as which it was sent, and shows a serializer nothing but an index.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use multiproc::queue::{self, Unfinished};
use multiproc::sync::{Atomic, Mutex};
use multiproc::{Connection, Fd, Server, SharedArray, pipe};
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::chunks::{Chunk, four_chunks, honest_chunks};
use super::{decode_all, numbers, read_numbers, transfer};
use crate::support::{Outcome, trials};

trials![
    the_memory_of_a_chunk_is_no_descriptor_for_users,
    a_descriptor_of_users_is_no_memory_of_a_chunk,
    a_value_arrives_as_the_kind_as_which_it_was_sent,
];

fn the_memory_of_a_chunk_is_no_descriptor_for_users() -> Outcome {
    let (_arrays, chunks) = four_chunks()?;
    let (stolen, _) = transfer(&chunks, |_| (), read_numbers::<Fd<OwnedFd>>)?;
    assert!(stolen.is_empty(), "{} descriptors of the library are a user's", stolen.len());
    Ok(())
}

/// A descriptor of the user, and a chunk.
#[derive(Serialize)]
enum FdOrChunk {
    Fd(Fd<File>),
    Chunk(Chunk),
}

fn a_descriptor_of_users_is_no_memory_of_a_chunk() -> Outcome {
    let honest = honest_chunks()?;
    for part in numbers(&honest[0]) {
        let mut array = SharedArray::<u64>::zeroed(8)?;
        let [left, _right] = array.split_at(8)?;
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let memory = File::from(memfd_create(c"user", flags)?);
        memory.write_all_at(&[0; 64], 0)?;
        let seal = nix::fcntl::FcntlArg::F_ADD_SEALS(nix::fcntl::SealFlag::F_SEAL_SHRINK);
        nix::fcntl::fcntl(&memory, seal)?;
        let values = Rc::new(vec![FdOrChunk::Fd(memory.try_clone()?.into()), FdOrChunk::Chunk(left)]);
        let forge = move |json: &mut Value| {
            let mut chunk = json[1]["Chunk"].clone();
            *chunk.pointer_mut(&part).unwrap() = json[0]["Fd"].clone();
            *json = json!([chunk]);
        };
        let (mut received, _) = transfer(&values, forge, decode_all::<Chunk>)?;
        received.iter_mut().filter_map(|chunk| chunk.take().ok()).for_each(|slice| slice.fill(7));
        let mut bytes = [0; 64];
        memory.read_exact_at(&mut bytes, 0)?;
        assert_eq!(bytes, [0; 64], "a user's memory is a chunk");
    }
    Ok(())
}

/// Asserts that a value gives a serializer one number, by which no other type can be read.
fn assert_sealed<T: Serialize + DeserializeOwned + 'static>(
    value: T,
    others: fn(&Value) -> usize,
) -> Outcome {
    let values = Rc::new(vec![value]);
    let (received, json) = transfer(&values, |_| (), decode_all::<T>)?;
    let name = std::any::type_name::<T>();
    assert_eq!((received.len(), numbers(&json).len()), (1, 1), "{name} is {json}");
    let (own, _) = transfer(&values, |_| (), |json| read_numbers::<T>(json).len())?;
    assert_eq!(own, 1, "{name} is not read from its number");
    let (stolen, _) = transfer(&values, |_| (), others)?;
    assert_eq!(stolen, 0, "{name} is read as another type");
    Ok(())
}

fn as_any<A: DeserializeOwned, B: DeserializeOwned, C: DeserializeOwned>(json: &Value) -> usize {
    read_numbers::<A>(json).len() + read_numbers::<B>(json).len() + read_numbers::<C>(json).len()
}

type Sender = queue::Sender<u64>;
type Receiver = queue::Receiver<u64>;
type Ends = Connection<u64, u64>;
type AnyFd = Fd<OwnedFd>;

fn a_value_arrives_as_the_kind_as_which_it_was_sent() -> Outcome {
    let (sender, receiver) = queue::bounded::<u64>(4)?;
    assert_sealed(sender, as_any::<Receiver, Ends, AnyFd>)?;
    assert_sealed(receiver, as_any::<Sender, Server<u64>, AnyFd>)?;
    assert_sealed(pipe::<u64, u64>()?.0, as_any::<Sender, Receiver, AnyFd>)?;
    assert_sealed(Server::spawn(|number: u64| number, (7,))?, as_any::<Sender, Receiver, AnyFd>)?;
    assert_sealed(Mutex::new(7_u64)?, as_any::<Chunk, Sender, AnyFd>)?;
    assert_sealed(Atomic::new(7_u64)?, as_any::<Chunk, Sender, AnyFd>)?;
    let (sender, receiver) = queue::joinable::<u64>(4, Unfinished::Report)?;
    assert_sealed(sender, as_any::<Mutex<[u8]>, Sender, AnyFd>)?;
    assert_sealed(receiver, as_any::<Mutex<[u8]>, Receiver, AnyFd>)?;
    assert_sealed(Fd::from(OwnedFd::from(File::open("/dev/null")?)), as_any::<Chunk, Mutex<u64>, Sender>)
}

//! A program that uses all of the library, and prints which of its objects have, or had, a name in the file
//! system.

#![allow(clippy::unwrap_used, reason = "a fixture ends where something does not go as it should")]

use std::fs;
use std::sync::atomic::Ordering::SeqCst;

use multiproc::queue::{JoinableReceiver, JoinableSender, Receiver, Sender, Unfinished};
use multiproc::sync::{Atomic, Barrier, Condvar, Event, Mutex, Once, OnceCell, RwLock, Semaphore};
use multiproc::{ArrayChunk, Connection, Pool, Process, Result, Server, SharedArray, pipe, queue};

/// The names in `/dev/shm` and TMPDIR of files that this process holds open or has mapped.
fn names() -> Vec<String> {
    let open =
        fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let mapped = maps.lines().filter_map(|line| Some(line.get(line.find('/')?..)?.to_owned()));
    let paths = open.map(|path| path.display().to_string()).chain(mapped);
    let folders = ["/dev/shm".to_owned(), std::env::var("TMPDIR").unwrap()];
    paths.filter(|path| folders.iter().any(|folder| path.starts_with(folder))).collect()
}

type Queue = (Sender<Vec<u8>>, Receiver<Vec<u8>>);

fn use_both(queue: Queue, line: Connection<Vec<u8>, Vec<u8>>) -> Vec<String> {
    queue.0.send(line.recv().unwrap()).unwrap();
    line.send(queue.1.recv().unwrap()).unwrap();
    names()
}

type Locks = (Mutex<u32>, Mutex<[u32]>, RwLock<u32>, Condvar, Semaphore);
type Others = (Event, Barrier, Atomic<u32>, Once, OnceCell<u32>);

fn use_locks((mutex, slice, lock, condvar, semaphore): Locks, others: Others) -> Result<Vec<String>> {
    let (event, barrier, atomic, once, cell) = others;
    let guards = (mutex.lock()?, slice.lock()?, lock.write()?, semaphore.acquire()?);
    condvar.notify_all();
    event.set();
    barrier.wait()?;
    atomic.store(1, SeqCst);
    once.call_once(|| ())?;
    cell.get_or_init(|| 1)?;
    let names = names();
    drop(guards);
    Ok(names)
}

fn check_locks() -> Result<()> {
    let locks: Locks =
        (Mutex::new(0)?, Mutex::zeroed(9)?, RwLock::new(0)?, Condvar::new()?, Semaphore::new(1)?);
    let others: Others = (Event::new()?, Barrier::new(1)?, Atomic::new(0)?, Once::new()?, OnceCell::new()?);
    let child = Process::spawn(use_locks, (locks.clone(), others.clone()))?;
    assert_eq!(child.join()??, [""; 0]);
    assert_eq!(use_locks(locks, others)?, [""; 0]);
    Ok(())
}

fn use_queues(unbounded: Receiver<Vec<u8>>, joinable: JoinableReceiver<Vec<u8>>) -> Result<Vec<String>> {
    let delivery = joinable.recv()?;
    let names = names();
    assert_eq!(delivery.done().len(), unbounded.recv()?.len());
    Ok(names)
}

fn check_queues(size: usize) -> Result<()> {
    let (unbounded, items) = queue::unbounded()?;
    let joinable: (JoinableSender<_>, _) = queue::joinable(2, Unfinished::Redeliver)?;
    unbounded.send(vec![3; size])?;
    joinable.0.send(vec![3; size])?;
    assert_eq!(names(), [""; 0]);
    assert_eq!(Process::spawn(use_queues, (items, joinable.1))?.join()??, [""; 0]);
    joinable.0.join()
}

fn check_server(size: usize) -> Result<()> {
    let server = Server::spawn(Vec::<u8>::new, ())?;
    server.call(|state: &mut Vec<u8>, bytes: Vec<u8>| *state = bytes, (vec![4; size],))?;
    assert_eq!(server.call(|_: &mut Vec<u8>| names(), ())?, [""; 0]);
    assert_eq!(names(), [""; 0]);
    assert_eq!(server.stop()?.len(), size);
    Ok(())
}

fn check_array(size: usize) -> Result<()> {
    let mut array = SharedArray::<u8>::zeroed(size)?;
    let fill = |mut chunk: ArrayChunk<u8>| {
        chunk.as_mut().fill(5);
        names()
    };
    for chunk in array.chunks_mut(size.div_ceil(2))? {
        assert_eq!(Process::spawn(fill, (chunk,))?.join()?, [""; 0]);
    }
    let slice = array.into_shared()?;
    assert!(slice.iter().all(|&byte| byte == 5));
    assert_eq!(names(), [""; 0]);
    Ok(())
}

fn main() {
    multiproc::init();
    tests::watched("nameless", || {
        let queue: Queue = queue::bounded(2).unwrap();
        let pool = Pool::new(2).unwrap();
        for size in [10, 1_000_000] {
            let (ours, theirs) = pipe::<Vec<u8>, Vec<u8>>().unwrap();
            let child = Process::spawn(use_both, (queue.clone(), theirs)).unwrap();
            ours.send(vec![1; size]).unwrap();
            assert_eq!(ours.recv().unwrap().len(), size);
            assert!(child.join().unwrap().is_empty());
            let names = pool.map(|_bytes: Vec<u8>| names(), (0..8).map(|_| vec![2; size])).unwrap();
            assert!(names.concat().is_empty(), "{names:?}");
            check_queues(size).unwrap();
            check_server(size).unwrap();
            check_array(size).unwrap();
        }
        check_locks().unwrap();
        assert!(names().is_empty());
    });
}

//! A program that uses all of the library, and prints which of its objects have, or had, a name in the file
//! system.

#![allow(clippy::unwrap_used, reason = "a fixture ends where something does not go as it should")]

use std::fs;

use multiproc::{Connection, Pool, Process, pipe, queue};

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

type Queue = (queue::Sender<Vec<u8>>, queue::Receiver<Vec<u8>>);

fn use_both(queue: Queue, line: Connection<Vec<u8>, Vec<u8>>) -> Vec<String> {
    queue.0.send(line.recv().unwrap()).unwrap();
    line.send(queue.1.recv().unwrap()).unwrap();
    names()
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
        }
        assert!(names().is_empty());
    });
}

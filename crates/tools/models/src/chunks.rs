//! Models of the chunks of a shared array: one handle has a chunk at a time.

use loom::cell::Cell;
use loom::sync::Arc;
use loom::thread;

use super::generation::Generation;
use crate::model;
use crate::sys::Mutation::{AcquireToRelaxed, NoExchange, ReleaseToRelaxed};
use crate::sys::atomic::AtomicU64;

/// The word of a chunk, and an element.
struct Chunk {
    word: AtomicU64,
    element: Cell<u32>,
}

fn new_chunk() -> Arc<Chunk> {
    Arc::new(Chunk { word: AtomicU64::new(0), element: Cell::new(0) })
}

impl Chunk {
    /// Adds one to the element, if this handle has the chunk then.
    fn add(&self, handle: &Generation) -> bool {
        let is_taken = handle.take(&self.word);
        if is_taken {
            self.element.set(self.element.get() + 1);
        }
        is_taken
    }

    fn add_when_released(&self, handle: &Generation) {
        while !self.add(handle) {
            thread::yield_now();
        }
    }
}

model!(
    a_handle_sees_what_the_one_before_it_wrote, handed_over, 3,
    detects [ReleaseToRelaxed, AcquireToRelaxed, NoExchange]
);

/// The chunk goes to a second handle, and from that to a third one.
fn handed_over() {
    let chunk = new_chunk();
    let second = {
        let chunk = Arc::clone(&chunk);
        thread::spawn(move || {
            let handle = Generation::new(2);
            chunk.add_when_released(&handle);
            handle.release(&chunk.word);
        })
    };
    let first = Generation::new(0);
    assert!(chunk.add(&first));
    first.release(&chunk.word);
    chunk.add_when_released(&Generation::new(4));
    assert_eq!(chunk.element.get(), 3);
    assert!(!chunk.add(&first), "it has released the chunk");
    second.join().unwrap();
}

model!(one_of_two_copies_has_the_chunk, copies, 3, detects[NoExchange]);

fn copies() {
    let chunk = new_chunk();
    let other = {
        let chunk = Arc::clone(&chunk);
        thread::spawn(move || chunk.add(&Generation::new(0)))
    };
    let own = chunk.add(&Generation::new(0));
    assert_ne!(own, other.join().unwrap());
}

model!(a_chunk_is_released_once_by_two_threads, released_twice, 3, detects[NoExchange]);

/// Two threads encode a handle, while a second one takes the chunk.
fn released_twice() {
    let (chunk, handle) = (new_chunk(), Arc::new(Generation::new(0)));
    assert!(chunk.add(&handle));
    let encoders = [(); 2].map(|()| {
        let (chunk, handle) = (Arc::clone(&chunk), Arc::clone(&handle));
        thread::spawn(move || handle.release(&chunk.word))
    });
    let second = Generation::new(2);
    chunk.add_when_released(&second);
    for encoder in encoders {
        encoder.join().unwrap();
    }
    assert!(chunk.add(&second), "the chunk is released from its second handle");
    assert!(!chunk.add(&handle) && !chunk.add(&Generation::new(2)) && !chunk.add(&Generation::new(4)));
}

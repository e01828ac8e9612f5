//! Room for the bytes of one value at a time.

use std::cell::Cell;

/// An empty vector that this thread keeps, so that not every item needs an allocation. While it is borrowed, others who
/// come get new ones: an item's own code may use a queue.
pub(crate) struct Buffer(pub(crate) Vec<u8>);

/// Larger ones are not kept.
const KEPT: usize = 4 * 1024 * 1024;

thread_local! {
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

impl Buffer {
    pub(crate) fn borrow() -> Self {
        Self(BUFFER.try_with(Cell::take).unwrap_or_default())
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.0);
        if bytes.capacity() <= KEPT {
            bytes.clear();
            let _ = BUFFER.try_with(|buffer| buffer.set(bytes));
        }
    }
}

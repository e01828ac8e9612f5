//! `Pool::broadcast`: a function that every worker runs.

use std::sync::Arc;

use serde_core::Serialize;
use serde_core::de::DeserializeOwned;

use super::call::{Call, Options};
use super::chunk::{Body, Chunk};
use super::initializers::{Run, encode_initializer};
use super::item_loop::ItemLoop;
use super::reorder::{ReorderBuffer, ResultOrder};
use super::{Pool, PoolFn};
use crate::error::Result;
use crate::ipc::packet::Message;
use crate::ipc::wire::Segments;
use crate::sys::poll::Deadline;
use crate::task::TaskId;

impl<M> Pool<M> {
    /// Calls `function` once in every worker, and in every later one before its first task, after the
    /// [initializers](super::PoolBuilder::initializer) and the functions of earlier broadcasts. Returns the
    /// results of the present workers, in the order of [their indices](crate::ProcessInfo::worker_index). Blocks until
    /// each of them has run it; tasks that are submitted after that find it done in every worker.
    ///
    /// A worker begins nothing else before it has run the function, once it has run the items that it has.
    /// If it dies before that, its result is the error of its death, and its replacement calls the function
    /// as any later worker does. There the result is dropped, and a panic is the error of every call, as that
    /// of an initializer is. The pool keeps the arguments until it ends; those of all broadcasts and initializers
    /// may hold 240 descriptors, since a new worker gets all of them at once.
    ///
    /// In [inline mode](super::PoolBuilder::inline) the caller runs the function, and there is one result.
    ///
    /// ```
    /// use multiproc::Pool;
    ///
    /// fn set_factor(factor: &mut u32, value: u32) -> u32 {
    ///     std::mem::replace(factor, value)
    /// }
    ///
    /// fn main() -> multiproc::Result<()> {
    ///     multiproc::init();
    ///     let pool = Pool::builder().workers(2).state(|| 1, ()).build()?;
    ///     for before in pool.broadcast(set_factor, (10,))? {
    ///         assert_eq!(before?, 1);
    ///     }
    ///     assert_eq!(pool.map(|factor: &mut u32, n: u32| *factor * n, [1, 2, 3])?, [10, 20, 30]);
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// When the arguments cannot be encoded or hold too many descriptors, or when the pool is closed or cannot keep its
    /// workers. Then no worker calls the function. The inner result is the error of one worker.
    pub fn broadcast<F, Args, R>(&self, function: F, args: Args) -> Result<Vec<Result<R>>>
    where
        F: PoolFn<M, Args, R>,
        Args: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        let function = function.remote();
        let initializer = encode_initializer(Run::new(function), &args)?;
        let call =
            Call::new(TaskId::of::<ItemLoop, _, _>(function)?, Options::default(), true, Arc::default());
        let (bytes, descriptors) = (initializer.args.clone(), initializer.descriptors.clone());
        let chunk_for_worker = |first| {
            let body = Body::OutOfLine(Box::new(Message::new(bytes.clone(), descriptors.clone())?));
            Ok(Chunk::new(&call, first, 1, Segments::NONE, body))
        };
        let count = self.core.broadcast(initializer, chunk_for_worker)?;
        self.collect_all(&call, count)
    }

    /// The `count` results of a call, by their number.
    fn collect_all<R: DeserializeOwned>(&self, call: &Call, count: u64) -> Result<Vec<Result<R>>> {
        let mut buffer = ReorderBuffer::new(ResultOrder::Input);
        let mut results = Vec::new();
        while buffer.returned() < count {
            self.core.check_not_forked()?;
            self.core.become_driver(false).wait_until(Deadline::Never, || call.has_arrived());
            call.take().into_iter().for_each(|batch| buffer.add(batch));
            while buffer.begin_span() {
                let run = std::iter::from_fn(|| buffer.next::<R>());
                results.extend(run.map(|result| result.map_err(|error| error.with_index(None))));
            }
        }
        Ok(results)
    }
}

//! The loop in which a worker runs the items of one function, compiled for each function.

use std::any::type_name;

use serde_core::de::DeserializeOwned;

use crate::codec::raw;
use crate::ipc::panic::catch_panic;
use crate::ipc::wire;
use crate::pool::worker_rings::{VALUE, WorkerSide};
use crate::sys::entry::{Entry, zst_instance};
use crate::sys::failpoint::{self, Failpoint};
use crate::task::{RemoteFn, RunOnce, Runner};

/// The code with which a worker runs a function.
#[derive(Clone, Copy)]
pub(crate) struct ItemLoop {
    /// Runs an item by itself.
    pub(crate) once: RunOnce,
    /// Runs the claimed item and those after it until another header comes. A small item costs less than an
    /// indirect call, so the call is per loop, not per item.
    pub(crate) all: fn(&mut WorkerSide),
}

impl<F: RemoteFn<Args>, Args: DeserializeOwned> Runner<F, Args> for ItemLoop {
    const ENTRY: &'static Entry<Self> = &Entry::new(
        type_name::<(F, Args, F::Output)>,
        Self { once: RunOnce::new::<F, Args>(), all: run_items::<F, Args> },
    );
}

fn run_items<F: RemoteFn<Args>, Args: DeserializeOwned>(rings: &mut WorkerSide) {
    let function = zst_instance::<F>();
    let mut bytes = Vec::new();
    while rings.next() == Some(VALUE) {
        let begun = rings.trace.begin(rings.item_number());
        run_next::<F, Args>(rings, function, &mut bytes);
        rings.trace.end(begun, rings.item_number());
    }
}

/// Runs the claimed item, or a run of small ones.
#[allow(clippy::inline_always, reason = "a small item costs less than the call")]
#[inline(always)]
fn run_next<F: RemoteFn<Args>, Args: DeserializeOwned>(
    rings: &mut WorkerSide,
    function: F,
    bytes: &mut Vec<u8>,
) {
    if let (Some(item), Some(result)) = (raw::fixed_size::<Args>(), raw::fixed_size::<F::Output>()) {
        let run = |item: &[u8]| {
            let args = wire::decode(item, Vec::new(), "the arguments")?;
            failpoint::hit(Failpoint::ItemDecoded);
            let result = function.call(args);
            failpoint::hit(Failpoint::ItemRan);
            Ok(result)
        };
        // A panic is that of the item that was popped last.
        match catch_panic(|| rings.run_array((item, result), run)) {
            Ok(0) => {}
            Ok(_) => return,
            Err(error) => return rings.fail(error),
        }
    }
    let run = catch_panic(|| {
        let segments = rings.segments();
        let args = rings.read(|item| wire::decode::<Args>(item, segments, "the arguments"))?;
        failpoint::hit(Failpoint::ItemDecoded);
        let result = function.call(args);
        failpoint::hit(Failpoint::ItemRan);
        bytes.clear();
        let (result, descriptors) = wire::encode_value_with_descriptors(&result, bytes, "the result")?;
        match descriptors.len() {
            0 => rings.write(VALUE, result),
            _ => rings.write_with_descriptors(result, descriptors),
        }
    });
    match run.and_then(|run| run) {
        Ok(()) => rings.complete(),
        Err(error) => rings.fail(error),
    }
}

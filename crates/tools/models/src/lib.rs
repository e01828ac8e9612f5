//! Model checking of the shared-memory code with [loom](https://docs.rs/loom), and mutation testing of the
//! models.
//!
//! The files of `multiproc` that use its thin layer over the atomics are compiled against a model of memory.
//! Loom runs them through all interleavings, and through all values that the memory model of the language
//! lets a load return.
//!
//! **To add a model**: name the library's file here, and write a function in which two or three threads use
//! it. The function must not deadlock (a lost wake-up is a deadlock), must not access a byte that another
//! thread may write at that time, and asserts its result. Then list the mutations that it must detect (see
//! `sys::Mutation`): a model that detects no mutation proves nothing.
//!
//! A thread can be killed at a failpoint (`sys::failpoint::spawn_killed`); its `ThreadId::end` lets others
//! find it dead. All threads of a model are one thread of the test, and have the same `std::thread_local!`:
//! the library's files must not depend on one.
//!
//! Of a successful exchange and a store by another thread that has not seen it, loom does not know the order
//! of changes. It lets a load return the exchange's value where only the store's is possible.

#![cfg(test)]

#[allow(dead_code, private_interfaces, unreachable_pub, unused_imports)]
#[allow(clippy::arc_with_non_send_sync)] // loom's atomics are not
#[path = "../../../multiproc/src/channel/mod.rs"]
mod channel;

#[allow(dead_code)]
#[path = "../../../multiproc/src/ipc"]
mod ipc {
    pub(crate) mod event_count;
    pub(crate) mod frame;
    /// No message of a model is spilled.
    pub(crate) mod memfd_cache {
        use crate::error::Result;

        pub(crate) struct Spill {
            pub(crate) fd: std::os::fd::OwnedFd,
        }

        pub(crate) fn write(_bytes: &[u8]) -> Result<Spill> {
            unreachable!("a model spills no message")
        }
    }
    pub(crate) mod ring;
    #[path = "../../../tools/models/src/wire.rs"]
    pub(crate) mod wire;
}

#[allow(dead_code)] // no model has an enum that travels
#[path = "../../../multiproc/src/impl_serde.rs"]
mod impl_serde;

/// A model sends bytes.
mod codec {
    pub(crate) mod raw {
        pub(crate) fn as_bytes<T>(_item: &T) -> Option<&[u8]> {
            unreachable!("a model encodes no item")
        }
    }
}

#[allow(dead_code)]
#[path = "../../../multiproc/src/pool"]
mod pool {
    pub(crate) mod worker_rings {
        pub(crate) mod claim_word;
        pub(crate) mod result_words;
        pub(crate) mod wakeups;
    }
}

#[allow(dead_code)]
#[path = "../../../multiproc/src/server"]
mod server {
    mod death;
    #[path = "../../../tools/models/src/server.rs"]
    mod models;
    mod status_page;
}

#[allow(dead_code)]
#[path = "../../../multiproc/src/shared_array"]
mod shared_array {
    #[path = "../../../tools/models/src/chunks.rs"]
    mod chunk_models;
    mod generation;
}

#[allow(dead_code, private_interfaces, unused_imports, unreachable_pub)]
#[path = "../../../multiproc/src/sync"]
mod sync {
    mod barrier;
    mod condvar;
    #[path = "../../../tools/models/src/condvar.rs"]
    mod condvar_models;
    #[path = "../../../tools/models/src/deaths.rs"]
    mod death_models;
    mod deliveries;
    #[path = "../../../tools/models/src/deliveries.rs"]
    mod delivery_models;
    mod event;
    #[path = "../../../tools/models/src/locks.rs"]
    mod models;
    mod mutex;
    mod mutex_guard;
    mod once;
    mod permits;
    mod poison;
    mod rw_lock;
    mod shared;
    mod slots;
}

mod error;
mod sys;
mod task;

/// A model has no timeline.
mod trace {
    pub(crate) fn waiting<R>(_name: &str, wait: impl FnOnce() -> R) -> R {
        wait()
    }
}

mod endings;
mod messages;
mod pool_worker;
mod unbounded;
mod waiting;

use std::env;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use crate::sys::Mutation;

/// Defines the test of a model: it holds with at most this number of preemptions (nearly all bugs need two),
/// and it detects each of these mutations.
macro_rules! model {
    ($test:ident, $model:ident, $preemptions:literal, detects $mutations:expr) => {
        #[test]
        fn $test() {
            let test = concat!(module_path!(), "::", stringify!($test));
            crate::explore(test, $model, $preemptions, &$mutations);
        }
    };
}
use model;

/// Held while a model is explored. That maps the stacks of its threads again and again, and two threads of a
/// process that map wait for each other: two explorations at once take longer than one after the other.
static EXPLORATION: Mutex<()> = Mutex::new(());

fn explore(test: &str, model: fn(), preemptions: usize, mutations: &[Mutation]) {
    let mutation = env::var(MUTATION).ok();
    sys::set_mutation(mutations.iter().copied().find(|known| mutation == Some(format!("{known:?}"))));
    let mut explorer = loom::model::Builder::new();
    explorer.preemption_bound = Some(preemptions);
    explorer.max_branches = 10_000;
    let alone = EXPLORATION.lock().unwrap_or_else(PoisonError::into_inner);
    explorer.check(model);
    drop(alone);
    if mutation.is_some() {
        return; // the mutation goes undetected
    }
    for mutation in mutations {
        // In a process of its own: a failed model does not always end cleanly.
        let mut itself = Command::new(env::current_exe().unwrap());
        let test = test.trim_start_matches("models::");
        let run = itself
            .args(["--exact", test])
            .env(MUTATION, format!("{mutation:?}"))
            .env_remove("RUST_BACKTRACE")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&run.stdout);
        assert!(said.contains("running 1 test"), "there is no test {test}: {said}");
        assert!(!run.status.success(), "the model does not detect {mutation:?}");
    }
}

/// The environment variable that names the mutation under which a test runs its model.
const MUTATION: &str = "MODEL_MUTATION";

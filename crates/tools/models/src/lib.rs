//! Models of how processes share memory: the files of `multiproc` that use its thin layer over the atomics, compiled
//! against a model of memory instead. [loom](https://docs.rs/loom) runs them through all interleavings, and through all
//! values that a load may give under the rules of the language: on whatever processor.
//!
//! **To add a model**: name the file here, if it is not yet, and write a function of what two or three threads do to
//! it. It must neither deadlock (a lost wake-up is that), nor touch a byte that another thread may touch at that time,
//! nor end with anything else than it should. Then take away what it rests on: `sys::Lack` says what can be taken away,
//! and the model must find it. A model that finds nothing proves nothing.

#![cfg(test)]

#[allow(dead_code, unused_imports)]
#[path = "../../../multiproc/src/channel"]
mod channel {
    pub(crate) mod endpoint;
    pub(crate) mod wakeup_flag;
}

#[allow(dead_code)]
#[path = "../../../multiproc/src/ipc"]
mod ipc {
    pub(crate) mod event_count;
    pub(crate) mod frame;
    pub(crate) mod ring;
    #[path = "../../../tools/models/src/wire.rs"]
    pub(crate) mod wire;
}

#[allow(dead_code)]
#[path = "../../../multiproc/src/pool"]
mod pool {
    pub(crate) mod worker_rings {
        pub(crate) mod claim_word;
        pub(crate) mod progress;
        pub(crate) mod wakeups;
    }
}

mod error;
mod sys;

mod messages;
mod pool_worker;
mod waiting;

use std::env;
use std::process::Command;

use crate::sys::Lack;

/// Makes a test of a model: that it holds, with at most so many preemptions (nearly all mistakes need two), and that it
/// finds each of these lacks.
macro_rules! model {
    ($test:ident, $model:ident, $preemptions:literal, finds $lacks:expr) => {
        #[test]
        fn $test() {
            let test = concat!(module_path!(), "::", stringify!($test));
            crate::explore(test, $model, $preemptions, &$lacks);
        }
    };
}
use model;

fn explore(test: &str, model: fn(), preemptions: usize, lacks: &[Lack]) {
    let lack = env::var(LACK).ok();
    sys::lack(lacks.iter().copied().find(|known| lack == Some(format!("{known:?}"))));
    let mut explorer = loom::model::Builder::new();
    explorer.preemption_bound = Some(preemptions);
    explorer.check(model);
    if lack.is_some() {
        return; // it is not missed
    }
    for lack in lacks {
        // In a process of its own: a model that has failed does not always end in order.
        let mut itself = Command::new(env::current_exe().unwrap());
        let test = test.trim_start_matches("models::");
        let run = itself
            .args(["--exact", test])
            .env(LACK, format!("{lack:?}"))
            .env_remove("RUST_BACKTRACE")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&run.stdout);
        assert!(said.contains("running 1 test"), "there is no test {test}: {said}");
        assert!(!run.status.success(), "the model holds without {lack:?}");
    }
}

/// The variable that says which lack a process of ours is to look for.
const LACK: &str = "MODEL_LACK";

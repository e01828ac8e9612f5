//! A program that draws random numbers before `init` from every generator that it has, and then in children:
//! no number comes twice.

#![allow(clippy::unwrap_used, reason = "a fixture ends where something does not go as it should")]

use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::Mutex;

use multiproc::{Pool, Process, StartMethod};
use uuid::Uuid;

/// A generator that every thread of the process shares.
static SHARED: Mutex<u64> = Mutex::new(0);

fn seed_shared() {
    *SHARED.lock().unwrap() = rand::random();
}

/// The next number of each generator.
fn draw() -> BTreeMap<String, u128> {
    let shared = {
        let mut state = SHARED.lock().unwrap();
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *state
    };
    let numbers = [
        ("RandomState", RandomState::new().hash_one(0).into()),
        ("rand", rand::random()),
        ("fastrand", fastrand::u64(..).into()),
        ("uuid 4", Uuid::new_v4().as_u128()),
        ("uuid 7", Uuid::now_v7().as_u128()),
        ("a shared generator", shared.into()),
    ];
    numbers.map(|(name, number)| (name.to_owned(), number)).into()
}

fn draw_in_worker() -> (u32, BTreeMap<String, u128>) {
    (std::process::id(), draw())
}

fn main() {
    seed_shared();
    let mut draws = vec![draw()];
    multiproc::at_start(seed_shared).unwrap();
    multiproc::init();
    assert!(multiproc::at_start(seed_shared).is_err(), "no child would call it");
    tests::watched("random_numbers", || {
        for method in [StartMethod::ForkServer, StartMethod::Spawn] {
            for _ in 0..5 {
                let child = Process::builder().start_method(method).spawn(draw, ()).unwrap();
                draws.push(child.join().unwrap());
            }
            let pool = Pool::builder().workers(3).chunk_size(1).start_method(method).build().unwrap();
            let mut workers = HashSet::new();
            while workers.len() < 3 {
                let results = pool.starmap(draw_in_worker, vec![(); 30]).unwrap();
                workers.extend(results.iter().map(|(pid, _)| *pid));
                draws.extend(results.into_iter().map(|(_, draws)| draws));
            }
        }
        for name in draws[0].keys() {
            let distinct: HashSet<u128> = draws.iter().map(|draw| draw[name]).collect();
            let twice = draws.len() - distinct.len();
            println!("{name}: {twice} twice");
        }
    });
}
